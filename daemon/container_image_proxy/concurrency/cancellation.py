"""Cancellation: work learns that nobody waits for its outcome any more, and ends.

Work has its token in its :class:`Context`. Whoever waits within it does so in slices, between which it looks whether
the token is cancelled, or with a callback of the token.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

SLICE: Final = 0.25
"""Seconds that a wait which cannot be woken may last before it looks whether it is cancelled."""


class CancelledError(BaseException):
    """Nobody waits any more. Not an ``Exception``: it is no failure that could be retried, reported or held against
    anybody (cf. ``asyncio.CancelledError``).
    """


class Cancellation:
    """A token: cancelled once and for good, by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []
        self.is_cancelled = False

    def cancel(self) -> None:
        """Call whoever wants to be called, in this thread; everybody else sees it at the next check."""
        with self._lock:
            self.is_cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    @contextlib.contextmanager
    def calling(self, callback: Callable[[], object]) -> Generator[None, None, None]:
        """Have ``callback`` called once if the token is cancelled meanwhile, or is already."""
        with self._lock:
            is_late = self.is_cancelled
            if not is_late:
                self._callbacks.append(callback)
        if is_late:
            callback()
        try:
            yield
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._callbacks.remove(callback)
