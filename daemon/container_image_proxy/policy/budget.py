"""The time that verification of one image may take, and whether a client still waits for its result.

Whoever can store a signature beside an image decides what the daemon computes, so this time is limited
(contrib/adr/0019). Every function that may take long gets the budget and checks it between steps. Each step is short
because its input is bounded. Waits for a program or a lock end with the budget. The network has limits of its own, so
the budget is paused while signatures are fetched.
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
    """A number of seconds that starts now and stops while :meth:`paused`. One thread uses it.

    ``cancellation`` ends it at once. ``clock`` returns seconds and is monotonic.
    """

    def __init__(self, seconds: float, cancellation: Cancellation, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._cancellation = cancellation
        self._clock = clock
        self._end = clock() + seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A block during which the time does not count."""
        left = self.left
        try:
            yield
        finally:
            self._end = self._clock() + left

    @property
    def left(self) -> float:
        """The seconds that remain; 0 or less when the budget is used up."""
        return self._end - self._clock()

    @property
    def patience(self) -> float:
        """The longest wait, in seconds, before the next :meth:`check`.

        Waits for locks and processes cannot be woken by a cancellation, so they are cut into slices.
        """
        return min(SLICE, max(0.0, self.left))

    def check(self) -> None:
        """Raise :class:`CancelledError` if the work is cancelled, :class:`VerificationTimeoutError` if time is over."""
        if self._cancellation.is_cancelled:
            raise CancelledError
        if self.left <= 0:
            raise VerificationTimeoutError(
                f"verification did not end within {self._seconds:g} s, which is what verification-timeout allows"
            )

    @contextlib.contextmanager
    def holding(self, lock: threading.Lock) -> Iterator[None]:
        """A block during which ``lock`` is held.

        Errors as :meth:`check`, if the budget ends before the lock is free.
        """
        # In slices: nothing wakes a thread that waits for a lock, and its client may leave.
        while not lock.acquire(timeout=self.patience):
            self.check()
        try:
            yield
        finally:
            lock.release()
