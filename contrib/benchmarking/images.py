"""The images to transfer: valid, and of bytes that no compression makes smaller, so that all of them travel."""

from __future__ import annotations

import hashlib
import json
import random
import tarfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarking.processes import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_GZIP: Final = 16 + zlib.MAX_WBITS
_STORED: Final = 0  # compression level: the gzip frame that a registry client expects, and no work for it
_TAR_END: Final = bytes(1024)


@dataclass(frozen=True, slots=True)
class Image:
    """An image in an OCI layout under the name ``latest``, with one layer; ``diff_id`` is the digest of its tar."""

    layout: Path
    manifest_digest: str
    layer_digest: str
    layer_size: int
    diff_id: str


def make_image(layout: Path, size: int, file_size: int = 0, large: int = 0) -> Image:
    """Write the layout; ``size`` is that of the one file in the layer, a multiple of 512 bytes.

    With ``file_size``, another such multiple, the layer has files of that size instead, ``size`` bytes of them, and
    behind them one of ``large`` bytes.
    """
    (layout / "blobs/sha256").mkdir(parents=True)
    layer, diff_id = _write_layer(layout, [file_size or size] * (size // (file_size or size)) + [large] * bool(large))
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": write_json(layout, config, _CONFIG),
        "layers": [layer],
    }
    descriptor = write_json(layout, manifest, MANIFEST)
    write_layout(layout, descriptor)
    return Image(layout, descriptor["digest"], layer["digest"], layer["size"], diff_id)


def write_layout(layout: Path, descriptor: dict[str, Any]) -> None:
    """Make a directory with blobs an OCI layout in which the manifest is named ``latest``."""
    named = descriptor | {"annotations": {"org.opencontainers.image.ref.name": "latest"}}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def _write_layer(layout: Path, sizes: list[int]) -> tuple[dict[str, Any], str]:
    """The descriptor of the layer, and the digest of its tar archive."""
    partial = layout / "blobs/layer"
    packed, plain, packer = hashlib.sha256(), hashlib.sha256(), zlib.compressobj(_STORED, wbits=_GZIP)
    with partial.open("wb") as file:
        for piece in _tar(sizes):
            plain.update(piece)
            packed.update(compressed := packer.compress(piece))
            file.write(compressed)
        packed.update(end := packer.flush())
        file.write(end)
    partial.rename(layout / "blobs/sha256" / packed.hexdigest())
    written = (layout / "blobs/sha256" / packed.hexdigest()).stat().st_size
    return _descriptor(_LAYER, packed.hexdigest(), written), f"sha256:{plain.hexdigest()}"


def _tar(sizes: list[int]) -> Iterator[bytes]:
    """A tar archive of files of random bytes, the same each time."""
    source = random.Random(1)  # noqa: S311 - no secret
    for number, file_size in enumerate(sizes):
        yield _tar_header(number, file_size)
        for start in range(0, file_size, MIB):
            yield source.randbytes(min(MIB, file_size - start))
    yield _TAR_END


def _tar_header(number: int, size: int) -> bytes:
    member = tarfile.TarInfo(f"random/{number >> 6}/{number}")
    member.size = size
    return member.tobuf()


def write_json(layout: Path, document: dict[str, Any], media_type: str) -> dict[str, Any]:
    """Store a document as a blob; its descriptor."""
    (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    raw = json.dumps(document).encode()
    encoded = hashlib.sha256(raw).hexdigest()
    (layout / "blobs/sha256" / encoded).write_bytes(raw)
    return _descriptor(media_type, encoded, len(raw))


def _descriptor(media_type: str, encoded: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{encoded}", "size": size}
