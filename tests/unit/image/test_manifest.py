from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import InvalidManifestError
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import (
    MAX_CONFIG_SIZE,
    MAX_MANIFEST_SIZE,
    Index,
    Manifest,
    UntrustedManifest,
    parse_manifest,
)
from container_image_proxy.image.media_types import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1_SIGNED,
    OCI_INDEX,
    OCI_MANIFEST,
)
from tests.support.manifests import (
    OCI_LAYER,
    JSONObject,
    descriptor,
    docker_manifest,
    instance,
    manifest_of,
    oci_index,
    oci_manifest,
    untrusted,
)

if TYPE_CHECKING:
    from collections.abc import Callable

TYPES = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST, ""]
BAD_DIGEST = {"digest": "sha256:../../etc/passwd"}


def refuse(document: object, media_type: str, reason: str) -> None:
    with pytest.raises(InvalidManifestError, match=reason):
        parse_manifest(untrusted(document, media_type))


def test_a_manifest_keeps_its_bytes_and_knows_their_digest() -> None:
    raw = json.dumps(oci_manifest(), indent=7).encode()
    manifest = parse_manifest(UntrustedManifest(raw, OCI_MANIFEST))
    assert (manifest.raw, manifest.digest) == (raw, digest_of(raw))


def test_the_blobs_are_config_and_layers_in_order() -> None:
    layers = [descriptor(OCI_LAYER, b"lower"), descriptor(OCI_LAYER, b"upper")]
    blobs = manifest_of(oci_manifest(layers=layers)).blobs
    assert [blob.digest for blob in blobs] == [digest_of(b"{}"), digest_of(b"lower"), digest_of(b"upper")]


def test_an_artifact_is_a_manifest_like_any_other() -> None:
    artifact = oci_manifest(
        artifactType="application/vnd.example+type",
        config=descriptor("application/vnd.oci.empty.v1+json"),
        layers=[descriptor("application/wasm", b"\0asm")],
        subject=descriptor(OCI_MANIFEST),
    )
    assert manifest_of(artifact).layers[0].media_type == "application/wasm"


@pytest.mark.parametrize("make", [oci_manifest, docker_manifest])
@pytest.mark.parametrize("layers", [{"layers": []}, {"layers": None}, {}])
def test_an_image_may_have_no_layers(make: Callable[[], JSONObject], layers: JSONObject) -> None:
    document = {key: value for key, value in make().items() if key != "layers"} | layers
    assert manifest_of(document).layers == ()


@pytest.mark.parametrize(
    ("document", "kind"),
    [(oci_manifest(), Manifest), (docker_manifest(), Manifest), (oci_index(instance("a")), Index)],
)
def test_an_undeclared_document_is_read_as_what_it_says_it_is(document: JSONObject, kind: type) -> None:
    parsed = parse_manifest(untrusted(document))
    assert isinstance(parsed, kind)
    assert parsed.media_type == document["mediaType"]


@pytest.mark.demand("LIM-manifest")
def test_a_manifest_may_have_4_mebibytes_and_not_one_byte_more() -> None:
    raw = json.dumps(oci_manifest()).encode()
    largest = raw + b" " * (MAX_MANIFEST_SIZE - len(raw))
    assert parse_manifest(UntrustedManifest(largest, OCI_MANIFEST)).raw is largest
    with pytest.raises(InvalidManifestError, match="larger"):
        parse_manifest(UntrustedManifest(largest + b" ", OCI_MANIFEST))


@pytest.mark.demand("LIM-manifest")
def test_the_number_of_layers_is_bounded() -> None:
    refuse(oci_manifest(layers=[{}] * 10_001), OCI_MANIFEST, "more than 10000 layers")


@pytest.mark.demand("TYPE-confusion")
@pytest.mark.parametrize("served_as", TYPES)
@pytest.mark.parametrize("declared", [OCI_MANIFEST, OCI_INDEX, None])
def test_a_document_that_could_be_two_kinds_is_refused_as_either(declared: str | None, served_as: str) -> None:
    document = oci_manifest(manifests=[instance("a")], mediaType=declared)
    with pytest.raises(InvalidManifestError, match="ambiguous"):
        parse_manifest(untrusted(document, served_as))


@pytest.mark.demand("TYPE-confusion")
@pytest.mark.parametrize("field", ["config", "layers", "fsLayers", "history"])
def test_an_index_with_a_field_of_an_image_is_refused(field: str) -> None:
    refuse(
        oci_index(instance("a"), **{field: []}),
        OCI_INDEX,
        f"ambiguous: {OCI_INDEX} has no {field}, ".replace("+", r"\+"),
    )


@pytest.mark.demand("TYPE-confusion")
@pytest.mark.parametrize("field", ["fsLayers", "history"])
def test_an_image_with_a_field_of_schema_1_is_refused(field: str) -> None:
    refuse(oci_manifest(**{field: []}), OCI_MANIFEST, f"ambiguous: {OCI_MANIFEST} has no {field}, ".replace("+", r"\+"))


@pytest.mark.demand("TYPE-content-type")
@pytest.mark.parametrize("served_as", [*TYPES, "text/plain", "application/json", DOCKER_SCHEMA1_SIGNED])
@pytest.mark.parametrize("document", [oci_manifest(), docker_manifest(), oci_index(instance("a"))])
def test_a_document_is_the_same_whatever_it_is_served_as(document: JSONObject, served_as: str) -> None:
    assert parse_manifest(untrusted(document, served_as)) == parse_manifest(untrusted(document))


@pytest.mark.parametrize("served_as", [DOCKER_SCHEMA1_SIGNED, OCI_MANIFEST, ""])
def test_schema_1_is_known_by_its_members(served_as: str) -> None:
    refuse({"schemaVersion": 1, "fsLayers": []}, served_as, "the manifest has no fsLayers")


@pytest.mark.parametrize(
    "members",
    [
        {"schemaVersion": 3},
        {"schemaVersion": "2"},
        {"mediaType": "text/plain"},
        {"annotations": {"a": None, "b": 5}},
        {"annotations": "none"},
        {"subject": "none"},
        {"artifactType": 5},
        {"platform": {}},
        {"x-unknown": {"deep": [1, None]}},
        {"Annotations": {}, "Subject": 1},
    ],
)
@pytest.mark.parametrize("make", [oci_manifest, docker_manifest])
def test_members_that_decide_nothing_may_have_any_form(make: Callable[..., JSONObject], members: JSONObject) -> None:
    document = make(**members)
    parsed = parse_manifest(untrusted(document, make()["mediaType"]))
    assert isinstance(parsed, Manifest)
    assert parsed.blobs == manifest_of(make()).blobs


@pytest.mark.demand("DIG-malformed")
@pytest.mark.parametrize(
    ("document", "where"),
    [
        (oci_manifest(config=descriptor("a/b") | BAD_DIGEST), r"^config\.digest"),
        (oci_manifest(layers=[descriptor("a/b"), descriptor("a/b") | BAD_DIGEST]), r"^layers\[1\]\.digest"),
    ],
)
def test_a_malformed_digest_anywhere_in_an_image_is_refused_and_located(document: JSONObject, where: str) -> None:
    refuse(document, document["mediaType"], where)


@pytest.mark.demand("DIG-size-lie")
@pytest.mark.parametrize("size", [-1, MAX_CONFIG_SIZE + 1, 32 * 2**30, 2**63 - 1])
def test_a_config_that_claims_to_be_too_large_is_refused(size: int) -> None:
    refuse(oci_manifest(config=descriptor("a/b") | {"size": size}), OCI_MANIFEST, r"^config\.size")


def test_a_layer_may_be_larger_than_a_manifest() -> None:
    layer = descriptor(OCI_LAYER) | {"size": 32 * 2**30}
    assert manifest_of(oci_manifest(layers=[layer])).layers[0].size == 32 * 2**30


@pytest.mark.parametrize(
    "document",
    [oci_manifest(config=None), oci_manifest(layers={}), oci_manifest(layers=[[]]), oci_index() | {"manifests": 1}],
)
def test_a_misshapen_document_is_refused(document: JSONObject) -> None:
    with pytest.raises(InvalidManifestError):
        parse_manifest(untrusted(document, document["mediaType"]))


def test_an_index_without_a_list_is_no_empty_one() -> None:
    refuse({"schemaVersion": 2, "mediaType": OCI_INDEX}, OCI_INDEX, r"^manifests: missing$")


@pytest.mark.parametrize("config", [{}, {"config": None}])
def test_an_image_has_a_configuration(config: JSONObject) -> None:
    document = {key: value for key, value in oci_manifest().items() if key != "config"} | config
    refuse(document, OCI_MANIFEST, r"^the manifest has no config$")


@pytest.mark.demand("JSON-duplicate-keys")
@pytest.mark.parametrize(
    "raw",
    [
        json.dumps(oci_manifest()).replace('"layers":', '"layers": [], "layers":'),
        json.dumps(oci_manifest()).replace('"layers":', '"Layers": [], "layers":'),
        json.dumps(oci_manifest()).replace('"size":', '"size": 1, "size":'),
        json.dumps(oci_manifest()).replace('"layers":', '"LAYERS":'),
    ],
)
def test_a_manifest_that_readers_could_take_differently_is_refused(raw: str) -> None:
    with pytest.raises(InvalidManifestError, match="ambiguous"):
        parse_manifest(UntrustedManifest(raw.encode(), OCI_MANIFEST))


@pytest.mark.parametrize("more", ['"x": 1, "x": 2', '"annotations": {"a": "b", "a": "c"}', '"x": {"y": 1, "y": 2}'])
def test_a_repeated_key_that_decides_nothing_is_no_reason_to_refuse(more: str) -> None:
    raw = json.dumps(oci_manifest()).replace('"layers":', f'{more}, "layers":').encode()
    assert isinstance(parse_manifest(UntrustedManifest(raw, OCI_MANIFEST)), Manifest)


@pytest.mark.parametrize("text", [b"caf\xe9", rb"cut \ud83d"])
def test_an_annotation_may_be_no_text(text: bytes) -> None:
    raw = json.dumps(oci_manifest(annotations={"a": "XX"})).encode().replace(b"XX", text)
    parsed = parse_manifest(UntrustedManifest(raw, OCI_MANIFEST))
    assert parsed.raw == raw


SCRAPS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(TYPES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers", "annotations", "Layers"]


@st.composite
def bent_documents(draw: st.DrawFn) -> bytes:
    """Good documents with scraps in place of fields, of descriptors' fields, or of bytes."""
    document = draw(st.sampled_from([oci_manifest(), docker_manifest(), oci_index(instance("a"))]))
    document |= draw(st.dictionaries(st.sampled_from(FIELDS), SCRAPS, max_size=2))
    if isinstance(document.get("layers"), list) and draw(st.booleans()):
        keys = st.sampled_from(["mediaType", "digest", "size", "urls", "annotations", "platform"])
        document["layers"] = [descriptor(OCI_LAYER) | draw(st.dictionaries(keys, SCRAPS, max_size=2))]
    raw = json.dumps(document).encode()
    return raw[: draw(st.integers(len(raw) - 2, len(raw)))]


@given(bent_documents() | st.binary(max_size=100), st.sampled_from(TYPES))
def test_any_bytes_are_a_manifest_or_our_error(raw: bytes, media_type: str) -> None:
    with contextlib.suppress(InvalidManifestError):
        parsed = parse_manifest(UntrustedManifest(raw, media_type))
        assert parsed.raw == raw
