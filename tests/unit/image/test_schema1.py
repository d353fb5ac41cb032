"""Docker's schema 1: what is signed, what is refused, and what the manifest becomes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import InvalidManifestError
from container_image_proxy.image.digest import Digest, digest_of, parse_digest
from container_image_proxy.image.manifest import Schema1Manifest, UntrustedManifest, parse_manifest
from container_image_proxy.image.media_types import DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED, OCI_LAYER_TAR, OCI_MANIFEST
from container_image_proxy.image.schema1 import without_signatures
from container_image_proxy.image.schema1_conversion import UnpackedLayer, convert_schema1
from tests.support.schema1 import JSONObject, schema1, sign

LAYERS = [b"lowest", None, b"upper"]


def parse(document: JSONObject | bytes) -> Schema1Manifest:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    parsed = parse_manifest(UntrustedManifest(raw, DOCKER_SCHEMA1_SIGNED))
    assert isinstance(parsed, Schema1Manifest)
    return parsed


def convert(document: JSONObject) -> tuple[Any, Any]:
    manifest = parse(document)
    unpacked = {
        digest: UnpackedLayer(digest, 7, Digest("sha256", "d" * 64), OCI_LAYER_TAR) for digest in manifest.layers
    }
    served, config = convert_schema1(manifest, unpacked)
    assert served.config.digest == digest_of(config)
    return json.loads(served.raw), json.loads(config)


def test_the_digest_of_a_signed_manifest_is_that_of_what_is_signed() -> None:
    raw, payload = sign(schema1(LAYERS))
    assert without_signatures(raw) == payload
    assert without_signatures(payload) == payload
    manifest = parse(raw)
    assert (manifest.raw, manifest.digest, manifest.media_type) == (payload, digest_of(payload), DOCKER_SCHEMA1)
    assert parse(payload) == manifest


def test_what_stands_behind_what_is_signed_is_not_read() -> None:
    raw, payload = sign(schema1(LAYERS))
    changed = raw.replace(b'"signatures"', b'"tag": "other", "signatures"')
    assert without_signatures(changed) == payload


def test_a_signature_around_a_signed_manifest_is_refused() -> None:
    inner, _ = sign(schema1(LAYERS))
    outer, _ = sign(json.loads(inner))
    with pytest.raises(InvalidManifestError, match="sign a manifest with signatures"):
        without_signatures(outer)


@pytest.mark.parametrize("change", [{"schemaVersion": 2}, {"mediaType": OCI_MANIFEST}])
def test_signatures_of_what_is_no_schema_1_to_others_are_part_of_the_document(change: JSONObject) -> None:
    raw, _ = sign(schema1(LAYERS) | change)
    assert without_signatures(raw) == raw


@pytest.mark.parametrize("kind", ["none", "no-list", "no-object", "not-base64", "no-json", "too-long", "no-length"])
def test_a_signature_that_does_not_say_what_it_signs_is_refused(kind: str) -> None:
    raw, _ = sign(schema1(LAYERS))
    start = raw.index(b'"signatures": ') + len(b'"signatures": ')
    end = raw.rindex(b"\n}")
    (block,) = json.loads(raw[start:end])
    header = json.loads(json.dumps({"formatLength": len(raw) + 1, "formatTail": ""}))
    import base64  # noqa: PLC0415

    def protected(value: bytes) -> list[JSONObject]:
        return [{**block, "protected": base64.urlsafe_b64encode(value).decode()}]

    made: dict[str, object] = {
        "none": [],
        "no-list": 1,
        "no-object": [1],
        "not-base64": [{**block, "protected": "*"}],
        "no-json": protected(b"{"),
        "too-long": protected(json.dumps(header).encode()),
        "no-length": protected(json.dumps(header | {"formatLength": "5"}).encode()),
    }
    with pytest.raises(InvalidManifestError, match="signature"):
        parse(raw[:start] + json.dumps(made[kind]).encode() + raw[end:])


def test_signatures_that_sign_different_texts_are_refused() -> None:
    document = schema1(LAYERS)
    raw, _ = sign(document, signatures=2)
    first, _ = sign(document, protected={"formatTail": "IH0"})
    block = first[first.index(b"[{") + 1 : first.rindex(b"]")]
    with pytest.raises(InvalidManifestError, match="one and the same"):
        parse(raw.replace(b'"signatures": [', b'"signatures": [' + block + b", "))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fsLayers": []}, "has no fsLayers"),
        ({"history": []}, "3 fsLayers, and 0 entries of history"),
        ({"schemaVersion": 2}, "another schemaVersion"),
        ({"layers": [{}]}, "ambiguous"),
        ({"manifests": [{}]}, "ambiguous"),
        ({"fsLayers": [{"blobSum": "sha256:short"}] * 3}, r"fsLayers\[0\]\.blobSum"),
        ({"fsLayers": [{}] * 3}, r"fsLayers\[0\]\.blobSum: missing"),
        ({"history": [{"v1Compatibility": 5}] * 3}, r"history\[0\]\.v1Compatibility: must be a string"),
        ({"history": [{"v1Compatibility": "{"}] * 3}, r"history\[0\]\.v1Compatibility: it is not valid JSON"),
        ({"history": [{"v1Compatibility": "{}"}] * 3}, "id is not 64 hex digits"),
        ({"history": [{"v1Compatibility": '{"id": 5}'}] * 3}, r"history\[0\]\.v1Compatibility: id: "),
    ],
)
def test_what_is_no_image_is_refused(change: JSONObject, reason: str) -> None:
    with pytest.raises(InvalidManifestError, match=reason):
        parse(schema1(LAYERS) | change)


def rewritten(position: int, **change: object) -> JSONObject:
    """The manifest with other members in the record of a layer, counted from the newest down."""
    document = schema1(LAYERS)
    entry = document["history"][position]
    entry["v1Compatibility"] = json.dumps(json.loads(entry["v1Compatibility"]) | change)
    return document


def test_layers_have_to_be_each_others_parents() -> None:
    with pytest.raises(InvalidManifestError, match="is not the one below it"):
        parse(rewritten(0, parent="f" * 64))
    with pytest.raises(InvalidManifestError, match="lowest layer has a parent"):
        parse(rewritten(2, parent="f" * 64))
    document = rewritten(0, id=f"{0:064x}")
    with pytest.raises(InvalidManifestError, match="two layers of the same id"):
        parse(document)


def test_of_two_layers_of_one_id_in_a_row_the_lower_one_stays() -> None:
    document = rewritten(0, id=f"{1:064x}", parent=f"{0:064x}")
    manifest = parse(document)
    assert [layer.digest for layer in manifest.history] == [
        parse_digest(layer["blobSum"]) for layer in document["fsLayers"][1:]
    ]
    assert json.loads(manifest.configuration)["throwaway"]


def test_layers_come_lowest_first_and_without_those_that_are_thrown_away() -> None:
    document = schema1([b"lowest", None, b"upper", b"lowest"])
    manifest, config = convert(document)
    digests = [layer["digest"] for layer in manifest["layers"]]
    assert digests == [str(digest_of(layer)) for layer in (b"lowest", b"upper", b"lowest")]
    assert len(config["rootfs"]["diff_ids"]) == 3
    assert [step.get("empty_layer", False) for step in config["history"]] == [False, True, False, False]


def test_the_configuration_has_what_oci_knows_of_it_and_the_history() -> None:
    newest = {"config": {"Env": ["A=b"], "Healthcheck": {"Test": []}, "Labels": {"b": "2", "a": "1"}, "User": ""}}
    _, config = convert(schema1(LAYERS, author="me", docker_version="1.12.6", Size=5, **newest))
    assert config == {
        "created": "2020-01-01T00:00:02.5Z",
        "author": "me",
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["A=b"], "Labels": {"a": "1", "b": "2"}},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "d" * 64] * 2},
        "history": [
            {"created": "2020-01-01T00:00:00.5Z", "created_by": "/bin/sh -c step <0>"},
            {"created": "2020-01-01T00:00:01.5Z", "created_by": "/bin/sh -c step <1>", "empty_layer": True},
            {"created": "2020-01-01T00:00:02.5Z", "created_by": "/bin/sh -c step <2>", "author": "me"},
        ],
    }
    assert list(config["config"]["Labels"]) == ["a", "b"]


def test_what_docker_left_out_before_1_8_3_is_added() -> None:
    _, old = convert(schema1(LAYERS, created=None, docker_version="1.8.2", **{"os.version": "7"}))
    assert old["created"] == "0001-01-01T00:00:00Z"
    assert "os.version" not in old
    _, new = convert(schema1(LAYERS, created=None, docker_version="1.8.3", **{"os.version": "7"}))
    assert "created" not in new
    assert new["os.version"] == "7"


def test_a_docker_version_of_thousands_of_digits_is_a_new_one() -> None:
    # Python's int() refuses a number of more than 4300 digits, and a record is as large as a manifest may be.
    for version in ("9" * 5000, f"1.{'9' * 5000}.2"):
        _, config = convert(schema1(LAYERS, docker_version=version, **{"os.version": "7"}))
        assert config["os.version"] == "7"
    _, old = convert(schema1(LAYERS, docker_version=f"{'0' * 5000}1.8.2", **{"os.version": "7"}))
    assert "os.version" not in old


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2020-01-01T00:00:00.120000000Z", "2020-01-01T00:00:00.12Z"),
        ("2020-01-01T00:00:00.000Z", "2020-01-01T00:00:00Z"),
        ("2020-01-01T00:00:00.1234567891+01:00", "2020-01-01T00:00:00.123456789+01:00"),
    ],
)
def test_times_are_written_as_go_writes_them(written: str, read: str) -> None:
    assert convert(schema1(LAYERS, created=written))[1]["created"] == read


@pytest.mark.parametrize("newest", [{"created": "yesterday"}, {"config": []}, {"config": {"Env": "A=b"}}, {"os": 5}])
def test_a_configuration_that_is_none_is_refused(newest: JSONObject) -> None:
    with pytest.raises(InvalidManifestError):
        convert(schema1(LAYERS, **newest))


SCRAPS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
RECORD_KEYS = ["id", "parent", "created", "container_config", "throwaway", "config", "os", "docker_version", "author"]


@given(
    st.dictionaries(
        st.sampled_from(["fsLayers", "history", "schemaVersion", "mediaType", "signatures"]), SCRAPS, max_size=2
    ),
    st.dictionaries(st.sampled_from(RECORD_KEYS), SCRAPS | st.just("1.8.2"), max_size=2),
    st.integers(0, 2),
)
def test_bent_documents_are_read_or_refused(top: JSONObject, record: JSONObject, position: int) -> None:
    try:
        document = rewritten(position, **record) | top
    except ValueError:  # a number that JSON has no form for
        return
    for raw in (json.dumps(document).encode(), sign(document)[0]):
        try:
            manifest = parse(raw)
        except (InvalidManifestError, AssertionError):
            continue
        layer = UnpackedLayer(digest_of(b""), 7, Digest("sha256", "d" * 64), OCI_LAYER_TAR)
        try:
            served, config = convert_schema1(manifest, dict.fromkeys(manifest.layers, layer))
        except InvalidManifestError:
            continue
        assert served.config.digest == digest_of(config)
        assert json.loads(config)["rootfs"]["type"] == "layers"
