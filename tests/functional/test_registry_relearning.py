"""What was learned of a registry is unlearned when it does not hold any more: where tokens are, and its protocol."""

from __future__ import annotations

from pathlib import Path

import pytest

from container_image_proxy.image.reference import Reference, parse_reference
from tests.support.layouts import StoredImage, single_image
from tests.support.registry_client import FakeClock, registry_client
from tests.support.upstream import Connection, ReceivedRequest, Upstream, answering, by_path, image

HOURS = 10 * 3600.0


@pytest.fixture
def stored(tmp_path: Path) -> StoredImage:
    return single_image(tmp_path / "layout")


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
        assert client.fetch_manifest(reference_at(registry)) is not None
        realm[0] = moves_to
        clock.time += HOURS
        assert client.fetch_manifest(reference_at(registry)) is not None
        asked = len(registry.requests)
        assert client.fetch_manifest(reference_at(registry)) is not None
        assert len(registry.requests) == asked + 1
