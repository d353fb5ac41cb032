"""oci: layouts, written by our own writer, by skopeo and by umoci."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from tests.support.layouts import (
    NAME_ANNOTATION,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Layout,
    StoredImage,
    encode,
    single_image,
    skopeo_copy,
)
from tests.support.makers.maker import Made, Maker, Spot


def describe(reference: str, path: Path, image: StoredImage) -> Made:
    """An image whose blobs lie in a layout as they came."""
    spots = {digest: Spot(path / "blobs" / Path(*digest.split(":"))) for digest in image.blobs}
    return Made(reference, image.digest, image.config, image.layers, path, spots)


def copy_layout(layout: Path, image: StoredImage, place: Path) -> Made:
    shutil.copytree(layout, place)
    return describe(f"oci:{place}:latest", place, image)


def copy_with_skopeo(layout: Path, image: StoredImage, place: Path) -> Made:
    skopeo_copy(f"oci:{layout}:latest", f"oci:{place}:latest")
    return describe(f"oci:{place}:latest", place, image)


def tag_with_umoci(layout: Path, image: StoredImage, place: Path) -> Made:
    shutil.copytree(layout, place)
    subprocess.run(["umoci", "tag", "--image", f"{place}:latest", "tagged"], check=True, capture_output=True)
    return describe(f"oci:{place}:tagged", place, image)


def copy_list(layout: Path, place: Path) -> str:
    shutil.copytree(layout, place)
    return f"oci:{place}:latest"


def copy_list_with_skopeo(layout: Path, place: Path) -> str:
    skopeo_copy(f"oci:{layout}:latest", f"oci:{place}:latest", "--all")
    return f"oci:{place}:latest"


def clutter(made: Made) -> None:
    """Files among the blobs, and as many entries in index.json as it may have."""
    path = Path(made.reference.removeprefix("oci:").removesuffix(":latest"))
    for number in range(10_000):
        (path / f"blobs/sha256/{number:064x}").touch()
    index = json.loads((path / "index.json").read_text())
    entry = index["manifests"][0]
    others = [entry | {"annotations": {NAME_ANNOTATION: f"other-{number}"}} for number in range(9_999)]
    (path / "index.json").write_bytes(encode(index | {"manifests": [*others, entry]}))


def with_linked_blob(place: Path, outside: Path) -> str:
    image = single_image(place)
    blob = place / "blobs" / Path(*image.config_digest.split(":"))
    blob.unlink()
    blob.symlink_to(outside)
    return f"oci:{place}:latest"


def with_linked_index(place: Path, outside: Path) -> str:
    single_image(place)
    (place / "index.json").unlink()
    (place / "index.json").symlink_to(outside)
    return f"oci:{place}:latest"


def with_fifo(place: Path, _: Path) -> str:
    image = single_image(place)
    blob = place / "blobs" / Path(*image.digest.split(":"))
    blob.unlink()
    os.mkfifo(blob)
    return f"oci:{place}:latest"


def with_digest_that_leaves(place: Path, outside: Path) -> str:
    layout = Layout(place)
    digest = f"sha256:{os.path.relpath(outside, place / 'blobs/sha256')}"
    entry = {"mediaType": OCI_MANIFEST, "digest": digest, "size": 5, "annotations": {NAME_ANNOTATION: "latest"}}
    (layout.path / "index.json").write_bytes(encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}))
    return f"oci:{place}:latest"


def sparse(place: Path, size: int) -> tuple[str, str]:
    layout = Layout(place)
    digest = f"sha256:{'5' * 64}"
    config = encode({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest]}})
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": layout.blob(config, OCI_CONFIG),
        "layers": [{"mediaType": OCI_LAYER, "digest": digest, "size": size}],
    }
    layout.manifest(manifest, config, (), name="latest")
    with layout.blob_path(digest).open("wb") as file:
        file.truncate(size)
    return f"oci:{place}:latest", digest


MAKERS = (
    Maker(
        "oci",
        copy_layout,
        make_list=copy_list,
        clutter=clutter,
        sparse=sparse,
        hostile={
            "linked-blob": with_linked_blob,
            "linked-index": with_linked_index,
            "fifo": with_fifo,
            "digest-that-leaves": with_digest_that_leaves,
        },
    ),
    Maker("oci-by-skopeo", copy_with_skopeo, ("skopeo",), make_list=copy_list_with_skopeo),
    Maker("oci-by-umoci", tag_with_umoci, ("umoci",)),
)
