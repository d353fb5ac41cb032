"""One run for all who want the same thing at the same time: they share its value, or its error.

A run belongs to nobody: it goes on for the others when one of them is cancelled, be it the one whose thread it has, and
is cancelled itself when all are.
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
    """A run under way, and the ``seats`` of those who still want its outcome."""

    def __init__(self) -> None:
        self.outcome: Future[T] = Future()
        self.cancellation = Cancellation()
        self.seats: set[object] = set()


class SingleFlight(Generic[T]):
    """Runs under way, by what they are about. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._flights: dict[Hashable, _Flight[T]] = {}

    def run(self, context: Context, key: Hashable, call: Callable[[Context], T]) -> T:
        """What ``call`` returns or raises, or what the run with this key does that is under way already.

        ``call`` gets the run's own context, which ends when nobody waits for the run any more. While another thread has
        it: :class:`CancelledError` as soon as ``context`` is cancelled, ``TimeoutError`` when its time is over.
        """
        seat = object()
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
            del flight, running  # an error knows this frame, and so it would keep all that the call had in hand alive

    def _take_off(self, context: Context, key: Hashable, flight: _Flight[T], call: Callable[[Context], T]) -> None:
        try:
            flight.outcome.set_result(call(context.under(flight.cancellation)))
        except Error as error:
            flight.outcome.set_exception(_bare(error))
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
                self._remove(key, flight)  # whoever comes now needs a run that goes on
            self._changed.notify_all()
        if is_abandoned:
            flight.cancellation.cancel()

    def _remove(self, key: Hashable, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


def _bare(error: Error) -> Error:
    """The error without the frames that it came through, and without those that led to it.

    Its text tells all. What the call had in hand, documents of megabytes, would live on for as long as anybody is still
    at answering, or until the collector of cycles finds it.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
