"""One run for all who want the same thing at the same time: they share its value, or its error."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Runs under way, by what they are about. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, Future[T]] = {}

    def run(self, key: Hashable, call: Callable[[], T]) -> T:
        """What ``call`` returns or raises, or what the run with this key does that is under way already."""
        with self._lock:
            running = self._flights.get(key)
            flight = self._flights[key] = running or Future()
        try:
            if running is None:
                self._take_off(key, flight, call)
            return flight.result()
        finally:
            del flight, running  # an error knows this frame, and so it would keep all that the call had in hand alive

    def _take_off(self, key: Hashable, flight: Future[T], call: Callable[[], T]) -> None:
        try:
            flight.set_result(call())
        except BaseException as error:  # noqa: BLE001 - result() raises it, here and wherever else it is awaited
            flight.set_exception(error)
        finally:
            with self._lock:
                del self._flights[key]
            del flight  # as above
