"""Stores of containers-storage for tests, written in plain Python as podman writes them, and by skopeo and podman.

``Store`` makes one image at a time: lists, locks, manifests, tar-splits, and the files of each layer where the driver
has them.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.layouts import StoredImage
from tests.support.requirements import require_mounting

JSONObject = dict[str, Any]
_GZIP = b"\x1f\x8b"
_NO_OVERLAY = "backing file system is unsupported for this graph driver"
_HOLD = """
import fcntl, os, sys
number = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(number, getattr(fcntl, sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class Store:
    """A store of ``driver`` below ``root``, complete after every call."""

    root: Path
    driver: str = "overlay"

    def __post_init__(self) -> None:
        for kind in ("images", "layers"):
            self.folder(kind).mkdir(parents=True, exist_ok=True)
            (self.folder(kind) / f"{kind}.lock").touch()

    def folder(self, kind: str) -> Path:
        return self.root / f"{self.driver}-{kind}"

    def reference(self, name: str) -> str:
        """``containers-storage:`` reference of an image here."""
        return f"containers-storage:[{self.driver}@{self.root}]{name}"

    def files_of(self, layer_id: str) -> Path:
        """Where the files of a layer lie."""
        below = self.root / self.driver
        return below / layer_id / "diff" if self.driver == "overlay" else below / "dir" / layer_id

    def tar_split_of(self, layer_id: str) -> Path:
        return self.folder("layers") / f"{layer_id}.tar-split.gz"

    def records(self, kind: str) -> list[JSONObject]:
        path = self.folder(kind) / f"{kind}.json"
        return json.loads(path.read_text()) if path.exists() else []

    def record(self, kind: str, records: Sequence[JSONObject]) -> None:
        (self.folder(kind) / f"{kind}.json").write_text(json.dumps(records))

    def image(
        self,
        image: StoredImage,
        names: Iterable[str] = (),
        *,
        index: bytes | None = None,
        signatures: Mapping[str, Sequence[bytes]] | None = None,
        **more: object,
    ) -> str:
        """Unpack an image as a pull does; its id. ``index`` named it; ``signatures`` are by the manifest's digest."""
        parent = ""
        for layer in image.layers:
            parent = self.layer(gzip.decompress(layer) if layer.startswith(_GZIP) else layer, parent)
        image_id = hashlib.sha256(image.config).hexdigest()
        digest = f"sha256:{hashlib.sha256(image.manifest).hexdigest()}"
        data = {"manifest": image.manifest, f"manifest-{digest}": image.manifest, image.config_digest: image.config}
        if index is not None:
            data[f"manifest-sha256:{hashlib.sha256(index).hexdigest()}"] = index
        sizes = {}
        for signed, blobs in (signatures or {}).items():
            data[f"signature-{signed.partition(':')[2]}"] = b"".join(blobs)
            sizes[signed] = [len(blob) for blob in blobs]
        for key, content in data.items():
            self.data_path(image_id, key).parent.mkdir(exist_ok=True)
            self.data_path(image_id, key).write_bytes(content)
        record = {
            "id": image_id,
            "digest": digest,
            "names": list(names),
            "layer": parent,
            "metadata": json.dumps({"signatures-sizes": sizes}),
            "big-data-names": list(data),
            "big-data-digests": {key: f"sha256:{hashlib.sha256(one).hexdigest()}" for key, one in data.items()},
        }
        others = [one for one in self.records("images") if one["id"] != image_id]
        self.record("images", [*others, record | more])
        return image_id

    def data_path(self, image_id: str, key: str) -> Path:
        name = key if key.isalnum() and key == key.lower() else f"={base64.b64encode(key.encode()).decode()}"
        return self.folder("images") / image_id / name

    def layer(self, tar: bytes, parent: str = "") -> str:
        """Unpack a layer; its id."""
        digest = hashlib.sha256(tar).hexdigest()
        layer_id = hashlib.sha256(f"{parent} {digest}".encode()).hexdigest() if parent else digest
        if not self.files_of(layer_id).exists():
            unpack(tar, self.files_of(layer_id))
        self.tar_split_of(layer_id).write_bytes(tar_split(tar))
        record = {"id": layer_id, "diff-digest": f"sha256:{digest}", "diff-size": len(tar)}
        others = [one for one in self.records("layers") if one["id"] != layer_id]
        self.record("layers", [*others, record | ({"parent": parent} if parent else {})])
        return layer_id


def unpack(tar: bytes, place: Path) -> None:
    """The regular files and links of a tar, as a process would make them that has ``place`` as its root."""
    place.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            path = _inside(place, member.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if member.isdir():
                path.mkdir(exist_ok=True)
            elif member.issym():
                path.symlink_to(member.linkname)
            elif member.islnk():
                path.hardlink_to(_inside(place, member.linkname))
            elif member.isreg() and not Path(member.name).name.startswith(".wh."):
                content = archive.extractfile(member)
                assert content is not None
                path.write_bytes(content.read())


def _inside(place: Path, name: str) -> Path:
    """Where ``name`` is, if links on the way are relative to ``place``."""
    path = place
    for part in name.strip("/").split("/")[:-1]:
        path /= part
        if path.is_symlink():
            target = path.readlink()
            path = _inside(place, f"{target}/x").parent if target.is_absolute() else path.parent / target
    return Path(os.path.normpath(path / name.rpartition("/")[2]))


def entries_of(tar: bytes) -> list[JSONObject]:
    """The entries of a tar's tar-split."""
    entries: list[JSONObject] = []
    position = 0

    def segment(end: int) -> None:
        nonlocal position
        if end > position:
            entries.append({"type": 2, "payload": base64.b64encode(tar[position:end]).decode()})
        position = end

    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            segment(member.offset_data)
            raw = member.name.encode("utf-8", "surrogateescape")
            named = {"name": member.name} if _is_text(raw) else {"name_raw": base64.b64encode(raw).decode()}
            size = member.size if member.isreg() else 0
            entries.append({"type": 1, **named, "size": size, "payload": base64.b64encode(bytes(8)).decode()})
            position += size
    segment(len(tar))
    return [entry | {"position": number} for number, entry in enumerate(entries)]


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def pack(entries: Iterable[JSONObject]) -> bytes:
    """Entries as a tar-split lies in a store."""
    return gzip.compress(b"".join(json.dumps(one).encode() + b"\n" for one in entries))


def tar_split(tar: bytes) -> bytes:
    return pack(entries_of(tar))


def skopeo_store(source: str, root: Path, name: str, *options: str, driver: str = "overlay") -> Store:
    """A store that skopeo wrote, with the image ``source`` under ``name``."""
    with _run_root() as run_root:
        target = f"containers-storage:[{driver}@{root}+{run_root}]{name}"
        _as_root("skopeo", "--insecure-policy", "copy", "-q", *options, source, target)
        unmount(root)
    return Store(root, driver)


def podman_store(source: str, root: Path, name: str, *, driver: str = "overlay") -> Store:
    """A store that podman wrote, with the image ``source`` under ``name``."""
    with podman(root, driver) as run:
        run("tag", run("pull", "-q", source).strip(), name)
    return Store(root, driver)


@contextmanager
def podman(root: Path, driver: str) -> Iterator[Callable[..., str]]:
    """Run podman with the store, and nothing else of the host's; each call returns what it printed."""
    with _run_root() as run_root:
        places = ["--root", str(root), "--runroot", run_root, "--tmpdir", f"{run_root}/tmp", "--storage-driver", driver]
        try:
            yield partial(_as_root, "podman", *places)
        finally:
            unmount(root)


def _run_root() -> tempfile.TemporaryDirectory[str]:
    """A directory for what does not outlive a boot; podman wants its path to be short."""
    return tempfile.TemporaryDirectory(prefix="run-")


def _as_root(*command: str) -> str:
    """What the command printed. Making a store takes rights that only root has."""
    require_mounting(f"{command[0]} writes a store")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if _NO_OVERLAY in done.stderr:
        pytest.skip("needs a file system for temporary files that overlay can lie on, which another overlay is not")
    assert done.returncode == 0, done.stderr
    return done.stdout


def unmount(root: Path) -> None:
    """Undo the mount that the overlay driver leaves at its directory."""
    subprocess.run(["umount", "-q", str(root / "overlay")], check=False, capture_output=True)


@contextmanager
def held_by_another(path: Path, kind: str = "LOCK_EX") -> Iterator[subprocess.Popen[bytes]]:
    """Another process has the lock meanwhile, as podman takes it: by record locks of the process."""
    command = [sys.executable, "-c", _HOLD, str(path), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.stdin.close()
