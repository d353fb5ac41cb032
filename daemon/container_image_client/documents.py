"""The documents of an image as values: manifest, configuration, the list of images, and what the client needs of each.

The daemon has verified them, so that only the form is looked at. It must do no I/O.
Spec: OCI image-spec, manifest.md, config.md and descriptor.md.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from container_image_client.errors import UnexpectedAnswerError, UnsupportedImageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_LAYER_TYPES: Final = re.compile(
    r"application/vnd\.(oci\.image\.layer\.(nondistributable\.)?v1\.tar|docker\.image\.rootfs\.(foreign\.)?diff\.tar)([+.](gzip|zstd))?"
)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says of a blob."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def is_layer(self) -> bool:
        """Whether it is a layer of a root file system."""
        return _LAYER_TYPES.fullmatch(self.media_type) is not None


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image's manifest as the daemon serves it, in OCI form, and what the answer says about it.

    ``raw`` has every byte. ``digest`` is that of the original manifest, before a conversion.
    """

    raw: bytes
    media_type: str
    digest: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    reference: str = ""
    index_digest: str = ""
    signed_by: tuple[str, ...] = ()

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Configuration and layers, each once."""
        return tuple(dict.fromkeys((self.config, *self.layers)))


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a root file system: its blob, and the digest of the archive in it."""

    blob: Descriptor
    diff_id: str


@dataclass(frozen=True, slots=True)
class Image:
    """One of the images that the daemon has for this user."""

    name: str
    reference: str
    platform: str
    is_default: bool
    members: Mapping[str, Any] = field(repr=False)


def parse_manifest(raw: bytes, media_type: str = "") -> tuple[Descriptor, tuple[Descriptor, ...], str]:
    """Configuration, layers and media type of a manifest."""
    document = _object(raw, "the manifest")
    layers = document.get("layers")
    if not isinstance(layers, list):
        raise UnsupportedImageError("the manifest has no layers: it is no manifest of an image, but maybe an index")
    return (
        _descriptor(document.get("config")),
        tuple(map(_descriptor, layers)),
        str(document.get("mediaType") or media_type),
    )


def parse_images(raw: bytes) -> tuple[Image, ...]:
    """The list of images."""
    try:
        return tuple(
            Image(str(row["name"]), str(row["reference"]), str(row["platform"]), row["default"] is True, row)
            for row in json.loads(raw)
        )
    except (ValueError, TypeError, KeyError) as error:
        raise UnexpectedAnswerError("the list of images has another form than expected") from error


def layers_of(manifest: Manifest, config: bytes) -> tuple[Layer, ...]:
    """The layers of a root file system, lowest first, each with the DiffID that the configuration has for it."""
    others = [layer.media_type for layer in manifest.layers if not layer.is_layer]
    if others:
        raise UnsupportedImageError(
            f"the image is an artifact, not a root file system: it has a layer of type {others[0]!r}",
            remedy="fetch its parts by digest: cip manifest, cip blob DIGEST",
        )
    rootfs = _object(config, "the image's configuration").get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or not all(isinstance(one, str) and _DIGEST.fullmatch(one) for one in diff_ids):
        raise UnsupportedImageError("the image's configuration does not say the DiffIDs of its layers")
    if len(diff_ids) != len(manifest.layers):
        raise UnsupportedImageError(
            f"the manifest has {len(manifest.layers)} layers, and the configuration DiffIDs for {len(diff_ids)}"
        )
    return tuple(map(Layer, manifest.layers, diff_ids))


def _descriptor(value: Any) -> Descriptor:
    if isinstance(value, dict):
        media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
        if isinstance(media_type, str) and isinstance(size, int) and size >= 0 and is_digest(digest):
            annotations = value.get("annotations")
            return Descriptor(media_type, digest, size, annotations if isinstance(annotations, dict) else {})
    raise UnexpectedAnswerError("the manifest has a malformed descriptor")


def is_digest(value: object) -> TypeGuard[str]:
    """Whether it is the whole digest of a blob."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _object(raw: bytes, what: str) -> dict[str, Any]:
    try:
        # A configuration may have a history that is no UTF-8.
        value = json.loads(raw.decode("utf-8-sig", "replace"))
    except ValueError as error:
        raise UnexpectedAnswerError(f"{what} is no JSON") from error
    if not isinstance(value, dict):
        raise UnexpectedAnswerError(f"{what} is no JSON object")
    return value
