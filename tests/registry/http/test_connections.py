"""One request over one connection, by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.concurrency.context import Context
from container_image_proxy.config.certificates import CertificateDirectories
from container_image_proxy.config.limits import Limits
from container_image_proxy.errors import RegistryUnavailableError, UpstreamTimeoutError
from container_image_proxy.registry.endpoints import Endpoint
from container_image_proxy.registry.http.connections import Connections
from container_image_proxy.registry.http.proxies import parse_proxies
from container_image_proxy.registry.http.request import Request
from tests.support.contexts import CONTEXT
from tests.support.registries import free_port
from tests.support.senders import request_for
from tests.support.upstream import Upstream, answering


@pytest.fixture
def connections() -> Iterator[Connections]:
    made = Connections(
        limits=Limits(), certificates=CertificateDirectories((Path("/nonexistent"),)), proxies=parse_proxies({})
    )
    yield made
    made.close()


def request_at(authority: str) -> Request:
    return request_for(f"http://{authority}/v2/", Endpoint(domain=authority, insecure=True))


def test_whatever_the_answer_is_it_is_returned(connections: Connections) -> None:
    with Upstream(answering(307, headers={"Location": "/elsewhere"})) as upstream:
        reply = connections.send(request_at(upstream.authority), CONTEXT)
        assert (reply.status, reply.header("location")) == (307, "/elsewhere")
        reply.close()


def test_a_connection_is_used_again(connections: Connections) -> None:
    with Upstream(answering(200, b"x")) as upstream:
        for _ in range(2):
            reply = connections.send(request_at(upstream.authority), CONTEXT)
            assert reply.read_all(CONTEXT, 10) == b"x"
        assert len(upstream.connections) == 1


def test_that_nobody_is_there_is_told_of_connecting(connections: Connections) -> None:
    authority = f"127.0.0.1:{free_port()}"
    with pytest.raises(RegistryUnavailableError) as caught:
        connections.send(request_at(authority), CONTEXT)
    assert (caught.value.phase, caught.value.endpoint) == ("connect", authority)


def test_that_the_time_was_over_before_is_not_told_of_connecting(connections: Connections) -> None:
    """What cannot be connected to is asked over another protocol, or is a host that is down."""
    with Upstream(answering(200)) as upstream:
        with pytest.raises(UpstreamTimeoutError) as caught:
            connections.send(request_at(upstream.authority), CONTEXT.within(0))
        assert (caught.value.phase, caught.value.endpoint) == ("manifest", upstream.authority)
        assert upstream.requests == []


@pytest.mark.demand("client-disconnect")
def test_nothing_is_asked_for_somebody_who_has_left(connections: Connections) -> None:
    token = Cancellation()
    token.cancel()
    with Upstream(answering(200)) as upstream:
        with pytest.raises(CancelledError):
            connections.send(request_at(upstream.authority), Context(token))
        assert upstream.requests == []
