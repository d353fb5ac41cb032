"""The stores that containers/storage wrote: every image by every name of the transcripts, and every blob verified."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from container_image_proxy.core.verified_stream import VerifiedBlob
from container_image_proxy.errors import Error
from container_image_proxy.image.manifest import Manifest, parse_manifest
from container_image_proxy.transports.table import parse_image_reference
from tests.support.conformance import DIRECTORY, rows
from tests.support.contexts import CONTEXT


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("stores")
    for driver in ("overlay", "vfs"):
        (place / driver).mkdir()
        archive = DIRECTORY / f"storage/{driver}-store.tar.gz"
        subprocess.run(["tar", "-xzf", archive, "-C", place / driver], check=True)
    return place


def reply_to(row: dict[str, Any], method: str) -> Iterator[dict[str, Any]]:
    """What was answered to a method that succeeded."""
    steps = (step for step in row["steps"] if step["method"] == method)
    yield from (step for step in steps if step["reply"]["success"])


@rows("storage/transcripts")
def test_an_image_is_found_and_all_of_its_blobs_are_right(row: dict[str, Any], stores: Path) -> None:
    opening = next(step for step in row["steps"] if step["method"] == "OpenImage")
    text = opening["args"][0].replace("@@STORE@", f"@{stores}").replace("+@STORE@", f"+{stores}")
    if not opening["reply"]["success"]:
        with pytest.raises(Error):
            parse_image_reference(text).open_source(None).fetch_manifest(CONTEXT)  # type: ignore[arg-type] # needs none
        return
    reference = parse_image_reference(text)
    source = reference.open_source(None)  # type: ignore[arg-type] # it needs nothing
    untrusted = source.fetch_manifest(CONTEXT)
    assert untrusted is not None
    original = parse_manifest(untrusted)
    assert isinstance(original, Manifest)
    for step in reply_to(row, "GetManifest"):
        assert str(original.digest) == step["reply"]["value"]
    oci = reference.to_oci(original, source.state)
    for step in reply_to(row, "GetLayerInfo"):
        layers = [{"digest": str(one.digest), "size": one.size} for one in oci.layers]
        assert layers == [{key: one[key] for key in ("digest", "size")} for one in step["reply"]["value"]]
    for blob in oci.blobs:
        content = VerifiedBlob(source.open_blob(CONTEXT, blob), blob).read_all()
        assert blob.digest.matches(content)
    assert json.loads(VerifiedBlob(source.open_blob(CONTEXT, oci.config), oci.config).read_all())["rootfs"]
