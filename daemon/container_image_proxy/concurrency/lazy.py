"""A value that is made at its first use, once for all threads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Lazy(Generic[T]):
    """Calling it returns the value, which the first call makes."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: list[T] = []  # empty or one item, because None can be a value

    @property
    def is_made(self) -> bool:
        """Whether the value has been made."""
        return bool(self._made)

    def __call__(self) -> T:
        """The value. Raises what ``make`` raises; the next call then tries again."""
        with self._lock:
            if not self._made:
                self._made.append(self._make())
            return self._made[0]
