"""Cancellation: ends work whose client has left (contrib/adr/0014).

Work has a token in its :class:`Context`. Code that waits either registers a callback with the token, or waits in slices
and checks the token in between.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

SLICE: Final = 0.25
"""Seconds of a wait that cannot be woken, before the token is checked again."""


class CancelledError(BaseException):
    """The work was cancelled.

    Like ``asyncio.CancelledError`` it is no ``Exception``: no handler of failures may retry, report or count it.
    """


class Cancellation:
    """A token that any thread can cancel, once and for ever. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []
        self.is_cancelled = False

    def cancel(self) -> None:
        """Cancel the token and call the registered callbacks in this thread."""
        with self._lock:
            self.is_cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:  # without the lock, because a callback may take locks of its own
            callback()

    @contextlib.contextmanager
    def calling(self, callback: Callable[[], object]) -> Generator[None, None, None]:
        """A block during which ``callback`` is called once if the token is cancelled, or at once if it already is."""
        with self._lock:
            is_late = self.is_cancelled
            if not is_late:
                self._callbacks.append(callback)
        if is_late:
            callback()
        try:
            yield
        finally:
            with self._lock, contextlib.suppress(ValueError):  # it is gone if the token was cancelled
                self._callbacks.remove(callback)
