"""How many signatures are taken, from whichever places they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from container_image_proxy.config.lookaside import LookasideConfiguration, Section
from container_image_proxy.errors import SourceError
from container_image_proxy.image.digest import Digest, digest_of
from container_image_proxy.image.manifest import Descriptor, UntrustedManifest
from container_image_proxy.image.media_types import OCI_MANIFEST
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.policy.signature_blob import SIGNATURE_MEDIA_TYPE
from container_image_proxy.registry.client import RegistryClient
from container_image_proxy.registry.endpoints import Repository
from container_image_proxy.transports.signatures import SignatureStorage

IMAGE = parse_reference("quay.io/some/os:1")
DIGEST = digest_of(b"the manifest")
PAYLOAD = b"{}"


class Attachments:
    """What a registry client has to say of an image with that many attached signatures, each with such a note."""

    def __init__(self, count: int, note: str = "") -> None:
        layer = {"mediaType": SIGNATURE_MEDIA_TYPE, "digest": str(digest_of(PAYLOAD)), "size": len(PAYLOAD)}
        layers = [layer | {"annotations": {"note": note}} for _ in range(count)]
        document: dict[str, Any] = {"schemaVersion": 2, "config": layer, "layers": layers}
        self.manifest = UntrustedManifest(json.dumps(document).encode(), OCI_MANIFEST)

    def supplier(self, _: object) -> Repository:
        return Repository(domain="mirror.example", reference=parse_reference("mirror.example/some/os:1"))

    def fetch_manifest(self, place: Repository) -> UntrustedManifest:
        assert str(place.reference) == f"mirror.example/some/os:sha256-{DIGEST.hex}.sig"
        return self.manifest

    def fetch_blob(self, *_: object) -> bytes:
        return PAYLOAD

    def fetch_referrers(self, *_: object) -> tuple[Descriptor, ...]:
        return ()


def fetch(lookaside: Path, attachments: Attachments, digest: Digest = DIGEST) -> list[int]:
    """How many signatures each place gave."""
    for_all = Section(lookaside=lookaside.as_uri(), use_sigstore_attachments=True)
    storage = SignatureStorage(LookasideConfiguration("/none", for_all), cast("RegistryClient", attachments))
    return [len(found) for found in storage.fetch(IMAGE, digest, {"simple", "sigstore"})]


def write_signatures(directory: Path, count: int, size: int = 1) -> None:
    place = directory / f"some/os@sha256={DIGEST.hex}"
    place.mkdir(parents=True)
    for number in range(1, count + 1):
        (place / f"signature-{number}").write_bytes(b"\0simple-signing\n" + b"x" * size)


@pytest.mark.demand("LIM-signatures")
def test_the_places_share_one_bound_of_signatures(tmp_path: Path) -> None:
    write_signatures(tmp_path, 100)
    assert fetch(tmp_path, Attachments(28)) == [100, 28, 0]
    with pytest.raises(SourceError, match="more than 128 signatures"):
        fetch(tmp_path, Attachments(29))


def test_a_digest_that_is_too_long_for_a_tag_has_no_attachment(tmp_path: Path) -> None:
    assert fetch(tmp_path, Attachments(1), digest_of(b"the manifest", "sha512")) == [0, 0, 0]


@pytest.mark.demand("LIM-signatures")
def test_what_is_noted_beside_a_signature_counts_as_its_size(tmp_path: Path) -> None:
    write_signatures(tmp_path, 2, size=3 << 20)
    assert fetch(tmp_path, Attachments(2, "x" * 1_000_000)) == [2, 2, 0]
    with pytest.raises(SourceError, match=r"more than .* 8388608 bytes"):
        fetch(tmp_path, Attachments(3, "x" * 1_000_000))
