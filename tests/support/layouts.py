"""OCI image layouts for tests, written in plain Python: every byte is known beforehand and the same on each run.

``Layout`` writes one (image-layout.md of the OCI image spec); the functions below it make the usual kinds of image in
one call. ``skopeo_copy`` and ``umoci_image`` make layouts with the tools that users have.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

NAME_ANNOTATION = "org.opencontainers.image.ref.name"
DEFAULT_FILES: Mapping[str, bytes] = {"etc/motd": b"hello from a layer\n", "usr/bin/true": b"#!/bin/sh\n"}

JSONObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredImage:
    """What was written for one image: the descriptor that names it and every byte that it consists of."""

    descriptor: JSONObject
    manifest: bytes
    config: bytes
    layers: tuple[bytes, ...]

    @property
    def digest(self) -> str:
        return str(self.descriptor["digest"])

    @property
    def config_digest(self) -> str:
        return str(json.loads(self.manifest)["config"]["digest"])

    @property
    def layer_digests(self) -> tuple[str, ...]:
        return tuple(layer["digest"] for layer in json.loads(self.manifest)["layers"])

    @property
    def blobs(self) -> dict[str, bytes]:
        """Digest -> bytes of config and layers."""
        return dict(zip((self.config_digest, *self.layer_digests), (self.config, *self.layers), strict=True))


@dataclass(frozen=True, slots=True)
class Layout:
    """An OCI image layout under ``path``, complete after every call."""

    path: Path
    _named: list[JSONObject] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "oci-layout").write_bytes(encode({"imageLayoutVersion": "1.0.0"}))
        self._write_index()

    def blob(self, content: bytes, media_type: str, *, algorithm: str = "sha256") -> JSONObject:
        """Store bytes under their digest; returns the descriptor."""
        encoded = hashlib.new(algorithm, content).hexdigest()
        target = self.blob_path(f"{algorithm}:{encoded}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return {"mediaType": media_type, "digest": f"{algorithm}:{encoded}", "size": len(content)}

    def blob_path(self, digest: str) -> Path:
        algorithm, _, encoded = digest.partition(":")
        return self.path / "blobs" / algorithm / encoded

    def name(self, descriptor: JSONObject, name: str | None) -> None:
        """Enter a descriptor into index.json, with its name unless None; a name moves to the newest."""
        if name is not None:
            descriptor = descriptor | {"annotations": {NAME_ANNOTATION: name}}
            self._named[:] = [entry for entry in self._named if entry.get("annotations") != descriptor["annotations"]]
        self._named.append(descriptor)
        self._write_index()

    def image(
        self,
        layers: Iterable[bytes] | None = None,
        *,
        name: str | None = None,
        platform: str = "linux/amd64",
        docker: bool = False,
        compression: str = "gzip",
        algorithm: str = "sha256",
        config: Mapping[str, Any] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> StoredImage:
        """Store an image; ``layers`` are uncompressed tars, by default one of DEFAULT_FILES.

        ``name`` enters it into index.json. ``compression``: "" (none), "gzip" or "zstd". ``docker``: Docker schema 2
        media types. ``config``: more keys of the configuration.
        """
        tars = tuple(layers) if layers is not None else (layer_tar(DEFAULT_FILES),)
        packed = tuple(compress(tar, compression) for tar in tars)
        os_name, architecture, *variant = platform.split("/")
        where: JSONObject = {"architecture": architecture, "os": os_name} | ({"variant": variant[0]} if variant else {})
        raw_config = encode(
            where
            | {"config": {"Labels": {"made-by": "tests"}}, "created": "1970-01-01T00:00:00Z"}
            | {"rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]}}
            | dict(config or {})
        )
        layer_type = _layer_type(docker=docker, compression=compression)
        manifest: JSONObject = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
            "config": self.blob(raw_config, DOCKER_CONFIG if docker else OCI_CONFIG, algorithm=algorithm),
            "layers": [self.blob(layer, layer_type, algorithm=algorithm) for layer in packed],
        } | ({"annotations": dict(annotations)} if annotations else {})
        stored = self.manifest(manifest, raw_config, packed, name=name, algorithm=algorithm)
        return StoredImage(stored.descriptor | {"platform": where}, stored.manifest, raw_config, packed)

    def manifest(
        self,
        manifest: JSONObject,
        config: bytes,
        layers: tuple[bytes, ...],
        *,
        name: str | None = None,
        algorithm: str = "sha256",
    ) -> StoredImage:
        """Store a manifest as given, right or wrong; its blobs are the caller's."""
        raw = encode(manifest)
        descriptor = self.blob(raw, manifest.get("mediaType", OCI_MANIFEST), algorithm=algorithm)
        if name is not None:
            self.name(descriptor, name)
        return StoredImage(descriptor, raw, config, layers)

    def artifact(self, content: bytes = b"an artifact", *, name: str | None = None) -> StoredImage:
        """Store an artifact: a manifest whose config is the empty JSON object (image spec, manifest.md)."""
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": "application/vnd.example.thing",
            "config": self.blob(b"{}", OCI_EMPTY),
            "layers": [self.blob(content, "application/octet-stream")],
        }
        return self.manifest(manifest, b"{}", (content,), name=name)

    def index(self, descriptors: Iterable[JSONObject], *, name: str | None = None, docker: bool = False) -> JSONObject:
        """Store an image index (Docker: a manifest list) of these descriptors; returns its own."""
        media_type = DOCKER_LIST if docker else OCI_INDEX
        raw = encode({"schemaVersion": 2, "mediaType": media_type, "manifests": list(descriptors)})
        descriptor = self.blob(raw, media_type)
        if name is not None:
            self.name(descriptor, name)
        return descriptor

    def _write_index(self) -> None:
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self._named}
        (self.path / "index.json").write_bytes(encode(index))


def encode(value: object) -> bytes:
    """JSON as the tools write it: compact, keys as given."""
    return json.dumps(value, separators=(",", ":")).encode()


def layer_tar(files: Mapping[str, bytes]) -> bytes:
    """A tar of regular files with fixed owners and times."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def compress(content: bytes, compression: str) -> bytes:
    """Compress with "gzip" or "zstd"; "" leaves the bytes as they are."""
    if compression == "gzip":
        return gzip.compress(content, mtime=0)
    return zstd_frame(content) if compression == "zstd" else content


def zstd_frame(content: bytes) -> bytes:
    """A valid zstd frame of raw (stored) blocks (RFC 8878, 3.1.1): Python 3.11 has no encoder, and tests need none."""
    blocks = [content[start : start + 0x1FFFF] for start in range(0, len(content), 0x1FFFF)] or [b""]
    frame = [b"\x28\xb5\x2f\xfd", b"\xe0", struct.pack("<Q", len(content))]
    for number, block in enumerate(blocks):
        last = int(number == len(blocks) - 1)
        frame += [struct.pack("<I", len(block) << 3 | last)[:3], block]
    return b"".join(frame)


def _layer_type(*, docker: bool, compression: str) -> str:
    if docker:
        return DOCKER_LAYER + (f".{compression}" if compression else "")
    return OCI_LAYER + (f"+{compression}" if compression else "")


def single_image(path: Path, *, name: str | None = "latest") -> StoredImage:
    """A layout of one OCI image with two gzip layers."""
    layers = [layer_tar(DEFAULT_FILES), layer_tar({"usr/share/doc/second": b"the second layer\n" * 100})]
    layout = Layout(path)
    image = layout.image(layers)
    layout.name(image.descriptor, name)
    return image


def multi_arch(path: Path, *platforms: str, name: str = "latest", docker: bool = False) -> dict[str, StoredImage]:
    """A layout of one index; the images by platform, by default amd64, arm64/v8 and arm/v7."""
    layout = Layout(path)
    wanted = platforms or ("linux/amd64", "linux/arm64/v8", "linux/arm/v7")
    images = {
        platform: layout.image([layer_tar({"platform": platform.encode()})], platform=platform, docker=docker)
        for platform in wanted
    }
    layout.index([image.descriptor for image in images.values()], name=name, docker=docker)
    return images


def nested_index(path: Path, *platforms: str, name: str = "latest") -> dict[str, StoredImage]:
    """As multi_arch, with one more index around the index."""
    images = multi_arch(path, *platforms, name="inner")
    layout = Layout(path)
    inner = layout.index([image.descriptor for image in images.values()])
    layout.index([inner], name=name)
    return images


def skopeo_copy(source: str, destination: str, *options: str) -> None:
    """Copy an image with skopeo, accepting any policy; sources and destinations as skopeo writes them."""
    subprocess.run(
        ["skopeo", "copy", "--quiet", "--insecure-policy", *options, source, destination],
        check=True,
        capture_output=True,
    )


def umoci_image(path: Path, name: str, rootfs: Path) -> None:
    """Make a layout with umoci and in it an image of one layer: ``rootfs`` inserted at /."""
    for arguments in (
        ["init", "--layout", str(path)],
        ["new", "--image", f"{path}:{name}"],
        ["insert", "--rootless", "--image", f"{path}:{name}", str(rootfs), "/"],
    ):
        subprocess.run(["umoci", *arguments], check=True, capture_output=True)
