"""Which scopes each transport can have."""

from __future__ import annotations

import pytest

from container_image_proxy.errors import InvalidInputError
from container_image_proxy.policy.scope import verify_scope

PATHS = ["dir", "oci", "oci-archive", "sif"]


@pytest.mark.parametrize("transport", [*PATHS, "docker-archive", "tarball", "ostree", "docker", "unheard-of"])
def test_every_transport_has_its_default_scope(transport: str) -> None:
    verify_scope(transport, "")


@pytest.mark.parametrize(
    ("transport", "scope"),
    [
        *((transport, "/a/b") for transport in PATHS),
        ("oci", "/a/b:tag"),
        ("docker", "quay.io/a/b:1"),
        ("docker", "*.example.com"),
        ("docker-daemon", "*.example.com"),
        ("docker-daemon", "a" * 64),
        ("atomic", "host:5000/ns/stream:tag"),
        ("ostree", "/repo:branch"),
        ("ostree", "/repo:"),
        ("containers-storage", "[overlay@/var/lib/containers/storage]docker.io/library/busybox:1"),
        ("containers-storage", "[/var/lib/containers/storage]"),
        ("unheard-of", "x y"),
    ],
)
def test_a_scope_that_can_match_is_fine(transport: str, scope: str) -> None:
    verify_scope(transport, scope)


@pytest.mark.parametrize(
    ("transport", "scope"),
    [
        *((transport, scope) for transport in PATHS for scope in ("/", "a/b", "//a", "/a/", "/a/../b", "/a/./b")),
        ("docker-archive", "docker.io/library"),
        ("tarball", "/a"),
        ("docker-daemon", "sha256:" + "a" * 64),
        ("atomic", "host/ns/stream/more"),
        ("ostree", "/repo"),
        ("ostree", "repo:branch"),
        ("containers-storage", "docker.io/library/busybox:1"),
        ("containers-storage", "[overlay]"),
    ],
)
def test_a_scope_that_can_never_match_is_an_error(transport: str, scope: str) -> None:
    with pytest.raises(InvalidInputError, match=f"transports.{transport}"):
        verify_scope(transport, scope)
