"""Stores of containers-storage, written by our own writer, by skopeo and by podman."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

from tests.support.layouts import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Layout, StoredImage, encode, layer_tar
from tests.support.makers.maker import Made, Maker
from tests.support.stores import Store, pack, podman_store, skopeo_store

NAME = "localhost/os:latest"
_GZIP = b"\x1f\x8b"


def describe(store: Store, image: StoredImage) -> Made:
    """An image whose layers come out as tars; no file has them as they are."""
    tars = tuple(gzip.decompress(one) if one.startswith(_GZIP) else one for one in image.layers)
    return Made(store.reference(NAME), image.digest, image.config, tars, store.folder("images"))


def write(driver: str) -> Callable[[Path, StoredImage, Path], Made]:
    def make(_: Path, image: StoredImage, place: Path) -> Made:
        store = Store(place, driver)
        store.image(image, [NAME])
        return describe(store, image)

    return make


def copy_with_skopeo(driver: str) -> Callable[[Path, StoredImage, Path], Made]:
    def make(layout: Path, image: StoredImage, place: Path) -> Made:
        return describe(skopeo_store(f"oci:{layout}:latest", place, NAME, driver=driver), image)

    return make


def pull_with_podman(driver: str) -> Callable[[Path, StoredImage, Path], Made]:
    def make(layout: Path, image: StoredImage, place: Path) -> Made:
        return describe(podman_store(f"oci:{layout}:latest", place, NAME, driver=driver), image)

    return make


def write_list(layout: Path, place: Path) -> str:
    """Every platform of the index, as they are pulled one after the other."""
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    index = blob(layout, entry["digest"])
    store = Store(place)
    for descriptor in json.loads(index)["manifests"]:
        manifest = blob(layout, descriptor["digest"])
        document = json.loads(manifest)
        layers = tuple(blob(layout, layer["digest"]) for layer in document["layers"])
        image = StoredImage(descriptor, manifest, blob(layout, document["config"]["digest"]), layers)
        store.image(image, [f"localhost/os:{descriptor['platform']['architecture']}"], index=index)
    return store.reference(f"localhost/os@{entry['digest']}")


def blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / Path(*digest.split(":"))).read_bytes()


def clutter(made: Made) -> None:
    """As many other images and layers as a store may have, and files of none."""
    assert made.unreadable is not None
    driver = made.unreadable.name.partition("-")[0]
    store = Store(made.unreadable.parent, driver)
    (image,) = store.records("images")
    others = [image | {"id": f"{number:064x}", "names": [f"localhost/x:{number}"]} for number in range(10_000)]
    store.record("images", [*others, image])
    layers = store.records("layers")
    store.record("layers", [*(layers[0] | {"id": f"{n:064x}", "diff-digest": None} for n in range(10_000)), *layers])
    for number in range(10_000):
        (store.folder("layers") / f"{number:064x}.tar-split.gz").touch()


def sparse(place: Path, size: int) -> tuple[str, str]:
    store = Store(place)
    digest = f"sha256:{'5' * 64}"
    layer_id = "5" * 64
    files = store.files_of(layer_id)
    files.mkdir(parents=True)
    with (files / "hole").open("wb") as file:
        file.truncate(size)
    store.tar_split_of(layer_id).write_bytes(pack([{"type": 1, "name": "hole", "size": size}]))
    layout = Layout(place / "layout")
    config = encode({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest]}})
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": layout.blob(config, OCI_CONFIG),
        "layers": [{"mediaType": OCI_LAYER, "digest": f"sha256:{'6' * 64}", "size": 1}],
    }
    store.image(layout.manifest(document, config, ()), [NAME])
    store.record("layers", [{"id": layer_id, "diff-digest": digest, "diff-size": size}])
    store.record("images", [one | {"layer": layer_id} for one in store.records("images")])
    return store.reference(NAME), digest


def _harmed(harm: Callable[[Store, str, Path], object]) -> Callable[[Path, Path], str]:
    """A store of one image with one layer, which ``harm`` is given with its id and the file outside."""

    def make(place: Path, outside: Path) -> str:
        store = Store(place)
        secret = outside.read_bytes()
        store.image(Layout(place / "layout").image([layer_tar({"dir/secret": secret[::-1]})]), [NAME])
        harm(store, store.records("images")[0]["layer"], outside)
        return store.reference(NAME)

    return make


def _name_it(store: Store, layer_id: str, outside: Path) -> None:
    up = os.path.relpath(outside, store.files_of(layer_id))
    entry = {"type": 1, "name": up, "size": outside.stat().st_size}
    store.tar_split_of(layer_id).write_bytes(pack([entry]))


def _link_file(store: Store, layer_id: str, outside: Path) -> None:
    path = store.files_of(layer_id) / "dir/secret"
    path.unlink()
    path.symlink_to(outside)


def _link_directory(store: Store, layer_id: str, outside: Path) -> None:
    path = store.files_of(layer_id) / "dir"
    path.rename(path.with_name("was-dir"))
    path.symlink_to(outside.parent)
    (outside.parent / "secret").write_bytes(outside.read_bytes())


def _link_layer(store: Store, layer_id: str, outside: Path) -> None:
    _link_directory(store, layer_id, outside)
    files = store.files_of(layer_id)
    files.rename(files.with_name("was-diff"))
    files.symlink_to(outside.parent)


def _link_list(store: Store, _: str, outside: Path) -> None:
    path = store.folder("images") / "images.json"
    path.unlink()
    path.symlink_to(outside)


def _fifo(store: Store, layer_id: str, _: Path) -> None:
    path = store.files_of(layer_id) / "dir/secret"
    path.unlink()
    os.mkfifo(path)


MAKERS = (
    Maker(
        "storage-overlay",
        write("overlay"),
        make_list=write_list,
        clutter=clutter,
        sparse=sparse,
        hostile={
            "name-that-leaves": _harmed(_name_it),
            "linked-file": _harmed(_link_file),
            "linked-directory": _harmed(_link_directory),
            "linked-layer": _harmed(_link_layer),
            "linked-list": _harmed(_link_list),
            "fifo": _harmed(_fifo),
        },
    ),
    Maker("storage-vfs", write("vfs")),
    Maker("storage-overlay-by-skopeo", copy_with_skopeo("overlay"), ("skopeo",)),
    Maker("storage-vfs-by-skopeo", copy_with_skopeo("vfs"), ("skopeo",)),
    Maker("storage-overlay-by-podman", pull_with_podman("overlay"), ("podman",)),
    Maker("storage-vfs-by-podman", pull_with_podman("vfs"), ("podman",)),
)
