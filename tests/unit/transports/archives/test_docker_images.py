from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from container_image_proxy.errors import InvalidManifestError, UnknownManifestError
from container_image_proxy.image.digest import Digest
from container_image_proxy.image.manifest import Manifest, UntrustedManifest, parse_manifest
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.transports.archives.docker_images import (
    choose_image,
    layers_of,
    make_manifest,
    parse_images,
)


def images(*items: object) -> Any:
    return parse_images(json.dumps(list(items)).encode())


def item(*names: str, config: str = "c.json", layers: list[str] | None = None) -> dict[str, object]:
    return {"Config": config, "RepoTags": list(names) or None, "Layers": layers, "LayerSources": {"x": 1}}


def config(*diff_ids: str) -> bytes:
    return json.dumps({"rootfs": {"type": "layers", "diff_ids": diff_ids}, "os": "linux"}).encode()


def diff_id(number: int) -> str:
    return "sha256:" + hashlib.sha256(bytes([number])).hexdigest()


def test_an_image_is_chosen_by_name_by_position_or_as_the_only_one() -> None:
    two = images(item("busybox:latest", "example.com/a/b:1", config="a"), item(config="b"))
    assert choose_image(two, parse_reference("docker.io/library/busybox:latest")).config == "a"
    assert choose_image(two, parse_reference("example.com/a/b:1")).config == "a"
    assert choose_image(two, 1).config == "b"
    assert choose_image(two[:1], None).config == "a"


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (None, "has 2 images: name one of them: busybox:latest, @1"),
        (2, "has no image @2; it has busybox:latest, @1"),
        (parse_reference("busybox:2"), "has no image docker.io/library/busybox:2; it has busybox:latest, @1"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(wanted: Any, reason: str) -> None:
    with pytest.raises(UnknownManifestError, match=reason):
        choose_image(images(item("busybox:latest", "not A reference"), item()), wanted)


def test_an_archive_without_images_has_none() -> None:
    with pytest.raises(UnknownManifestError, match="the archive has no images"):
        choose_image(images(), None)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{}", "manifest.json: must be an array, not an object"),
        (b"[1]", r"manifest.json\[0\]: must be an object, not an integer"),
        (b'[{"RepoTags": []}]', "Config: missing"),
        (b'[{"Config": "c", "Layers": [1]}]', r"manifest.json\[0\].Layers\[0\]: must be a string, not an integer"),
        (b"[", "manifest.json is not valid JSON"),
        (b"[" + b" " * (1 << 20) + b"]", "manifest.json is larger than 1048576 bytes"),
    ],
)
@pytest.mark.demand("BOMB-archive")
def test_a_manifest_json_that_is_none_is_an_error(raw: bytes, reason: str) -> None:
    with pytest.raises(InvalidManifestError, match=reason):
        parse_images(raw)


def test_layers_are_matched_with_their_diff_ids_and_equal_ones_are_one_member() -> None:
    (one,) = images(item(layers=["a/layer.tar", "./b/layer.tar", "c/layer.tar"]))
    found = layers_of(one, config(diff_id(1), diff_id(2), diff_id(1)))
    assert [(str(digest), member) for digest, member in found] == [
        (diff_id(1), "a/layer.tar"),
        (diff_id(2), "b/layer.tar"),
        (diff_id(1), "a/layer.tar"),
    ]


@pytest.mark.parametrize(
    ("layers", "raw", "reason"),
    [
        (["a"], config(), "manifest.json has 1 layers, and the configuration in 'c.json' has 0"),
        (["a", "./a"], config(diff_id(1), diff_id(2)), "one member for two layers that differ"),
        ([], b"{}", "'c.json': the image's configuration: rootfs"),
        (["a"], config("sha256:abc"), r"'c.json': .*diff_ids\[0\]: 'sha256:abc' is not"),
        ([], b"[]", "'c.json': the image's configuration: the document: must be an object, not an array"),
    ],
)
def test_layers_that_do_not_fit_are_an_error(layers: list[str], raw: bytes, reason: str) -> None:
    (one,) = images(item(layers=layers))
    with pytest.raises(InvalidManifestError, match=reason):
        layers_of(one, raw)


def test_the_manifest_is_oci_and_its_layers_are_plain_tar() -> None:
    raw_config = config(diff_id(1))
    raw = make_manifest(raw_config, [(Digest("sha256", diff_id(1)[7:]), 1536)])
    manifest = parse_manifest(UntrustedManifest(raw, ""))
    assert isinstance(manifest, Manifest)
    assert manifest.config.digest.matches(raw_config)
    assert [(str(layer.digest), layer.size, layer.media_type) for layer in manifest.layers] == [
        (diff_id(1), 1536, "application/vnd.oci.image.layer.v1.tar")
    ]
