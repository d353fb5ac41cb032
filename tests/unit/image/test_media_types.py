from __future__ import annotations

import pytest

from container_image_proxy.errors import InvalidManifestError
from container_image_proxy.image.media_types import (
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    determine_media_type,
    verify_supported,
)


@pytest.mark.parametrize(
    "media_type", [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST, DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED]
)
def test_the_types_of_manifests_are_supported(media_type: str) -> None:
    assert verify_supported(media_type) == media_type


@pytest.mark.demand("TYPE-content-type")
@pytest.mark.parametrize(
    "media_type",
    ["", "text/plain", f"{OCI_MANIFEST}; charset=utf-8", f" {OCI_MANIFEST}", OCI_MANIFEST.upper(), "x" * 9999],
)
def test_any_other_type_is_refused_in_a_short_message(media_type: str) -> None:
    with pytest.raises(InvalidManifestError, match="is not the media type") as caught:
        verify_supported(media_type)
    assert len(str(caught.value)) < 300


IMAGE: dict[str, object] = {"config": {}, "layers": []}
INDEX: dict[str, object] = {"manifests": [{}]}


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        ({"mediaType": DOCKER_LIST}, DOCKER_LIST),
        ({"schemaVersion": 1}, DOCKER_SCHEMA1),
        ({"schemaVersion": 1, "signatures": []}, DOCKER_SCHEMA1_SIGNED),
        ({"fsLayers": [], "mediaType": OCI_MANIFEST}, DOCKER_SCHEMA1),
        ({"schemaVersion": 2, "manifests": [{}]}, OCI_INDEX),
        ({"schemaVersion": 2, "manifests": []}, OCI_INDEX),
        ({"schemaVersion": 2, "config": {"mediaType": "application/vnd.artifact+json"}}, OCI_MANIFEST),
        ({"config": {"mediaType": DOCKER_CONFIG}, "layers": []}, DOCKER_MANIFEST),
        ({"config": [], "layers": []}, OCI_MANIFEST),
    ],
)
def test_an_unlabelled_document_is_known_by_its_looks(document: dict[str, object], media_type: str) -> None:
    assert determine_media_type(document) == media_type


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"schemaVersion": 3},
        {"schemaVersion": "2"},
        {"mediaType": "text/plain"},
        {"architecture": "amd64", "os": "linux", "config": {"Env": []}, "history": [], "rootfs": {}},
    ],
)
def test_what_looks_like_no_manifest_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(InvalidManifestError, match="no image manifest"):
        determine_media_type(document)


@pytest.mark.demand("TYPE-content-type")
@pytest.mark.parametrize(
    ("document", "label", "media_type"),
    [
        (IMAGE | {"mediaType": OCI_MANIFEST}, DOCKER_MANIFEST, OCI_MANIFEST),
        (IMAGE | {"mediaType": DOCKER_MANIFEST}, OCI_MANIFEST, DOCKER_MANIFEST),
        (INDEX | {"mediaType": DOCKER_LIST}, OCI_INDEX, DOCKER_LIST),
        (INDEX | {"mediaType": OCI_MANIFEST}, OCI_MANIFEST, OCI_INDEX),
        (IMAGE | {"mediaType": OCI_INDEX}, DOCKER_LIST, OCI_MANIFEST),
        (IMAGE, OCI_INDEX, OCI_MANIFEST),
        (INDEX, DOCKER_MANIFEST, OCI_INDEX),
        ({"config": {"mediaType": OCI_CONFIG, "digest": ""}}, DOCKER_MANIFEST, OCI_MANIFEST),
        ({"config": {"mediaType": DOCKER_CONFIG, "digest": ""}}, OCI_MANIFEST, DOCKER_MANIFEST),
    ],
)
def test_what_the_bytes_say_is_stronger_than_the_label(
    document: dict[str, object], label: str, media_type: str
) -> None:
    assert determine_media_type(document, label) == media_type


@pytest.mark.parametrize(
    ("document", "label"),
    [(IMAGE, DOCKER_MANIFEST), (IMAGE, OCI_MANIFEST), (INDEX, DOCKER_LIST), (INDEX, OCI_INDEX), ({}, OCI_INDEX)],
)
def test_the_label_says_what_the_bytes_leave_open(document: dict[str, object], label: str) -> None:
    assert determine_media_type(document, label) == label


@pytest.mark.parametrize("label", ["application/json", "text/plain", "application/octet-stream", "", DOCKER_SCHEMA1])
@pytest.mark.parametrize("told", ["", "text/plain", None, 5, [OCI_MANIFEST], {}, f"{OCI_MANIFEST}; charset=utf-8"])
def test_a_label_that_is_no_manifests_says_nothing(label: str, told: object) -> None:
    assert determine_media_type(IMAGE | {"mediaType": told}, label) == OCI_MANIFEST
