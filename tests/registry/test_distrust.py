"""Who sent wrong content is remembered, and asked last."""

from __future__ import annotations

import pytest

from container_image_proxy.config.limits import Limits
from container_image_proxy.errors import DigestMismatchError, Error, SizeMismatchError, UnknownBlobError
from container_image_proxy.registry.attempts import Attempts
from container_image_proxy.registry.endpoints import Endpoint, Health
from tests.support.contexts import CONTEXT
from tests.support.registry_client import FakeClock

FIRST, SECOND = (Endpoint(domain=f"{name}.example", is_mirror=True) for name in ("first", "second"))
ORIGIN = Endpoint(domain="origin.example")
ALL = (FIRST, SECOND, ORIGIN)
LIMITS = Limits()


def order_after(*suppliers: Endpoint, later: float = 0.0, preferred: Endpoint | None = None) -> list[Endpoint]:
    """In which order the endpoints are asked once these supplied wrong content."""
    clock = FakeClock()
    health = Health(LIMITS, clock.now)
    Attempts(CONTEXT, ALL, health, LIMITS, clock.clock).distrust(set(suppliers), DigestMismatchError("wrong"))
    clock.time += later
    return health.sort(ALL, preferred)


@pytest.mark.demand("mirror-corrupt-blob")
def test_the_mirrors_that_contributed_go_behind_the_others() -> None:
    assert order_after(FIRST) == [SECOND, ORIGIN, FIRST]
    assert order_after(FIRST, SECOND) == [ORIGIN, FIRST, SECOND]


def test_the_origin_is_not_blamed_for_what_a_mirror_began() -> None:
    assert order_after(FIRST, ORIGIN) == [SECOND, ORIGIN, FIRST]


def test_who_had_the_manifest_is_not_preferred_any_more() -> None:
    assert order_after(FIRST, preferred=FIRST) == [SECOND, ORIGIN, FIRST]


def test_it_is_forgotten_in_time() -> None:
    assert order_after(FIRST, later=LIMITS.endpoint_distrust - 1) == [SECOND, ORIGIN, FIRST]
    assert order_after(FIRST, later=LIMITS.endpoint_distrust + 1) == list(ALL)


@pytest.mark.parametrize(
    ("endpoint", "error"),
    [(FIRST, UnknownBlobError("none")), (ORIGIN, SizeMismatchError("the author may have written it so"))],
)
def test_what_need_not_be_its_fault_is_not_held_against_an_endpoint(endpoint: Endpoint, error: Error) -> None:
    health = Health(LIMITS, FakeClock().now)
    health.note(endpoint, error)
    assert health.sort([endpoint, SECOND]) == [endpoint, SECOND]


@pytest.mark.demand("mirror-corrupt-blob")
def test_a_mirror_whose_copy_has_another_size_goes_behind_the_others() -> None:
    health = Health(LIMITS, FakeClock().now)
    health.note(FIRST, SizeMismatchError("longer"))
    assert health.sort(ALL) == [SECOND, ORIGIN, FIRST]
