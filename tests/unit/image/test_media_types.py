from __future__ import annotations

import pytest

from container_image_proxy.errors import InvalidManifestError
from container_image_proxy.image.media_types import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    OCI_INDEX,
    OCI_MANIFEST,
    guess_media_type,
    verify_supported,
)


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST])
def test_the_four_types_are_supported(media_type: str) -> None:
    assert verify_supported(media_type) == media_type


@pytest.mark.parametrize("media_type", [DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED, "application/json"])
def test_schema_1_is_refused_by_name(media_type: str) -> None:
    with pytest.raises(InvalidManifestError, match="Docker schema 1 is not supported"):
        verify_supported(media_type)


@pytest.mark.demand("TYPE-content-type")
@pytest.mark.parametrize(
    "media_type",
    ["", "text/plain", f"{OCI_MANIFEST}; charset=utf-8", f" {OCI_MANIFEST}", OCI_MANIFEST.upper(), "x" * 9999],
)
def test_any_other_type_is_refused_in_a_short_message(media_type: str) -> None:
    with pytest.raises(InvalidManifestError, match="is not the media type") as caught:
        verify_supported(media_type)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        ({"mediaType": DOCKER_LIST}, DOCKER_LIST),
        ({"schemaVersion": 1}, DOCKER_SCHEMA1),
        ({"schemaVersion": 1, "signatures": []}, DOCKER_SCHEMA1_SIGNED),
        ({"schemaVersion": 2, "manifests": [{}]}, OCI_INDEX),
        ({"schemaVersion": 2, "manifests": []}, OCI_MANIFEST),
        ({"schemaVersion": 2, "config": {"mediaType": "application/vnd.artifact+json"}}, OCI_MANIFEST),
    ],
)
def test_an_unlabelled_document_is_known_by_its_looks(document: dict[str, object], media_type: str) -> None:
    assert guess_media_type(document) == media_type


@pytest.mark.parametrize("document", [{}, {"schemaVersion": 3}, {"schemaVersion": "2"}, {"mediaType": "text/plain"}])
def test_what_looks_like_no_manifest_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(InvalidManifestError, match="no image manifest"):
        guess_media_type(document)
