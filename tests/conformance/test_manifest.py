"""manifest/: reading manifests, telling their kinds apart, converting them to OCI."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from container_image_proxy.errors import (
    Error,
    InvalidDigestError,
    InvalidManifestError,
    MalformedDocumentError,
    UnknownManifestError,
)
from container_image_proxy.image.convert import to_oci
from container_image_proxy.image.digest import Digest, digest_of, parse_digest
from container_image_proxy.image.documents import parse_strict
from container_image_proxy.image.manifest import (
    ImageManifest,
    Index,
    Manifest,
    Schema1Manifest,
    UntrustedManifest,
    choose_manifest,
    parse_manifest,
    verify_unambiguous,
)
from container_image_proxy.image.media_types import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1_SIGNED,
    IMAGE_TYPES,
    INDEX_TYPES,
    OCI_INDEX,
    OCI_LAYER_TAR,
    OCI_MANIFEST,
    SCHEMA1_TYPES,
    determine_media_type,
    verify_supported,
)
from container_image_proxy.image.platform import Platform
from container_image_proxy.image.schema1 import without_signatures
from container_image_proxy.image.schema1_conversion import UnpackedLayer, convert_schema1
from tests.support.conformance import deviation, expects_error, rows, to_bytes

Row = dict[str, Any]

_FIELD_BITS = {1: "config", 2: "fsLayers", 4: "history", 8: "layers", 16: "manifests"}


def _object(raw: bytes) -> dict[str, Any]:
    return parse_strict(raw, dict[str, Any], "row")


@rows("manifest/guess_mime")
def test_guess_mime(row: Row) -> None:
    raw, rule = row["manifest"].encode(), deviation("manifest/guess_mime", row)
    if rule and rule.expect == "by its members":
        kinds = INDEX_TYPES if '"manifests"' in row["manifest"] else IMAGE_TYPES
        assert determine_media_type(_object(raw)) in kinds
        return
    if row["guessed_mime_type"]:
        assert determine_media_type(_object(raw)) == row["guessed_mime_type"]
    else:
        with pytest.raises((InvalidManifestError, MalformedDocumentError)):
            determine_media_type(_object(raw))
    if "digest" in row:
        assert str(digest_of(without_signatures(raw))) == row["digest"]
    else:
        with pytest.raises((InvalidManifestError, MalformedDocumentError)):
            without_signatures(raw)


@rows("manifest/normalized_mime")
def test_normalized_mime(row: Row) -> None:
    if expects_error("manifest/normalized_mime", row, recorded=False):
        with pytest.raises(InvalidManifestError):
            verify_supported(row["input"])
    else:
        assert verify_supported(row["input"]) == row["expected"]


@rows("manifest/matches_digest")
def test_matches_digest(row: Row) -> None:
    raw = to_bytes(row["manifest"])
    if expects_error("manifest/matches_digest", row, recorded=False):
        with pytest.raises(InvalidDigestError):
            parse_digest(row["digest"])
        return
    if row["error"]:
        with pytest.raises(InvalidManifestError):
            without_signatures(raw)
    else:
        assert parse_digest(row["digest"]).matches(without_signatures(raw)) is row["matches"]


def _check_parse(table: str, row: Row, media_type: str) -> None:
    untrusted, rule = UntrustedManifest(to_bytes(row["manifest"]), media_type), deviation(table, row)
    if rule and rule.expect == "its own kind":
        assert parse_manifest(untrusted) == parse_manifest(UntrustedManifest(untrusted.raw, ""))
    elif expects_error(table, row, recorded=bool(row["error"])):
        with pytest.raises(InvalidManifestError):
            _parse_and_convert(untrusted)
    else:
        assert _parse_and_convert(untrusted) in ({media_type} if media_type not in SCHEMA1_TYPES else SCHEMA1_TYPES)


def _parse_and_convert(untrusted: UntrustedManifest) -> str:
    """The type of a manifest that can be served, or of an index."""
    parsed = parse_manifest(untrusted)
    if not isinstance(parsed, Index):
        _convert(parsed)
    return parsed.media_type


def _convert(manifest: ImageManifest) -> Manifest:
    """As the daemon does; nothing of schema 1 has layers here that could be unpacked."""
    if isinstance(manifest, Schema1Manifest):
        layer = UnpackedLayer(digest_of(b""), 1, Digest("sha256", "d" * 64), OCI_LAYER_TAR)
        return convert_schema1(manifest, dict.fromkeys(manifest.layers, layer))[0]
    return to_oci(manifest)


@rows("manifest/parse_oci1")
def test_parse_oci1(row: Row) -> None:
    _check_parse("manifest/parse_oci1", row, OCI_MANIFEST)


@rows("manifest/parse_ociindex")
def test_parse_ociindex(row: Row) -> None:
    _check_parse("manifest/parse_ociindex", row, OCI_INDEX)


@rows("manifest/parse_schema2")
def test_parse_schema2(row: Row) -> None:
    _check_parse("manifest/parse_schema2", row, DOCKER_MANIFEST)


@rows("manifest/parse_schema2list")
def test_parse_schema2list(row: Row) -> None:
    _check_parse("manifest/parse_schema2list", row, DOCKER_LIST)


@rows("manifest/parse_schema1")
def test_parse_schema1(row: Row) -> None:
    _check_parse("manifest/parse_schema1", row, DOCKER_SCHEMA1_SIGNED)


@pytest.mark.demand("TYPE-confusion")
@rows("manifest/unambiguous", keep=lambda row: row["allowed"] < 2 * max(_FIELD_BITS))
def test_unambiguous(row: Row) -> None:
    allowed = {field for bit, field in _FIELD_BITS.items() if row["allowed"] & bit}
    if row["error"]:
        with pytest.raises((InvalidManifestError, MalformedDocumentError)):
            verify_unambiguous(_object(to_bytes(row["manifest"])), row["mime"], allowed)
    else:
        verify_unambiguous(_object(to_bytes(row["manifest"])), row["mime"], allowed)


@pytest.mark.demand("TYPE-content-type")
@pytest.mark.demand("DIG-malformed")
@rows("manifest/convert_to_oci")
def test_convert_to_oci(row: Row) -> None:
    if expects_error("manifest/convert_to_oci", row, recorded="error" in row):
        with pytest.raises(Error):
            _resolve(row)
        return
    manifest = _resolve(row)
    converted = _convert(manifest)
    assert converted.media_type == OCI_MANIFEST
    if isinstance(manifest, Schema1Manifest):
        assert converted.raw == row["oci_manifest"].encode()
        return
    assert [blob.digest for blob in converted.blobs] == [blob.digest for blob in manifest.blobs]
    rule = deviation("manifest/convert_to_oci", row)
    if rule and rule.expect == "converted":
        assert manifest.media_type == DOCKER_MANIFEST
        assert json.loads(converted.raw)["mediaType"] == OCI_MANIFEST
    elif "oci_manifest" in row:
        assert manifest.media_type == row["selected_mime_type"]
        assert json.loads(converted.raw) == _expected(row, manifest)


def _resolve(row: Row) -> ImageManifest:
    """The manifest that the row's reference comes to: itself, or for an index the instance for the row's platform."""
    parsed = parse_manifest(UntrustedManifest(row["manifest"].encode(), row["content_type"]))
    if not isinstance(parsed, Index):
        _convert(parsed)
        return parsed
    instance = choose_manifest(parsed, Platform(row["os"], row["architecture"], row["variant"]))
    raw = next((raw for raw in _servable(row) if instance.digest.matches(raw)), None)
    if raw is None:
        raise UnknownManifestError(str(instance.digest))
    manifest = parse_manifest(UntrustedManifest(raw, instance.media_type))
    assert not isinstance(manifest, Index)
    return manifest


def _servable(row: Row) -> list[bytes]:
    return [base64.b64decode(blob) for blob in (*row["blobs"], *row["blobs_at"].values())]


def _expected(row: Row, manifest: Manifest) -> object:
    expected = json.loads(row["oci_manifest"])
    if deviation("manifest/convert_to_oci", row):
        expected["config"] |= {"digest": str(manifest.config.digest), "size": manifest.config.size}
    return expected
