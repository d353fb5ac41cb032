"""What is kept of resolved images, in memory and on disk, and what goes first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import Manifest, UntrustedManifest, parse_manifest
from container_image_proxy.image.platform import Platform
from container_image_proxy.policy.signature_blob import UntrustedSignature
from container_image_proxy.snapshots import KEPT, SHELF_SIZE, SnapshotStore, StoredImage
from tests.support.layouts import OCI_CONFIG, OCI_MANIFEST

SHELF = "os"


def stored(number: int, size: int = 0) -> StoredImage:
    """An image with a signature of ``size`` bytes."""
    config = {"mediaType": OCI_CONFIG, "digest": str(digest_of(str(number).encode())), "size": 1}
    document = {"schemaVersion": 2, "config": config, "layers": []}
    manifest = parse_manifest(UntrustedManifest(json.dumps(document).encode(), OCI_MANIFEST))
    assert isinstance(manifest, Manifest)
    signature = UntrustedSignature("simple", bytes(size))
    platform = Platform("linux", "amd64")
    return StoredImage("os", platform, "reference", "place", (), manifest, {manifest.digest: (signature,)})


def files(directory: Path) -> list[Path]:
    return sorted((directory / SHELF).iterdir())


def test_a_tag_that_goes_to_and_fro_pushes_nothing_off_the_shelf(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    images = [stored(number) for number in range(3)]
    for one in [*images, *images[1:] * KEPT]:
        store.add(SHELF, one)
    expected = (images[2], images[1], images[0])
    assert store.of(SHELF) == expected
    assert SnapshotStore(tmp_path).of(SHELF) == expected
    assert len(files(tmp_path)) == len(images)


def test_what_is_on_disk_already_is_not_written_again(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    images = [stored(number) for number in range(2)]
    for one in images:
        store.add(SHELF, one)
    before = {path.stat().st_ino for path in files(tmp_path)}
    store.add(SHELF, images[0])
    assert {path.stat().st_ino for path in files(tmp_path)} == before
    assert SnapshotStore(tmp_path).of(SHELF)[0] == images[0]


@pytest.mark.demand("LIM-manifest")
def test_a_shelf_holds_so_many_images_and_so_many_bytes_and_the_newest_in_any_case(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    for number in range(KEPT + 2):
        store.add(SHELF, stored(number))
    assert len(store.of(SHELF)) == len(files(tmp_path)) == KEPT
    for number in range(4):
        store.add(SHELF, stored(number, SHELF_SIZE // 3))
    assert len(store.of(SHELF)) == len(files(tmp_path)) == 2
    store.add(SHELF, stored(5, SHELF_SIZE + 1))
    assert store.of(SHELF) == SnapshotStore(tmp_path).of(SHELF) == (stored(5, SHELF_SIZE + 1),)
