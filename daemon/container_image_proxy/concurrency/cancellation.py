"""Cancellation: work learns that nobody waits for its outcome any more, and ends.

Whoever starts work on a client's behalf runs it :func:`under` a token; whoever waits within that work does so by
:func:`sleep`, in slices between which it does a :func:`check`, or with a callback of the :func:`current` token.
"""

from __future__ import annotations

import contextlib
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

SLICE: Final = 0.25
"""Seconds that a wait which cannot be woken may last before it does a :func:`check`."""


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


_NEVER: Final = Cancellation()
_current: ContextVar[Cancellation] = ContextVar("cancellation", default=_NEVER)


def current() -> Cancellation:
    """The token that this thread works under; one that nobody cancels if there is none."""
    return _current.get()


@contextlib.contextmanager
def under(token: Cancellation) -> Generator[None, None, None]:
    """Let this thread work under ``token`` meanwhile, and under no other."""
    before = _current.set(token)
    try:
        yield
    finally:
        _current.reset(before)


@contextlib.contextmanager
def within(seconds: float) -> Generator[None, None, None]:
    """Cancel what this thread does meanwhile when ``seconds`` are over: ``TimeoutError``.

    :class:`CancelledError` if its own token was cancelled before.
    """
    outer, inner = current(), Cancellation()
    timer = threading.Timer(max(0.0, seconds), inner.cancel)
    timer.daemon = True
    with outer.calling(inner.cancel), under(inner):
        timer.start()
        try:
            yield
        except CancelledError:
            if outer.is_cancelled:
                raise
            raise TimeoutError(f"not done within {seconds:g} s") from None
        finally:
            timer.cancel()


def check() -> None:
    """Raise :class:`CancelledError` if the current token is cancelled."""
    if _current.get().is_cancelled:
        raise CancelledError


def sleep(seconds: float) -> None:
    """Let time pass; :class:`CancelledError` as soon as the current token is cancelled."""
    woken = threading.Event()
    with _current.get().calling(woken.set):
        woken.wait(seconds)
    check()
