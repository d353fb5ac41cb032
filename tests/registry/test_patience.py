"""How long a registry may take in all, though each of its steps is in time."""

from __future__ import annotations

import pytest

from container_image_proxy.config.limits import Limits
from container_image_proxy.errors import UpstreamError, UpstreamTimeoutError
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import Descriptor
from container_image_proxy.image.reference import Reference, parse_reference
from tests.support.contexts import CONTEXT
from tests.support.readers import read_all
from tests.support.registry_client import FakeClock, registry_client
from tests.support.upstream import Connection, ReceivedRequest, Upstream, breaking

PAUSE = 0.25


def reference_at(upstream: Upstream) -> Reference:
    return parse_reference(f"{upstream.authority}/some/image:latest")


@pytest.mark.demand("redirect-loop")
@pytest.mark.demand("stall-headers")
def test_redirects_do_not_add_to_the_time_of_a_request() -> None:
    def handle(request: ReceivedRequest, connection: Connection) -> None:
        hop = int(request.target.partition("hop=")[2] or 0)
        connection.pause(PAUSE)
        connection.answer(307, headers={"Location": f"{request.path}?hop={hop + 1}"})

    limits = Limits(connect_timeout=PAUSE / 2, first_byte_timeout=2 * PAUSE, attempts=1)
    with Upstream(handle) as upstream:
        with registry_client(limits=limits, clock=FakeClock()) as client, pytest.raises(UpstreamTimeoutError):
            client.fetch_manifest(CONTEXT, reference_at(upstream))
        assert len(upstream.requests) <= 4, "the time is for three"


@pytest.mark.demand("stall-headers")
def test_a_login_does_not_add_to_the_time_of_an_answer_beyond_all_measure() -> None:
    def handle(request: ReceivedRequest, connection: Connection) -> None:
        connection.pause(PAUSE)
        if request.path == "/token":
            connection.answer(200, b'{"token":"good"}')
        else:
            connection.answer(401, headers={"WWW-Authenticate": f'Bearer realm="{upstream.url}/token"'})

    limits = Limits(answer_timeout=1.5 * PAUSE, attempts=1)
    with Upstream(handle) as upstream:
        with registry_client(limits=limits, clock=FakeClock()) as client, pytest.raises(UpstreamTimeoutError):
            client.fetch_manifest(CONTEXT, reference_at(upstream))
        assert not any("authorization" in request.headers for request in upstream.requests)


@pytest.mark.demand("slow-drip")
def test_a_few_bytes_and_a_reset_each_minute_are_no_progress() -> None:
    blob, clock = b"x" * 300, FakeClock()
    drop = breaking(blob, 3)

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        clock.time += 61
        drop(request, connection)

    with Upstream(handle) as upstream, registry_client(clock=clock) as client:
        reader = client.open_blob(CONTEXT, reference_at(upstream), Descriptor("", digest_of(blob), len(blob)))
        with pytest.raises(UpstreamError):
            read_all(reader)
