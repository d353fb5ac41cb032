"""Which scopes each transport can have."""

from __future__ import annotations

import pytest

from container_image_proxy.errors import MalformedDocumentError
from container_image_proxy.policy.scope import verify_scope, warn_about_docker_scope

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
    with pytest.raises(MalformedDocumentError, match=f"transports.{transport}"):
        verify_scope(transport, scope)


@pytest.mark.parametrize(
    "scope",
    [
        *("", "*.example.com", "*.io", "quay.io", "localhost", "localhost:5000", "registry:5000", "docker.io"),
        *("docker.io/library", "docker.io/library/busybox", "docker.io/library/busybox:1", "quay.io/a/b:1"),
        f"quay.io/a/b@sha256:{'a' * 64}",
    ],
)
def test_a_docker_scope_that_can_match_brings_no_warning(scope: str) -> None:
    assert warn_about_docker_scope(scope) is None


@pytest.mark.parametrize(
    ("scope", "meant"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("vendor/os", "docker.io/vendor/os:latest"),
        ("docker.io/busybox:1", "docker.io/library/busybox:1"),
        ("index.docker.io/vendor/os:1", "docker.io/vendor/os:1"),
        *((scope, "") for scope in ("*", "*.example.com/os", "*.example.com:5000", "https://quay.io", "quay.io/")),
        *((scope, "") for scope in ("quay.io/A", "quay.io//a", f"quay.io/a:1@sha256:{'a' * 64}", " quay.io")),
    ],
)
def test_a_docker_scope_that_can_match_no_image_brings_a_warning(scope: str, meant: str) -> None:
    warning = warn_about_docker_scope(scope)
    assert warning is not None
    assert f"{scope!r} can match no image" in warning
    assert (f"in full that is {meant!r}" in warning) is bool(meant)
    verify_scope("docker", scope)
