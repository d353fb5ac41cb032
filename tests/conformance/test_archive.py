"""The archive that containers/image is tested with: the image by each of its names, and every blob verified."""

from __future__ import annotations

from contextlib import closing
from typing import cast

import pytest

from container_image_proxy.core.verified_stream import VerifiedBlob
from container_image_proxy.image.manifest import Manifest, parse_manifest
from container_image_proxy.transports.source import Access
from container_image_proxy.transports.table import parse_image_reference
from tests.support.conformance import DIRECTORY
from tests.support.contexts import CONTEXT

ARCHIVE = DIRECTORY / "archive/almostempty.tar"


@pytest.mark.skipif(not ARCHIVE.exists(), reason="the recorded tables of containers/image are not here")
@pytest.mark.parametrize("name", ["", ":emptyimage:latest", ":emptyimage", ":docker.io/library/emptyimage", ":@0"])
def test_the_image_is_found_and_all_of_its_blobs_are_right(name: str) -> None:
    access = Access(cast("object", None), cast("object", None))  # type: ignore[arg-type]  # archives need neither
    with closing(parse_image_reference(f"docker-archive:{ARCHIVE}{name}").open_source(access)) as source:
        untrusted = source.fetch_manifest(CONTEXT)
        assert untrusted is not None
        manifest = parse_manifest(untrusted)
        assert isinstance(manifest, Manifest)
        assert [layer.size for layer in manifest.layers] == [1536]
        for descriptor in manifest.blobs:
            assert len(VerifiedBlob(source.open_blob(CONTEXT, descriptor), descriptor).read_all()) == descriptor.size
