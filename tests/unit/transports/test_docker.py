"""The docker: transport: references and the names that policy knows them by."""

from __future__ import annotations

from typing import cast

import pytest

from container_image_proxy.concurrency.lazy import Lazy
from container_image_proxy.config.lookaside import LookasideConfiguration
from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import Descriptor, UntrustedManifest
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.registry.client import RegistryClient
from container_image_proxy.registry.endpoints import Repository
from container_image_proxy.transports.archives.spool import SpoolDirectory
from container_image_proxy.transports.docker import DockerReference
from container_image_proxy.transports.source import Access
from container_image_proxy.transports.table import parse_image_reference
from tests.support.contexts import CONTEXT

DIGEST = "sha256:" + "0123456789abcdef" * 4


def test_a_bare_name_is_the_latest_of_docker_hub() -> None:
    reference = DockerReference.parse("//busybox")
    assert str(reference) == "docker://busybox:latest"
    assert reference.policy_identity == "docker.io/library/busybox:latest"
    assert reference.policy_namespaces == ("docker.io/library/busybox", "docker.io/library", "docker.io", "*.io")


def test_with_tag_and_digest_policy_knows_the_image_by_the_digest() -> None:
    reference = DockerReference.parse(f"//quay.io/a/b:1@{DIGEST}")
    assert str(reference) == f"docker://quay.io/a/b:1@{DIGEST}"
    assert reference.policy_identity == f"quay.io/a/b@{DIGEST}"
    assert str(reference.docker_reference.digest) == DIGEST


@pytest.mark.parametrize(
    ("within", "pinned"),
    [(f"//quay.io/a/b@{DIGEST}", DIGEST), (f"//quay.io/a/b:1@{DIGEST}", DIGEST), ("//quay.io/a/b:1", None)],
)
def test_only_a_digest_pins_one(within: str, pinned: str | None) -> None:
    digest = DockerReference.parse(within).pinned_digest
    assert (str(digest) if digest else None) == pinned


@pytest.mark.parametrize("within", ["", "busybox", "/busybox", "//", "//UPPER/case", "//a:b:c", "//x@sha256:abc"])
def test_what_is_no_reference_is_refused(within: str) -> None:
    with pytest.raises(InvalidReferenceError):
        DockerReference.parse(within)


class Fleet:
    """A registry client whose answers come from whichever mirror is next."""

    def __init__(self, *names: str) -> None:
        self.places = [Repository(domain=name, reference=parse_reference(f"{name}/some/os:1")) for name in names]

    def metered(self, _: object) -> Fleet:
        return self

    def find_manifest(self, *_: object, first: Repository | None, **__: object) -> tuple[UntrustedManifest, Repository]:
        return UntrustedManifest(b"{}", ""), first or self.places.pop(0)

    def open_blob(self, *_: object, first: Repository | None, offset: int) -> object:
        return first, offset


def test_two_sources_of_an_image_at_a_time_remember_each_its_own_supplier() -> None:
    reference = parse_image_reference("docker://quay.io/some/os:1")
    fleet = Fleet("one.example", "two.example")
    access = Access(Lazy(lambda: cast("RegistryClient", fleet)), LookasideConfiguration("/none"), SpoolDirectory(None))
    one, two = (reference.open_source(access) for _ in range(2))
    one.fetch_manifest(CONTEXT)
    two.fetch_manifest(CONTEXT)
    for source, name in ((one, "one.example"), (two, "two.example")):
        source.fetch_manifest(CONTEXT, digest_of(b"{}"))
        supplier, offset = cast("tuple[Repository, int]", source.open_blob(CONTEXT, cast("Descriptor", None), 7))
        assert (supplier.domain, offset) == (name, 7)
