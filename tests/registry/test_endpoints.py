"""Endpoints and what is remembered of them."""

from __future__ import annotations

import pytest

from container_image_proxy.config.limits import Limits
from container_image_proxy.config.registries import PullSource
from container_image_proxy.errors import (
    Error,
    RateLimitedError,
    RegistryError,
    RegistryUnavailableError,
    UpstreamTimeoutError,
)
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.registry.endpoints import Endpoint, Health, repository_of
from container_image_proxy.registry.http.failures import ConnectionLostError
from container_image_proxy.registry.http.origin import Origin
from tests.support.registry_client import FakeClock

MIRROR = Endpoint(domain="mirror.example", is_mirror=True)
ORIGIN = Endpoint(domain="origin.example")
REST = Limits().endpoint_rest


@pytest.mark.parametrize(
    ("domain", "authority", "host"),
    [
        ("docker.io", "registry-1.docker.io", "registry-1.docker.io"),
        ("quay.io", "quay.io", "quay.io"),
        ("Localhost:5000", "Localhost:5000", "localhost"),
        ("[::1]:5000", "[::1]:5000", "::1"),
    ],
)
def test_where_an_endpoint_is(domain: str, authority: str, host: str) -> None:
    endpoint = Endpoint(domain=domain)
    assert (endpoint.authority, endpoint.host) == (authority, host)


@pytest.mark.parametrize(
    ("configured", "tls_verify", "insecure"),
    [(False, None, False), (True, None, True), (False, False, True), (True, True, False)],
)
def test_the_option_overrides_the_file(*, configured: bool, tls_verify: bool | None, insecure: bool) -> None:
    source = PullSource(parse_reference("quay.io/a:1"), insecure=configured)
    assert repository_of(source, tls_verify=tls_verify).insecure is insecure


@pytest.mark.parametrize(
    ("error", "rest"),
    [
        (UpstreamTimeoutError("stalled", retryable=True), REST),
        (RegistryUnavailableError("refused", retryable=True), REST),
        (RateLimitedError("slowly", upstream_status=429, retry_after=5.0), 5.0),
        (RateLimitedError("slowly", upstream_status=429, retry_after=9000.0), 60.0),
        (RegistryUnavailableError("503", upstream_status=503, retryable=True), 0.0),
        (ConnectionLostError("reset", retryable=True), 0.0),
        (RegistryError("no"), 0.0),
    ],
)
def test_who_failed_rests_a_while(error: Error, rest: float) -> None:
    clock = FakeClock()
    health = Health(Limits(), clock.now)
    health.note(MIRROR, error)
    if rest:
        clock.time += rest - 0.1
        assert health.sort([MIRROR, ORIGIN]) == [ORIGIN, MIRROR]
        clock.time += 0.2
    assert health.sort([MIRROR, ORIGIN]) == [MIRROR, ORIGIN]


def test_who_is_preferred_goes_first_unless_it_rests() -> None:
    health = Health(Limits(), FakeClock().now)
    assert health.sort([MIRROR, ORIGIN], ORIGIN) == [ORIGIN, MIRROR]
    health.note(ORIGIN, UpstreamTimeoutError("stalled"))
    assert health.sort([MIRROR, ORIGIN], ORIGIN) == [MIRROR, ORIGIN]


@pytest.mark.parametrize(
    ("domain", "origin", "same"),
    [
        ("a.example", Origin("https", "a.example", 443), True),
        ("a.example:443", Origin("https", "a.example", 443), True),
        ("a.example", Origin("http", "a.example", 80), True),
        ("a.example:5000", Origin("http", "a.example", 5000), True),
        ("a.example", Origin("https", "a.example", 444), False),
        ("a.example:443", Origin("http", "a.example", 80), False),
        ("a.example", Origin("https", "b.example", 443), False),
        ("docker.io", Origin("https", "registry-1.docker.io", 443), True),
        ("[::1]:5000", Origin("https", "::1", 5000), True),
    ],
)
def test_which_origin_is_the_endpoint_itself(domain: str, origin: Origin, *, same: bool) -> None:
    assert Endpoint(domain=domain).is_at(origin) is same
