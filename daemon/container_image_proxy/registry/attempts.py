"""The one policy of retries and mirrors: which endpoint is asked next, when, and when to give up.

A round asks all endpoints of an image in their order; those that failed lately come last. When all have failed and some
failure may pass, a pause and another round follow. ``Limits`` bounds rounds and pauses.
Must not send anything itself.
"""

from __future__ import annotations

import logging
import math
import random
import time
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from msgspec import Struct

from container_image_proxy.concurrency.context import Context
from container_image_proxy.config.limits import MIB
from container_image_proxy.errors import Error, OverloadedError, UpstreamError
from container_image_proxy.registry.endpoints import Endpoint
from container_image_proxy.registry.http.failures import ConnectionLostError, own_error

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import Self

    from container_image_proxy.config.limits import Limits
    from container_image_proxy.registry.endpoints import Health

_log = logging.getLogger(__name__)
_E = TypeVar("_E", bound=Endpoint)
_T = TypeVar("_T")
# A transfer that gets so far between two failures is worth going on with: a source that breaks off after a few bytes
# each time would otherwise be asked for ever. Both values are those of containers/image (docker/body_reader.go).
_ENOUGH_PROGRESS: Final = 1 * MIB
_LONG_AGO: Final = 60.0


class Clock(Struct, frozen=True):
    """Monotonic time, and sleeping under a context, both in seconds. Tests have one of their own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[Context, float], None] = Context.sleep


def has_progressed(offset: int, last_retry_offset: int | None, since_last_retry: float, minimum_rate: float) -> bool:
    """Whether a transfer that broke at ``offset`` may go on from there as if it had not failed before.

    True for its first failure. For a later one ``last_retry_offset`` is where the failure before it was, and
    ``since_last_retry`` how many seconds ago. True then if 1 MiB came since, or if a minute or more has passed in which
    ``minimum_rate`` (bytes per second) was kept.
    """
    if last_retry_offset is None:
        return True
    gained = offset - last_retry_offset
    is_steady = since_last_retry >= _LONG_AGO and gained >= max(1, minimum_rate * since_last_retry)
    return gained >= _ENOUGH_PROGRESS or is_steady


class Attempts(Generic[_E]):
    """The endpoints that one request asks, one after the other and in rounds. An iterator, which ends when to give up.

    It returns the same endpoint again until :meth:`failed` is called. ``endpoints`` are in the order of the
    configuration, the origin after its mirrors. ``first`` is asked before the others that have not failed lately.
    One thread uses it.
    """

    def __init__(
        self,
        context: Context,
        endpoints: Sequence[_E],
        health: Health,
        limits: Limits,
        clock: Clock,
        *,
        first: _E | None = None,
    ) -> None:
        self._context = context
        self._endpoints = tuple(endpoints)
        self._health = health
        self._limits = limits
        self._clock = clock
        self._first = first
        self._waiting = health.sort(self._endpoints, first)
        self._failures: dict[_E, Error] = {}
        self._persists = False
        self._is_over = False
        self._rounds = 0
        self._paused = 0.0
        self._failing_since = math.inf

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _E:
        """The endpoint to ask now, after a pause if all had their turn."""
        if not self._waiting and not self._is_over:
            self._waiting = self._next_round()
            self._is_over = not self._waiting
        if self._is_over:
            raise StopIteration
        return self._waiting[0]

    def ask(self, question: Callable[[_E], _T]) -> _T:
        """The first answer that an endpoint gives to ``question``. Raises the :attr:`verdict` if none does."""
        for endpoint in self:
            try:
                return question(endpoint)
            except OverloadedError:  # this daemon is short of memory, which no other endpoint can change
                raise
            except Exception as error:  # noqa: BLE001 - a defect is an error, too, and another endpoint is asked
                self.failed(own_error(error, endpoint.domain))
        raise self.verdict

    @property
    def endpoint(self) -> _E:
        """The endpoint that is asked at the moment."""
        return self._waiting[0]

    @property
    def verdict(self) -> Error:
        """The error to raise after the end: that of the origin, which also tells what the mirrors' errors were.

        If there was no time to ask the origin, it is the error of the endpoint that failed last.
        """
        *others, last = self._endpoints
        error = self._failures.get(last) or list(self._failures.values())[-1]
        told = "; ".join(
            f"{other.domain}: {self._failures[other]}" for other in others if self._failures.get(other, error) != error
        )
        return error.retold(f"{error} (before it: {told})") if told else error

    def progressed(self) -> None:
        """Start the counts anew, because the failures so far were overcome."""
        self._rounds = 0
        self._paused = 0.0
        self._failing_since = math.inf

    def failed(self, error: Error, *, persist: bool = False) -> None:
        """Turn to the next endpoint, because the present one failed with ``error``.

        Another round follows only if the origin's failure may pass: a mirror that is down does not make an image exist
        that the origin does not have. With ``persist`` any failure that may pass is enough, because some endpoint is
        known to have what we want.
        """
        self._failing_since = min(self._failing_since, self._clock.now())
        endpoint = self._waiting.pop(0)
        self._failures[endpoint] = error
        self._persists = persist
        # The request ran out of time, for which this endpoint need not be to blame.
        if self._context.deadline.left <= 0:
            self._waiting.clear()
            return
        self._health.note(endpoint, error)
        if self._waiting:
            _log.warning("%s failed, trying %s: %s", endpoint.domain, self.endpoint.domain, error)

    def distrust(self, suppliers: Collection[_E], error: Error) -> None:
        """Ask the mirrors among ``suppliers`` last from now on, because wrong content came from some of them.

        The origin is left out. It comes after its mirrors anyway, and is most likely right if one of them was wrong.
        """
        for endpoint in self._endpoints[:-1]:
            if endpoint in suppliers:
                _log.warning("%s is asked last from now on: %s", endpoint.domain, error)
                self._health.note(endpoint, error)

    def _next_round(self) -> list[_E]:
        """The endpoints whose failure may pass, after a pause; none if it is time to give up."""
        hopeful = [
            endpoint
            for endpoint in self._endpoints
            if isinstance(error := self._failures.get(endpoint), UpstreamError) and error.retryable
        ]
        can_help = bool(hopeful) if self._persists else self._endpoints[-1] in hopeful
        if not can_help or self._context.deadline.left <= 0:
            return []
        pause = self._next_pause([self._failures[endpoint] for endpoint in hopeful])
        self._rounds += 1
        # A round that would begin too late is not waited for: the client gets its error now.
        limits, time = self._limits, self._clock.now() + pause - self._failing_since
        is_too_late = self._paused + pause > limits.total_pause or time > limits.total_time
        if is_too_late or self._rounds >= limits.attempts:
            return []
        if pause:
            self._paused += pause
            try:
                self._clock.sleep(self._context, pause)
            except TimeoutError:
                return []
        return self._health.sort(hopeful, self._first)

    def _next_pause(self, errors: list[Error]) -> float:
        """Seconds: exponential with jitter, or as long as upstream asks for if that is longer."""
        # A kept connection that the server closed just before its use is no sign of trouble.
        if self._rounds == 0 and any(isinstance(error, ConnectionLostError) for error in errors):
            return 0.0
        asked = max((error.retry_after or 0.0 for error in errors if isinstance(error, UpstreamError)), default=0.0)
        # The jitter keeps clients that failed together from coming back together.
        backoff: float = self._limits.backoff * 2**self._rounds * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        return min(max(backoff, asked), self._limits.longest_pause)
