"""dir: images, written by our own writer and by skopeo."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.layouts import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, StoredImage, encode, single_image, skopeo_copy
from tests.support.makers.maker import Made, Maker, Spot
from tests.support.requirements import require_mounting

VERSION = "Directory Transport Version: 1.1\n"


def describe(place: Path, image: StoredImage, suffix: str = "") -> Made:
    spots = {digest: Spot(place / (digest.partition(":")[2] + suffix)) for digest in image.blobs}
    return Made(f"dir:{place}", image.digest, image.config, image.layers, place / "manifest.json", spots)


def write(place: Path, image: StoredImage, *, version: str = VERSION, suffix: str = "") -> Made:
    """The image as a directory; ``suffix`` is what the names of blobs end with."""
    place.mkdir(parents=True)
    (place / "version").write_text(version)
    (place / "manifest.json").write_bytes(image.manifest)
    for digest, content in image.blobs.items():
        (place / (digest.partition(":")[2] + suffix)).write_bytes(content)
    return describe(place, image, suffix)


def write_former(_: Path, image: StoredImage, place: Path) -> Made:
    return write(place, image, version="Directory Transport Version: 1.0\n", suffix=".tar")


def copy_with_skopeo(layout: Path, image: StoredImage, place: Path) -> Made:
    skopeo_copy(f"oci:{layout}:latest", f"dir:{place}")
    return describe(place, image)


def push_with_buildah(layout: Path, image: StoredImage, place: Path) -> Made:
    require_mounting("buildah unpacks layers")
    with tempfile.TemporaryDirectory(prefix="buildah-", dir="/tmp") as store:

        def buildah(*arguments: str) -> str:
            options = ["--root", f"{store}/root", "--runroot", f"{store}/run", "--storage-driver", "vfs"]
            done = subprocess.run(["buildah", *options, *arguments], check=True, capture_output=True, text=True)
            return done.stdout.strip()

        name = buildah("pull", "--quiet", f"oci:{layout}:latest")
        buildah("push", "--quiet", "--disable-compression", name, f"dir:{place}")
    tars = tuple(gzip.decompress(layer) for layer in image.layers)
    manifest = (place / "manifest.json").read_bytes()
    config = (place / json.loads(manifest)["config"]["digest"].partition(":")[2]).read_bytes()
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    return Made(f"dir:{place}", digest, config, tars, place / "manifest.json")


def write_list(layout: Path, place: Path) -> str:
    """Every blob of the layout, whatever it is, where a manifest is looked for and where a layer is."""
    place.mkdir()
    entry = json.loads((layout / "index.json").read_text())["manifests"][0]
    shutil.copy(layout / "blobs" / Path(*entry["digest"].split(":")), place / "manifest.json")
    for blob in (layout / "blobs/sha256").iterdir():
        shutil.copy(blob, place / blob.name)
        shutil.copy(blob, place / f"{blob.name}.manifest.json")
    return f"dir:{place}"


def copy_list_with_skopeo(layout: Path, place: Path) -> str:
    skopeo_copy(f"oci:{layout}:latest", f"dir:{place}", "--all")
    return f"dir:{place}"


def clutter(made: Made) -> None:
    place = Path(made.reference.removeprefix("dir:"))
    for number in range(10_000):
        (place / f"{number:064x}").touch()


def _image(place: Path) -> StoredImage:
    image = single_image(place.parent / "layout")
    write(place, image)
    return image


def with_linked_blob(place: Path, outside: Path) -> str:
    blob = place / _image(place).config_digest.partition(":")[2]
    blob.unlink()
    blob.symlink_to(outside)
    return f"dir:{place}"


def with_linked_manifest(place: Path, outside: Path) -> str:
    _image(place)
    (place / "manifest.json").unlink()
    (place / "manifest.json").symlink_to(outside)
    return f"dir:{place}"


def with_fifo(place: Path, _: Path) -> str:
    blob = place / _image(place).config_digest.partition(":")[2]
    blob.unlink()
    os.mkfifo(blob)
    return f"dir:{place}"


def with_digest_that_leaves(place: Path, outside: Path) -> str:
    place.mkdir()
    descriptor = {"mediaType": OCI_CONFIG, "digest": f"sha256:{os.path.relpath(outside, place)}", "size": 5}
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor, "layers": []}
    (place / "manifest.json").write_bytes(encode(manifest))
    return f"dir:{place}"


def sparse(place: Path, size: int) -> tuple[str, str]:
    image = _image(place)
    digest = f"sha256:{'5' * 64}"
    layers = [{"mediaType": OCI_LAYER, "digest": digest, "size": size}]
    (place / "manifest.json").write_bytes(encode(json.loads(image.manifest) | {"layers": layers}))
    with (place / ("5" * 64)).open("wb") as file:
        file.truncate(size)
    return f"dir:{place}", digest


MAKERS = (
    Maker(
        "dir",
        lambda _, image, place: write(place, image),
        make_list=write_list,
        clutter=clutter,
        sparse=sparse,
        hostile={
            "linked-blob": with_linked_blob,
            "linked-manifest": with_linked_manifest,
            "fifo": with_fifo,
            "digest-that-leaves": with_digest_that_leaves,
        },
    ),
    Maker("dir-1.0", write_former),
    Maker("dir-by-skopeo", copy_with_skopeo, ("skopeo",), make_list=copy_list_with_skopeo),
    Maker("dir-by-buildah", push_with_buildah, ("buildah",)),
)
