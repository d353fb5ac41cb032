"""The policy of retries and mirrors, without any network."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from container_image_proxy.config.limits import MIB, Limits
from container_image_proxy.errors import (
    Error,
    RateLimitedError,
    RegistryError,
    RegistryUnavailableError,
    UnknownManifestError,
    UpstreamTimeoutError,
)
from container_image_proxy.registry.attempts import Attempts, has_progressed
from container_image_proxy.registry.endpoints import Endpoint, Health
from container_image_proxy.registry.http.failures import ConnectionLostError
from tests.support.contexts import CONTEXT
from tests.support.registry_client import FakeClock

MIRROR = Endpoint(domain="mirror.example", is_mirror=True)
ORIGIN = Endpoint(domain="origin.example")
LIMITS = Limits()


def unavailable() -> Error:
    return RegistryUnavailableError("503", upstream_status=503, retryable=True)


def attempts_over(*endpoints: Endpoint, clock: FakeClock, limits: Limits = LIMITS) -> Attempts[Endpoint]:
    return Attempts(CONTEXT, endpoints, Health(limits, clock.now), limits, clock.clock)


def fail_until_the_end(attempts: Attempts[Endpoint], error: Error) -> int:
    """How many attempts it took."""
    count = 0
    for _ in attempts:
        count += 1
        attempts.failed(error)
        assert count < 100
    return count


def asked(attempts: Attempts[Endpoint], *errors: Error) -> list[Endpoint]:
    """Who is asked, in this order, if the answers are these errors."""
    who = []
    for error, endpoint in zip(errors, attempts, strict=False):
        who.append(endpoint)
        attempts.failed(error)
    return who


def test_the_next_endpoint_is_asked_at_once() -> None:
    clock = FakeClock()
    assert asked(attempts_over(MIRROR, ORIGIN, clock=clock), unavailable(), unavailable()) == [MIRROR, ORIGIN]
    assert clock.slept == []


def test_who_has_not_failed_is_asked_again() -> None:
    attempts = attempts_over(MIRROR, ORIGIN, clock=FakeClock())
    assert next(attempts) is next(attempts) is attempts.endpoint is MIRROR


def test_what_has_ended_has_ended_for_good() -> None:
    attempts = attempts_over(ORIGIN, clock=FakeClock())
    assert asked(attempts, RegistryError("no")) == [ORIGIN]
    assert [list(attempts), list(attempts)] == [[], []]


@pytest.mark.demand("LIM-signatures")
def test_nobody_else_is_asked_and_nobody_blamed_when_the_time_is_over() -> None:
    clock = FakeClock()
    health = Health(LIMITS, clock.now)
    attempts = Attempts(CONTEXT.within(0), [MIRROR, ORIGIN], health, LIMITS, clock.clock)
    late = UpstreamTimeoutError("late", retryable=True)
    assert asked(attempts, late) == [MIRROR]
    assert list(attempts) == []
    assert attempts.verdict is late
    assert health.sort([MIRROR, ORIGIN]) == [MIRROR, ORIGIN]


def test_a_pause_ends_with_the_time_that_is_left() -> None:
    class Clock(FakeClock):
        def sleep(self, *_: object) -> None:
            raise TimeoutError

    attempts = attempts_over(ORIGIN, clock=Clock())
    error = unavailable()
    assert fail_until_the_end(attempts, error) == 1
    assert attempts.verdict is error


@pytest.mark.demand("5xx-then-ok")
def test_rounds_and_pauses_are_bounded() -> None:
    clock = FakeClock()
    count = fail_until_the_end(attempts_over(ORIGIN, clock=clock), unavailable())
    assert count == LIMITS.attempts
    assert len(clock.slept) == LIMITS.attempts - 1
    for number, pause in enumerate(clock.slept):
        assert LIMITS.backoff * 2**number / 2 <= pause <= LIMITS.backoff * 2**number


@pytest.mark.demand("stall-headers")
def test_rounds_that_take_their_time_are_fewer() -> None:
    @dataclass
    class PassingClock(FakeClock):
        def now(self) -> float:
            self.time += LIMITS.total_time / 4
            return self.time

    count = fail_until_the_end(attempts_over(ORIGIN, clock=PassingClock()), unavailable())
    assert count < LIMITS.attempts


@pytest.mark.demand("429-retry-after")
@pytest.mark.parametrize(("asked", "pauses"), [(3.0, [3.0] * 3), (100_000.0, [60.0, 60.0]), (None, None)])
def test_retry_after_is_honoured_and_capped(asked: float | None, pauses: list[float] | None) -> None:
    clock = FakeClock()
    limited = RateLimitedError("slowly", upstream_status=429, retryable=True, retry_after=asked)
    attempts = attempts_over(ORIGIN, clock=clock)
    fail_until_the_end(attempts, limited)
    assert attempts.verdict is limited
    if pauses:
        assert clock.slept[: len(pauses)] == pauses
    assert sum(clock.slept) <= LIMITS.total_pause


def test_a_lost_connection_is_tried_again_at_once_but_once() -> None:
    clock = FakeClock()
    attempts = attempts_over(ORIGIN, clock=clock)
    lost = ConnectionLostError("lost", retryable=True)
    assert asked(attempts, lost) == [next(attempts)]
    assert clock.slept == []
    assert asked(attempts, lost) == [next(attempts)]
    assert len(clock.slept) == 1


@pytest.mark.demand("mirror-down")
def test_the_final_error_is_the_origins_and_tells_of_the_mirrors() -> None:
    attempts = attempts_over(MIRROR, ORIGIN, clock=FakeClock())
    asked(attempts, RegistryError("broken mirror"), UnknownManifestError("not there"))
    assert list(attempts) == []
    assert isinstance(attempts.verdict, UnknownManifestError)
    assert str(attempts.verdict) == "not there (before it: mirror.example: broken mirror)"


@pytest.mark.demand("mirror-down")
def test_an_error_that_several_requests_met_with_tells_each_of_its_own_mirrors_only() -> None:
    shared = RegistryUnavailableError("no token", endpoint="r.example", retryable=False)
    told = []
    for _ in range(2):
        attempts = attempts_over(MIRROR, ORIGIN, clock=FakeClock())
        asked(attempts, RegistryError("broken mirror"), shared)
        verdict = attempts.verdict
        assert isinstance(verdict, RegistryUnavailableError)
        assert verdict.endpoint == "r.example"
        told.append(str(verdict))
    assert told == ["no token (before it: mirror.example: broken mirror)"] * 2


def test_a_verdict_of_the_origin_is_not_delayed_by_a_mirror_that_may_recover() -> None:
    clock = FakeClock()
    attempts = attempts_over(MIRROR, ORIGIN, clock=clock)
    asked(attempts, unavailable(), UnknownManifestError("not there"))
    assert list(attempts) == []
    assert clock.slept == []


def test_persistence_asks_whoever_may_recover_again() -> None:
    attempts = attempts_over(MIRROR, ORIGIN, clock=FakeClock())
    for error in (unavailable(), UnknownManifestError("not there")):
        next(attempts)
        attempts.failed(error, persist=True)
    assert next(attempts) is MIRROR


def test_who_cannot_recover_is_not_asked_again() -> None:
    attempts = attempts_over(MIRROR, ORIGIN, clock=FakeClock())
    answers = [RegistryError("no"), unavailable(), unavailable(), unavailable()]
    assert asked(attempts, *answers) == [MIRROR, ORIGIN, ORIGIN, ORIGIN]


def test_progress_starts_the_count_anew() -> None:
    attempts = attempts_over(ORIGIN, clock=FakeClock())
    asked(attempts, *[unavailable()] * (LIMITS.attempts - 1))
    next(attempts)
    attempts.progressed()
    assert fail_until_the_end(attempts, unavailable()) == LIMITS.attempts


@pytest.mark.parametrize(
    ("offset", "last", "seconds", "progressed"),
    [
        (1, None, 0.0, True),
        (3 * MIB, 2 * MIB, 0.0, True),
        (3 * MIB - 1, 2 * MIB, 0.0, False),
        (3 * MIB - 1, 2 * MIB, 60.0, True),
        (2 * MIB + 3, 2 * MIB, 61.0, False),
        (3 * MIB - 1, 2 * MIB, 3600.0, False),
        (2 * MIB, 2 * MIB, 3600.0, False),
    ],
)
def test_what_counts_as_progress(offset: int, last: int | None, seconds: float, *, progressed: bool) -> None:
    assert has_progressed(offset, last, seconds, LIMITS.minimum_rate) is progressed
