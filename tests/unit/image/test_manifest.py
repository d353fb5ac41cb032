from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import InvalidManifestError, UnknownManifestError
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import (
    MAX_CONFIG_SIZE,
    MAX_MANIFEST_SIZE,
    Index,
    Manifest,
    UntrustedManifest,
    choose_manifest,
    parse_manifest,
)
from container_image_proxy.image.media_types import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1_SIGNED,
    OCI_INDEX,
    OCI_MANIFEST,
)
from container_image_proxy.image.platform import parse_platform
from tests.support.manifests import (
    OCI_LAYER,
    JSONObject,
    descriptor,
    docker_manifest,
    index_of,
    instance,
    manifest_of,
    oci_index,
    oci_manifest,
    untrusted,
)

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


@pytest.mark.parametrize("layers", [[], None])
def test_an_image_may_have_no_layers(layers: list[object] | None) -> None:
    assert manifest_of(oci_manifest(layers=layers)).layers == ()


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
    refuse(oci_index(instance("a"), **{field: []}), OCI_INDEX, f"ambiguous: {field}")


@pytest.mark.demand("TYPE-confusion")
@pytest.mark.parametrize("field", ["fsLayers", "history"])
def test_an_image_with_a_field_of_schema_1_is_refused(field: str) -> None:
    refuse(oci_manifest(**{field: []}), OCI_MANIFEST, f"ambiguous: {field}")


@pytest.mark.demand("TYPE-content-type")
@pytest.mark.parametrize(
    ("document", "served_as"),
    [
        (oci_manifest(), OCI_INDEX),
        (oci_index(instance("a")), OCI_MANIFEST),
        (oci_index(instance("a"), mediaType=None), OCI_MANIFEST),
        (oci_manifest(), DOCKER_MANIFEST),
        (docker_manifest(mediaType=None), DOCKER_MANIFEST),
        (oci_manifest(mediaType=OCI_INDEX), OCI_MANIFEST),
        (oci_index(instance("a"), mediaType=OCI_MANIFEST), OCI_INDEX),
        (oci_manifest(mediaType="text/plain"), OCI_MANIFEST),
        (oci_manifest(mediaType=[OCI_MANIFEST]), OCI_MANIFEST),
        (oci_manifest(mediaType={}), OCI_MANIFEST),
    ],
)
def test_a_document_is_never_read_as_another_type_than_the_one_it_was_served_as(
    document: JSONObject, served_as: str
) -> None:
    with pytest.raises(InvalidManifestError):
        parse_manifest(untrusted(document, served_as))


@pytest.mark.demand("TYPE-content-type")
@pytest.mark.parametrize("served_as", ["text/plain", f"{OCI_MANIFEST}; charset=utf-8"])
def test_a_type_that_is_no_manifests_is_no_reason_to_guess(served_as: str) -> None:
    refuse(oci_manifest(), served_as, "is not the media type of an image manifest")


@pytest.mark.parametrize("served_as", [DOCKER_SCHEMA1_SIGNED, ""])
def test_schema_1_is_refused_by_name(served_as: str) -> None:
    refuse({"schemaVersion": 1, "fsLayers": [], "signatures": [{}]}, served_as, "Docker schema 1 is not supported")


@pytest.mark.parametrize("version", [1, 3, "2", None])
def test_another_schema_version_is_refused(version: object) -> None:
    refuse(oci_manifest(schemaVersion=version), OCI_MANIFEST, "schemaVersion")


@pytest.mark.demand("DIG-malformed")
@pytest.mark.parametrize(
    ("document", "where"),
    [
        (oci_manifest(config=descriptor("a/b") | BAD_DIGEST), r"^config\.digest"),
        (oci_manifest(layers=[descriptor("a/b"), descriptor("a/b") | BAD_DIGEST]), r"^layers\[1\]\.digest"),
        (oci_index(instance("a"), instance("b", "plan9/mips") | BAD_DIGEST), r"^manifests\[1\]\.digest"),
    ],
)
def test_a_malformed_digest_anywhere_is_refused_and_located(document: JSONObject, where: str) -> None:
    refuse(document, document["mediaType"], where)


@pytest.mark.demand("DIG-size-lie")
@pytest.mark.parametrize("size", [-1, MAX_CONFIG_SIZE + 1, 32 * 2**30, 2**63 - 1])
def test_a_config_or_manifest_that_claims_to_be_too_large_is_refused(size: int) -> None:
    refuse(oci_manifest(config=descriptor("a/b") | {"size": size}), OCI_MANIFEST, r"^config\.size")
    refuse(oci_index(instance("a") | {"size": size}), OCI_INDEX, r"^manifests\[0\]\.size")


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


@pytest.mark.parametrize(("document", "field"), [(oci_manifest(), "layers"), (oci_index(), "manifests")])
def test_a_missing_list_is_no_empty_one(document: JSONObject, field: str) -> None:
    media_type = document["mediaType"]
    refuse({key: value for key, value in document.items() if key != field}, media_type, f"no {field}")


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
    with pytest.raises(InvalidManifestError):
        parse_manifest(UntrustedManifest(raw.encode(), OCI_MANIFEST))


def test_a_docker_layer_of_a_type_that_docker_does_not_have_is_refused() -> None:
    refuse(docker_manifest(layers=[descriptor(OCI_LAYER)]), DOCKER_MANIFEST, r"^layers\[0\]")


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
        as_the_document_says = (OCI_MANIFEST, DOCKER_MANIFEST)
        assert media_type in {"", parsed.media_type} or (media_type, parsed.media_type) == as_the_document_says


def chosen(index: JSONObject, platform: str) -> str:
    digest = choose_manifest(index_of(index), parse_platform(platform)).digest
    return next(name for name in ("first", "second", "third") if digest == digest_of(name.encode()))


ZSTD = {"annotations": {"io.github.containers.compression.zstd": "true"}}


@pytest.mark.parametrize(
    ("manifests", "platform", "name"),
    [
        ([instance("first", "linux/arm64"), instance("second")], "linux/amd64", "second"),
        ([instance("first"), instance("second")], "linux/amd64", "first"),
        ([instance("first"), instance("second", **ZSTD), instance("third", **ZSTD)], "linux/amd64", "second"),
        ([instance("first", "linux/arm/v5"), instance("second", "linux/arm/v7", **ZSTD)], "linux/arm/v5", "first"),
        ([instance("first", "linux/arm/v5"), instance("second", "linux/arm/v6")], "linux/arm/v7", "second"),
        ([instance("first", None), instance("second")], "linux/amd64", "second"),
        ([instance("first", None), instance("second")], "linux/s390x", "first"),
    ],
)
def test_the_closest_platform_then_zstd_then_the_first_is_chosen(
    manifests: list[JSONObject], platform: str, name: str
) -> None:
    assert chosen(oci_index(*manifests), platform) == name


def test_a_nested_index_is_chosen_as_what_it_is() -> None:
    nested = instance("nested") | {"mediaType": OCI_INDEX}
    assert choose_manifest(index_of(oci_index(nested)), parse_platform("linux/amd64")).media_type == OCI_INDEX


def test_the_platforms_that_there_are_are_named_if_none_fits() -> None:
    index = index_of(oci_index(instance("a", "linux/arm64/v8"), instance("b"), instance("c", "evil\n/x")))
    with pytest.raises(UnknownManifestError, match=r"for linux/s390x, only for linux/amd64, linux/arm64/v8$"):
        choose_manifest(index, parse_platform("linux/s390x"))


def test_an_empty_index_and_a_docker_entry_without_platform_serve_nobody() -> None:
    for index in (oci_index(), oci_index(instance("first", None), mediaType=DOCKER_LIST)):
        with pytest.raises(UnknownManifestError, match=r"no image for linux/amd64$"):
            choose_manifest(index_of(index), parse_platform("linux/amd64"))
