"""What was learned of a registry is unlearned when it does not hold any more: where tokens are, and its protocol."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import pytest

from container_image_proxy.errors import RegistryError
from container_image_proxy.image.reference import Reference, parse_reference
from tests.support.authority import Authority
from tests.support.contexts import CONTEXT
from tests.support.layouts import StoredImage, single_image
from tests.support.registry_client import FakeClock, registry_client
from tests.support.upstream import Connection, Handler, ReceivedRequest, Upstream, answering, by_path, image, in_order

HOURS = 10 * 3600.0


@pytest.fixture
def stored(tmp_path: Path) -> StoredImage:
    return single_image(tmp_path / "layout")


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    return Authority(tmp_path).issue("127.0.0.1").server_context()


def reference_at(upstream: Upstream) -> Reference:
    return parse_reference(f"{upstream.authority}/some/image:latest")


@pytest.mark.parametrize("moves_to", ["/new-token", None])
def test_a_token_service_that_has_gone_away_is_forgotten(stored: StoredImage, moves_to: str | None) -> None:
    """``moves_to`` None: the registry became public."""
    realm: list[str | None] = ["/old-token"]
    serve, issue, clock = by_path(image(stored)), answering(200, b'{"token":"good"}'), FakeClock()

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        if request.path.endswith("token"):
            (issue if request.path == realm[0] else answering(404))(request, connection)
        elif realm[0] is None or request.headers.get("authorization") == "Bearer good":
            serve(request, connection)
        else:
            challenge = f'Bearer realm="{registry.url}{realm[0]}"'
            connection.answer(401, headers={"WWW-Authenticate": challenge})

    with Upstream(handle) as registry, registry_client(clock=clock) as client:
        assert client.fetch_manifest(CONTEXT, reference_at(registry)) is not None
        realm[0] = moves_to
        clock.time += HOURS
        assert client.fetch_manifest(CONTEXT, reference_at(registry)) is not None
        asked = len(registry.requests)
        assert client.fetch_manifest(CONTEXT, reference_at(registry)) is not None
        assert len(registry.requests) == asked + 1


def test_a_challenge_that_is_still_the_same_is_not_answered_twice(stored: StoredImage) -> None:
    issue, clock = in_order(answering(200, b'{"token":"good"}'), answering(404)), FakeClock()
    serve = by_path(image(stored))

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        if request.path == "/token":
            issue(request, connection)
        elif request.headers.get("authorization") == "Bearer good":
            serve(request, connection)
        else:
            connection.answer(401, headers={"WWW-Authenticate": f'Bearer realm="{registry.url}/token"'})

    with Upstream(handle) as registry, registry_client(clock=clock) as client:
        assert client.fetch_manifest(CONTEXT, reference_at(registry)) is not None
        clock.time += HOURS
        with pytest.raises(RegistryError, match="answered 404 to the token request"):
            client.fetch_manifest(CONTEXT, reference_at(registry))
        assert registry.paths().count("/token") == 2


def turning_to_tls(stored: StoredImage, tls: ssl.SSLContext, last_in_the_clear: Handler) -> Upstream:
    """A registry that answers one request in the clear and then speaks TLS only."""
    serve = by_path(image(stored))

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        if upstream.tls is None:
            upstream.tls = tls
            last_in_the_clear(request, connection)
            connection.close()
        else:
            serve(request, connection)

    upstream = Upstream(handle)
    return upstream


@pytest.mark.parametrize("status", [400, 404])
def test_an_error_in_the_clear_does_not_hold_a_registry_to_http(
    stored: StoredImage, tls: ssl.SSLContext, status: int
) -> None:
    """400 is what many servers with TLS answer to plain text."""
    with turning_to_tls(stored, tls, answering(status)) as registry, registry_client(clock=FakeClock()) as client:
        with contextlib.suppress(RegistryError):  # a 404 is followed by a look at /v2/, which already shows the change
            client.fetch_manifest(CONTEXT, reference_at(registry))
        assert client.fetch_manifest(CONTEXT, reference_at(registry)) is not None


def test_a_registry_that_spoke_http_may_come_to_speak_tls(stored: StoredImage, tls: ssl.SSLContext) -> None:
    with turning_to_tls(stored, tls, by_path(image(stored))) as registry, registry_client(clock=FakeClock()) as client:
        for _ in range(2):
            assert client.fetch_manifest(CONTEXT, reference_at(registry)) is not None


def test_a_400_to_plain_text_from_a_registry_that_spoke_http_is_a_reason_to_try_tls(
    stored: StoredImage, tls: ssl.SSLContext
) -> None:
    """As long as the connection is kept, its server is the old one: TLS is spoken on the next."""
    serve = by_path(image(stored))

    def turn(_: ReceivedRequest, connection: Connection) -> None:
        registry.tls = tls
        connection.answer(400, b"an HTTP request to an HTTPS server")

    with Upstream(in_order(serve, turn, serve)) as registry, registry_client(clock=FakeClock()) as client:
        for _ in range(2):
            assert client.fetch_manifest(CONTEXT, reference_at(registry)) is not None
