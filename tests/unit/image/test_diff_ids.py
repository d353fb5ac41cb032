"""A manifest that names tars: what it keeps of the original, and what it takes from the configuration."""

from __future__ import annotations

import json

import pytest

from container_image_proxy.errors import InvalidManifestError
from container_image_proxy.image.diff_ids import parse_diff_ids, with_tar_layers
from container_image_proxy.image.digest import Digest, digest_of
from container_image_proxy.image.manifest import Manifest, UntrustedManifest, parse_manifest
from container_image_proxy.image.media_types import DOCKER_MANIFEST, OCI_CONFIG, OCI_MANIFEST

TARS = (digest_of(b"lower"), digest_of(b"upper"))
CONFIG = json.dumps({"rootfs": {"type": "layers", "diff_ids": [str(one) for one in TARS]}}).encode()


def manifest_of(media_type: str = OCI_MANIFEST, layers: int = 2, **more: object) -> Manifest:
    config = {
        "mediaType": "application/x",
        "digest": str(digest_of(CONFIG)),
        "size": len(CONFIG),
        "annotations": {"a": "b"},
    }
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": str(digest_of(b"z")), "size": 9}
    document = {"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer] * layers} | more
    parsed = parse_manifest(UntrustedManifest(json.dumps(document).encode(), media_type))
    assert isinstance(parsed, Manifest)
    return parsed


def test_a_configuration_names_the_tars() -> None:
    assert parse_diff_ids(CONFIG) == TARS


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"{}",
        b'{"rootfs": null}',
        b'{"rootfs": {"diff_ids": {}}}',
        b'{"rootfs": {"diff_ids": [1]}}',
        b'{"rootfs": {"diff_ids": ["sha256:x"]}}',
        b'{"rootfs": {"diff_ids": []}, "rootfs": {"diff_ids": []}}',
        b'{"rootfs": {"diff_ids": []}, "RootFS": {}}',
    ],
)
def test_a_configuration_that_could_mean_anything_else_is_refused(config: bytes) -> None:
    with pytest.raises(InvalidManifestError):
        parse_diff_ids(config)


def test_an_image_without_layers_has_none() -> None:
    assert parse_diff_ids(b'{"rootfs": {"type": "layers"}}') == ()
    assert with_tar_layers(manifest_of(layers=0), (), ()).layers == ()


def test_an_oci_manifest_keeps_all_but_its_layers() -> None:
    original = manifest_of(annotations={"k": "v"}, subject={"x": 1})
    served = with_tar_layers(original, TARS, (10240, 20480))
    document, before = json.loads(served.raw), json.loads(original.raw)
    assert document.pop("layers") == [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": str(digest), "size": size}
        for digest, size in zip(TARS, (10240, 20480), strict=True)
    ]
    del before["layers"]
    assert document == before
    assert parse_manifest(UntrustedManifest(served.raw, "")) == served


def test_a_docker_manifest_becomes_one_of_oci() -> None:
    served = with_tar_layers(manifest_of(DOCKER_MANIFEST), TARS, (1, 2))
    document = json.loads(served.raw)
    assert document["mediaType"] == served.media_type == OCI_MANIFEST
    assert document["config"] == {"mediaType": OCI_CONFIG, "digest": str(digest_of(CONFIG)), "size": len(CONFIG)}
    assert parse_manifest(UntrustedManifest(served.raw, "")) == served


@pytest.mark.parametrize(("tars", "sizes"), [(TARS[:1], (1,)), (TARS, (1,)), ((*TARS, TARS[0]), (1, 2, 3))])
def test_as_many_tars_as_layers_or_nothing(tars: tuple[Digest, ...], sizes: tuple[int, ...]) -> None:
    with pytest.raises(InvalidManifestError, match="the manifest has 2 layers"):
        with_tar_layers(manifest_of(), tars, sizes)


@pytest.mark.parametrize("size", [-1, 1 << 63])
def test_a_size_that_cannot_be_is_refused(size: int) -> None:
    with pytest.raises(InvalidManifestError, match="size"):
        with_tar_layers(manifest_of(layers=1), TARS[:1], (size,))
