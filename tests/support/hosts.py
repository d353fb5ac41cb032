"""Hosts with names of their own on this machine, for tests of who is sent what."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from container_image_proxy.image.digest import parse_digest
from container_image_proxy.image.manifest import Descriptor
from container_image_proxy.image.reference import Reference, parse_reference
from tests.support.authority import Authority
from tests.support.layouts import StoredImage
from tests.support.upstream import Connection, Handler, ReceivedRequest, Upstream, answering, by_path, image

REGISTRY, SIBLING, FOREIGN = "registry.example.org", "auth.example.org", "evil.test"
NAMES: dict[str, str | list[str]] = {
    REGISTRY: "127.0.0.2",
    SIBLING: "127.0.0.3",
    FOREIGN: "127.0.0.4",
    f"sub.{REGISTRY}": "127.0.0.4",
    f"{REGISTRY}.{FOREIGN}": "127.0.0.4",
    "metadata.test": "169.254.169.254",
}
LOGIN = ("me", "the-password")


@dataclass
class World:
    """Hosts with names, an authority that all trust, and an image."""

    stored: StoredImage
    authority: Authority
    certificates: Path
    dialled: list[str] = field(default_factory=list)

    def secure(self, handler: Handler, name: str) -> Upstream:
        """An https server at the name's address."""
        host = NAMES[name]
        assert isinstance(host, str)
        return Upstream(handler, host=host, tls=self.authority.issue(name).server_context())

    def trust(self, upstream: Upstream, name: str) -> None:
        """Put the authority into certs.d of ``name:port``."""
        directory = self.certificates / f"{name}:{upstream.port}"
        directory.mkdir(parents=True)
        (directory / "ca.crt").write_bytes(self.authority.certificate.read_bytes())

    @property
    def routes(self) -> dict[str, Handler]:
        return image(self.stored)

    @property
    def layer(self) -> Descriptor:
        return Descriptor("", parse_digest(self.stored.layer_digests[0]), len(self.stored.layers[0]))


def at(upstream: Upstream, name: str) -> Reference:
    return parse_reference(f"{name}:{upstream.port}/some/image:latest")


def challenging(realm: str, routes: dict[str, Handler], *, wanted: str = "good") -> Handler:
    """A registry that wants a Bearer token."""
    serve = by_path(routes)

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        if request.headers.get("authorization") == f"Bearer {wanted}":
            serve(request, connection)
        else:
            challenge = f'Bearer realm="{realm}",service="s&x=1#y"'
            connection.answer(401, b"{}", {"WWW-Authenticate": challenge})

    return handle


def issuing(value: object = "good", **more: object) -> Handler:
    """A token service."""
    return answering(200, json.dumps({"token": value, **more}).encode(), {"Content-Type": "application/json"})
