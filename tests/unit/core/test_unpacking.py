"""What is found out of the layers of Docker's schema 1, within bounds, each layer once."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.concurrency.context import Context
from container_image_proxy.core import unpacking
from container_image_proxy.core.lease import Lease
from container_image_proxy.core.unpacking import unpack_layers
from container_image_proxy.errors import InvalidManifestError
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import Schema1Manifest, UntrustedManifest, parse_manifest
from container_image_proxy.transports.directory_image import DirectoryReference, DirectorySource
from container_image_proxy.transports.layout import LayoutReference
from tests.support.contexts import ACCESS, CONTEXT
from tests.support.layouts import layer_tar, single_image
from tests.support.schema1 import schema1, write_directory

TAR = layer_tar({"a": b"content" * 100_000})
GZIPPED = gzip.compress(TAR, mtime=0)


class Counting(DirectorySource):
    """Counts how often a blob is opened."""

    opened = 0

    def open_blob(self, *arguments: object, **named: object) -> object:  # type: ignore[override]
        Counting.opened += 1
        return super().open_blob(*arguments, **named)  # type: ignore[arg-type]


def image(place: Path, layers: Sequence[bytes]) -> tuple[Schema1Manifest, Lease]:
    raw = json.dumps(schema1(layers)).encode()
    reference = write_directory(place, raw, layers)
    manifest = parse_manifest(UntrustedManifest(raw, ""))
    assert isinstance(manifest, Schema1Manifest)
    parsed = DirectoryReference.parse(reference.removeprefix("dir:"))
    return manifest, Lease(lambda: Counting(parsed))  # type: ignore[arg-type, return-value]


def test_a_layer_that_is_there_twice_is_unpacked_once(tmp_path: Path) -> None:
    Counting.opened = 0
    found = unpack_layers(CONTEXT, *image(tmp_path / "image", [GZIPPED, TAR, GZIPPED]))
    assert {digest: (one.size, one.diff_id) for digest, one in found.items()} == {
        digest_of(GZIPPED): (len(GZIPPED), digest_of(TAR)),
        digest_of(TAR): (len(TAR), digest_of(TAR)),
    }
    assert Counting.opened == 2


@pytest.mark.demand("BOMB-archive")
@pytest.mark.parametrize("layers", [[GZIPPED], [TAR[: len(TAR) // 2], TAR[len(TAR) // 2 :] + bytes(512)]])
def test_layers_unpack_to_no_more_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: list[bytes]
) -> None:
    monkeypatch.setattr(unpacking, "MAX_UNPACKED", len(TAR) - 1)
    with pytest.raises(InvalidManifestError, match=f"unpack to more than {len(TAR) - 1} bytes"):
        unpack_layers(CONTEXT, *image(tmp_path / "image", layers))


def test_it_ends_when_nobody_waits_any_more(tmp_path: Path) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(CancelledError):
        unpack_layers(Context(cancellation), *image(tmp_path / "image", [GZIPPED]))


def test_a_layer_of_a_form_that_oci_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifestError, match="compressed with bzip2"):
        unpack_layers(CONTEXT, *image(tmp_path / "image", [bz2.compress(TAR)]))


def test_a_source_that_has_no_such_images_is_none(tmp_path: Path) -> None:
    manifest, _ = image(tmp_path / "image", [GZIPPED])
    single_image(tmp_path / "layout")
    layout = LayoutReference.parse(f"{tmp_path}/layout:latest")
    with pytest.raises(InvalidManifestError, match="from registries, dir: and stores only"):
        unpack_layers(CONTEXT, manifest, Lease(lambda: layout.open_source(ACCESS)))
