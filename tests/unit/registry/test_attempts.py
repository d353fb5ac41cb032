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


def fail_until_the_end(attempts: Attempts[Endpoint], error: Error) -> tuple[int, Error]:
    """How many attempts it took, and the last error."""
    for count in range(1, 100):
        try:
            attempts.failed(error)
        except Error as final:
            return count, final
    pytest.fail("it never ends")


def test_the_next_endpoint_is_asked_at_once() -> None:
    clock = FakeClock()
    attempts = attempts_over(MIRROR, ORIGIN, clock=clock)
    assert attempts.endpoint is MIRROR
    attempts.failed(unavailable())
    assert attempts.endpoint is ORIGIN
    assert clock.slept == []


@pytest.mark.demand("5xx-then-ok")
def test_rounds_and_pauses_are_bounded() -> None:
    clock = FakeClock()
    count, _ = fail_until_the_end(attempts_over(ORIGIN, clock=clock), unavailable())
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

    count, _ = fail_until_the_end(attempts_over(ORIGIN, clock=PassingClock()), unavailable())
    assert count < LIMITS.attempts


@pytest.mark.demand("429-retry-after")
@pytest.mark.parametrize(("asked", "pauses"), [(3.0, [3.0] * 3), (100_000.0, [60.0, 60.0]), (None, None)])
def test_retry_after_is_honoured_and_capped(asked: float | None, pauses: list[float] | None) -> None:
    clock = FakeClock()
    limited = RateLimitedError("slowly", upstream_status=429, retryable=True, retry_after=asked)
    _, final = fail_until_the_end(attempts_over(ORIGIN, clock=clock), limited)
    assert final is limited
    if pauses:
        assert clock.slept[: len(pauses)] == pauses
    assert sum(clock.slept) <= LIMITS.total_pause


def test_a_lost_connection_is_tried_again_at_once_but_once() -> None:
    clock = FakeClock()
    attempts = attempts_over(ORIGIN, clock=clock)
    attempts.failed(ConnectionLostError("lost", retryable=True))
    assert clock.slept == []
    attempts.failed(ConnectionLostError("lost", retryable=True))
    assert len(clock.slept) == 1


@pytest.mark.demand("mirror-down")
def test_the_final_error_is_the_origins_and_tells_of_the_mirrors() -> None:
    attempts = attempts_over(MIRROR, ORIGIN, clock=FakeClock())
    attempts.failed(RegistryError("broken mirror"))
    with pytest.raises(UnknownManifestError, match=r"not there.*mirror\.example: broken mirror"):
        attempts.failed(UnknownManifestError("not there"))


@pytest.mark.demand("mirror-down")
def test_an_error_that_several_requests_met_with_tells_each_of_its_own_mirrors_only() -> None:
    shared = RegistryUnavailableError("no token", endpoint="r.example", retryable=False)
    told = []
    for _ in range(2):
        attempts = attempts_over(MIRROR, ORIGIN, clock=FakeClock())
        attempts.failed(RegistryError("broken mirror"))
        with pytest.raises(RegistryUnavailableError) as caught:
            attempts.failed(shared)
        assert caught.value.endpoint == "r.example"
        told.append(str(caught.value))
    assert told == ["no token (before it: mirror.example: broken mirror)"] * 2


def test_a_verdict_of_the_origin_is_not_delayed_by_a_mirror_that_may_recover() -> None:
    clock = FakeClock()
    attempts = attempts_over(MIRROR, ORIGIN, clock=clock)
    attempts.failed(unavailable())
    with pytest.raises(UnknownManifestError):
        attempts.failed(UnknownManifestError("not there"))
    assert clock.slept == []


def test_persistence_asks_whoever_may_recover_again() -> None:
    attempts = attempts_over(MIRROR, ORIGIN, clock=FakeClock())
    attempts.failed(unavailable(), persist=True)
    attempts.failed(UnknownManifestError("not there"), persist=True)
    assert attempts.endpoint is MIRROR


def test_who_cannot_recover_is_not_asked_again() -> None:
    attempts = attempts_over(MIRROR, ORIGIN, clock=FakeClock())
    attempts.failed(RegistryError("no"))
    attempts.failed(unavailable())
    assert attempts.endpoint is ORIGIN
    attempts.failed(unavailable())
    assert attempts.endpoint is ORIGIN


def test_progress_starts_the_count_anew() -> None:
    attempts = attempts_over(ORIGIN, clock=FakeClock())
    for _ in range(LIMITS.attempts - 1):
        attempts.failed(unavailable())
    attempts.progressed()
    count, _ = fail_until_the_end(attempts, unavailable())
    assert count == LIMITS.attempts


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
