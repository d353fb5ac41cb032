"""Runs work once for all threads that ask for the same at the same time. They share its value or its error.

The run goes on for the others when one of them is cancelled, even the one in whose thread it runs. It is cancelled when
all of them are.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from container_image_proxy.concurrency.context import Context

T = TypeVar("T")


class _Flight(Generic[T]):
    """A run, and the ``seats`` of the callers that still wait for its outcome."""

    def __init__(self) -> None:
        self.outcome: Future[T] = Future()
        self.cancellation = Cancellation()
        self.seats: set[object] = set()


class SingleFlight(Generic[T]):
    """The current runs, by key. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._flights: dict[Hashable, _Flight[T]] = {}

    def run(self, context: Context, key: Hashable, call: Callable[[Context], T]) -> T:
        """What ``call`` returns or raises; if a run with this ``key`` is under way, what that run returns or raises.

        ``call`` gets a context that is cancelled when all callers of the run are. A caller that waits for another
        thread's run gets :class:`CancelledError` or ``TimeoutError`` as soon as its own ``context`` ends.
        """
        seat = object()  # stands for this caller, because one thread or context may call more than once
        with self._changed:
            running = self._flights.get(key)
            flight = self._flights[key] = running or _Flight()
            flight.seats.add(seat)
        try:
            with context.cancellation.calling(partial(self._leave, key, flight, seat)):
                if running is None:
                    self._take_off(context, key, flight, call)
                else:
                    self._wait(context, key, flight, seat)
            return flight.outcome.result()
        finally:
            # An error refers to this frame, and the frame would keep the run alive, with all documents in its own
            # frames.
            del flight, running

    def _take_off(self, context: Context, key: Hashable, flight: _Flight[T], call: Callable[[Context], T]) -> None:
        try:
            flight.outcome.set_result(call(context.under(flight.cancellation)))
        except Error as error:
            # The text tells all that is needed. The frames of the traceback, and of the errors that led to this one,
            # would keep documents of megabytes until the last caller has answered, or the collector of cycles runs.
            error.__cause__ = error.__context__ = None
            flight.outcome.set_exception(error.with_traceback(None))
        except BaseException as error:  # noqa: BLE001 - result() raises it, here and wherever else it is awaited
            flight.outcome.set_exception(error)
        finally:
            with self._changed:
                self._remove(key, flight)
                self._changed.notify_all()
            del flight  # as above

    def _wait(self, context: Context, key: Hashable, flight: _Flight[T], seat: object) -> None:
        left = min(context.deadline.left, threading.TIMEOUT_MAX)
        with self._changed:
            self._changed.wait_for(lambda: flight.outcome.done() or seat not in flight.seats, left)
        if not flight.outcome.done():
            self._leave(key, flight, seat)
            context.check()
            raise CancelledError

    def _leave(self, key: Hashable, flight: _Flight[T], seat: object) -> None:
        with self._changed:
            flight.seats.discard(seat)
            is_abandoned = not flight.seats
            if is_abandoned:
                self._remove(key, flight)  # a caller that comes now must not join a run that ends
            self._changed.notify_all()
        if is_abandoned:
            flight.cancellation.cancel()

    def _remove(self, key: Hashable, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
