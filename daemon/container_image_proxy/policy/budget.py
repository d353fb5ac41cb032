"""The time that verifying an image may compute, and whether anybody still waits for the outcome.

Whatever computes on behalf of a verification is given the budget and checks it between its steps, each of which is
short because its input is bounded. What a step waits for (a program, a lock) is waited for no longer than the budget
lasts. Time that is spent on the network does not count: it has bounds of its own.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from container_image_proxy.concurrency.cancellation import SLICE, CancelledError
from container_image_proxy.errors import VerificationTimeoutError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from container_image_proxy.concurrency.cancellation import Cancellation


class Budget:
    """Seconds that run from now on, but not while they are :meth:`paused`; for one thread.

    ``cancellation`` ends it at once.
    """

    def __init__(self, seconds: float, cancellation: Cancellation, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._cancellation = cancellation
        self._clock = clock
        self._end = clock() + seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let time pass that does not count."""
        left = self.left
        try:
            yield
        finally:
            self._end = self._clock() + left

    @property
    def left(self) -> float:
        """The seconds that are left; 0 or less if it is used up."""
        return self._end - self._clock()

    @property
    def patience(self) -> float:
        """How long to wait before the next :meth:`check`, in seconds."""
        return min(SLICE, max(0.0, self.left))

    def check(self) -> None:
        """Raise :class:`VerificationTimeoutError` if the time is over, :class:`CancelledError` if nobody waits."""
        if self._cancellation.is_cancelled:
            raise CancelledError
        if self.left <= 0:
            raise VerificationTimeoutError(
                f"verification did not end within {self._seconds:g} s, which is what verification-timeout allows"
            )

    @contextlib.contextmanager
    def holding(self, lock: threading.Lock) -> Iterator[None]:
        """Hold the lock, waiting for it as long as the budget lasts."""
        while not lock.acquire(timeout=self.patience):
            self.check()
        try:
            yield
        finally:
            lock.release()
