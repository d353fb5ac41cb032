"""oci: references, image names, blob paths and the choice in index.json, as containers/image has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from container_image_proxy.errors import Error
from container_image_proxy.image.digest import parse_digest
from container_image_proxy.image.manifest import Index, UntrustedManifest, parse_manifest
from container_image_proxy.image.media_types import OCI_INDEX
from container_image_proxy.transports.layout import blob_path, check_image_name, choose_entry, split_reference
from tests.support.conformance import DIRECTORY, rows


@rows("oci/split")
def test_path_and_image_are_split_at_the_first_colon(row: dict[str, Any]) -> None:
    assert split_reference(row["reference"]) == (row["path"], row["image"])


@rows("oci/image_name")
def test_image_names(row: dict[str, Any]) -> None:
    if row["error"]:
        with pytest.raises(Error):
            check_image_name(row["name"])
    else:
        assert check_image_name(row["name"]) == row["name"]


@rows("oci/blob_path")
def test_a_blob_lies_below_its_algorithm(row: dict[str, Any]) -> None:
    if row["error"]:
        with pytest.raises(Error):
            parse_digest(row["digest"])
    else:
        path = Path(*blob_path(parse_digest(row["digest"])))
        shared = row["path"].startswith("/external/")  # a shared blob directory replaces <layout>/blobs as a whole
        assert row["path"].endswith(str(path.relative_to("blobs") if shared else path))


@rows("oci/manifest_descriptor")
def test_the_entry_of_index_json_that_a_reference_means(row: dict[str, Any]) -> None:
    path, image = split_reference(row["reference"])
    if row["error"]:
        with pytest.raises(Error):
            _ = choose_entry(_index(path, row), image).digest
        return
    entry = choose_entry(_index(path, row), image)
    expected = row["descriptor"]
    assert (str(entry.digest), entry.media_type) == (expected["Digest"], expected["MediaType"])


def _index(path: str, row: dict[str, Any]) -> Index:
    """The layout's index.json; where the fixture is not at hand, one with the row's entry at the row's place among
    others.
    """
    fixture = DIRECTORY / "oci" / path / "index.json"
    raw = fixture.read_bytes() if fixture.exists() else json.dumps(_rebuilt(row)).encode()
    index = parse_manifest(UntrustedManifest(raw, OCI_INDEX))
    assert isinstance(index, Index)
    return index


def _rebuilt(row: dict[str, Any]) -> dict[str, Any]:
    others = [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": f"sha256:{number:064x}", "size": 1}
        for number in range(2 if row["error"] else row["index"])
    ]
    wanted = {key[0].lower() + key[1:]: value for key, value in row["descriptor"].items() if key != "Platform"}
    return {"schemaVersion": 2, "manifests": [*others, wanted] if wanted else others}
