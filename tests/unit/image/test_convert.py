from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import InvalidManifestError
from container_image_proxy.image.convert import to_oci
from container_image_proxy.image.manifest import Manifest, UntrustedManifest, parse_manifest
from container_image_proxy.image.media_types import DOCKER_CONFIG, OCI_CONFIG, OCI_LAYER_OF, OCI_MANIFEST
from tests.support.manifests import JSONObject, descriptor, docker_manifest, manifest_of, oci_manifest

LAYER = "application/vnd.docker.image.rootfs"
LAYERS = st.lists(
    st.builds(
        lambda media_type, content, more: descriptor(media_type, content, **more),
        st.sampled_from(sorted(OCI_LAYER_OF)),
        st.binary(max_size=4),
        st.fixed_dictionaries(
            {},
            optional={
                "urls": st.lists(st.just("https://mirror.example/layer"), max_size=2),
                "annotations": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
            },
        ),
    ),
    min_size=1,
    max_size=4,
)
DOCKER_MANIFESTS = LAYERS.map(lambda layers: docker_manifest(layers=layers))


def test_an_oci_manifest_is_returned_as_it_is() -> None:
    manifest = manifest_of(oci_manifest())
    assert to_oci(manifest) is manifest


@pytest.mark.parametrize(
    ("docker", "oci"),
    [
        ("diff.tar", "v1.tar"),
        ("diff.tar.gzip", "v1.tar+gzip"),
        ("diff.tar.zstd", "v1.tar+zstd"),
        ("foreign.diff.tar", "nondistributable.v1.tar"),
        ("foreign.diff.tar.gzip", "nondistributable.v1.tar+gzip"),
        ("foreign.diff.tar.zstd", "nondistributable.v1.tar+zstd"),
    ],
)
def test_layer_types_become_their_oci_counterparts(docker: str, oci: str) -> None:
    converted = to_oci(manifest_of(docker_manifest(layers=[descriptor(f"{LAYER}.{docker}")])))
    assert converted.layers[0].media_type == f"application/vnd.oci.image.layer.{oci}"


@pytest.mark.parametrize("oci", sorted(set(OCI_LAYER_OF.values())))
def test_layer_types_that_are_ocis_already_stay(oci: str) -> None:
    assert to_oci(manifest_of(docker_manifest(layers=[descriptor(oci)]))).layers[0].media_type == oci


@pytest.mark.parametrize("media_type", ["", "text", OCI_CONFIG, f"{LAYER}.diff.tar; x=y"])
def test_a_layer_type_without_counterpart_is_an_error_that_names_the_layer(media_type: str) -> None:
    layers = [descriptor(f"{LAYER}.diff.tar"), descriptor(media_type)]
    with pytest.raises(InvalidManifestError, match=r"^layers\[1\] has the media type"):
        to_oci(manifest_of(docker_manifest(layers=layers)))


@pytest.mark.parametrize(
    "media_type",
    [DOCKER_CONFIG, OCI_CONFIG, "application/octet-stream", "", "application/vnd.docker.plugin.v1+json"],
)
def test_the_configuration_becomes_an_oci_one_in_name_only(media_type: str) -> None:
    converted = to_oci(manifest_of(docker_manifest(config=descriptor(media_type, b"{ }"))))
    assert converted.config == manifest_of(oci_manifest(config=descriptor(OCI_CONFIG, b"{ }"))).config


def test_the_bytes_are_the_same_whatever_the_formatting_of_the_original() -> None:
    document = docker_manifest(unknown=1)
    loose = json.dumps(dict(reversed(document.items())), indent=3).encode()
    manifest = parse_manifest(UntrustedManifest(loose, document["mediaType"]))
    assert isinstance(manifest, Manifest)
    assert to_oci(manifest).raw == to_oci(manifest_of(document)).raw


def test_a_docker_manifest_that_was_delivered_as_oci_is_converted_all_the_same() -> None:
    document = docker_manifest()
    manifest = parse_manifest(UntrustedManifest(json.dumps(document).encode(), OCI_MANIFEST))
    assert isinstance(manifest, Manifest)
    assert to_oci(manifest).raw == to_oci(manifest_of(document)).raw


@given(DOCKER_MANIFESTS)
def test_every_blob_keeps_its_digest_its_size_and_its_urls(document: JSONObject) -> None:
    manifest = manifest_of(document)
    assert [(b.digest, b.size, b.urls) for b in to_oci(manifest).blobs] == [
        (b.digest, b.size, b.urls) for b in manifest.blobs
    ]


def test_annotations_which_docker_does_not_have_are_left_out() -> None:
    layers = [descriptor(f"{LAYER}.diff.tar", annotations={"a": "b"})]
    converted = to_oci(manifest_of(docker_manifest(layers=layers, annotations={"c": "d"})))
    assert b"annotations" not in converted.raw


@given(DOCKER_MANIFESTS)
def test_what_conversion_writes_reads_back_and_converts_to_itself(document: JSONObject) -> None:
    converted = to_oci(manifest_of(document))
    assert parse_manifest(UntrustedManifest(converted.raw, OCI_MANIFEST)) == converted
    assert to_oci(converted) is converted
