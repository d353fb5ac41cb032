"""Images in the format of ``docker save``: what manifest.json says, and the OCI manifest that is made of it. Pure.

The format has no manifest and no digests but those in the configuration. Each layer is therefore served as the
uncompressed tar, whose digest is the DiffID there.
Spec: Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

from container_image_proxy.errors import (
    AmbiguousImageError,
    InvalidInputError,
    InvalidManifestError,
    MalformedDocumentError,
    UnknownManifestError,
    listed,
    shown,
)
from container_image_proxy.image.convert import serialise
from container_image_proxy.image.diff_ids import parse_diff_ids
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.documents import convert
from container_image_proxy.image.index import MAX_DESCRIPTORS
from container_image_proxy.image.manifest import Descriptor
from container_image_proxy.image.media_types import OCI_CONFIG, OCI_LAYER_TAR
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.image.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.reference import Reference

MANIFEST: Final = "manifest.json"
MAX_MANIFEST_SIZE: Final = 1 << 20
"""Bytes of manifest.json, as in containers/image."""


class ArchivedImage(Struct, frozen=True):
    """An image in manifest.json: its names, and the members that its configuration and layers are, the lowest first."""

    config: str = field(name="Config")
    names: tuple[str, ...] | None = field(name="RepoTags", default=None)
    layers: tuple[str, ...] | None = field(name="Layers", default=None)


def parse_images(raw: bytes) -> tuple[ArchivedImage, ...]:
    """Read manifest.json. Raises :class:`InvalidManifestError`."""
    if len(raw) > MAX_MANIFEST_SIZE:
        raise InvalidManifestError(f"{MANIFEST} is larger than {MAX_MANIFEST_SIZE} bytes")
    try:
        return convert(parse_json(raw, MANIFEST), tuple[ArchivedImage, ...], (MANIFEST,))
    except MalformedDocumentError as error:
        raise InvalidManifestError(str(error)) from error


def choose_image(images: Sequence[ArchivedImage], wanted: Reference | int | None) -> ArchivedImage:
    """The image with that name, at that position, or the only one.

    Raises :class:`UnknownManifestError`, which lists the images, or :class:`AmbiguousImageError`. A name in the archive
    that is no reference names no image.
    """
    if not images:
        raise UnknownManifestError("the archive has no images")
    if isinstance(wanted, int):
        if wanted >= len(images):
            raise UnknownManifestError(f"the archive has no image @{wanted}; it has {_names(images)}")
        return images[wanted]
    if wanted is None:
        if len(images) > 1:
            raise AmbiguousImageError(f"the archive has {len(images)} images: name one of them: {_names(images)}")
        return images[0]
    for image in images:
        if wanted in map(_reference, image.names or ()):
            return image
    raise UnknownManifestError(f"the archive has no image {wanted}; it has {_names(images)}")


def _reference(name: str) -> Reference | None:
    try:
        return parse_reference(name)
    except InvalidInputError:
        return None


def _names(images: Sequence[ArchivedImage]) -> str:
    return listed([(image.names or (f"@{position}",))[0][:100] for position, image in enumerate(images)])


def layers_of(image: ArchivedImage, config: bytes) -> tuple[tuple[Digest, str], ...]:
    """The DiffID of each layer, and the member that it is, from the lowest up. Of equal layers the first member counts.

    Raises :class:`InvalidManifestError`.
    """
    members = image.layers or ()
    try:
        diff_ids = parse_diff_ids(config)
    except InvalidManifestError as error:
        raise error.retold(f"{shown(image.config)}: {error}") from error
    if len(diff_ids) > MAX_DESCRIPTORS:
        raise InvalidManifestError(f"{shown(image.config)} has more than {MAX_DESCRIPTORS} layers")
    if len(members) != len(diff_ids):
        raise InvalidManifestError(
            f"{MANIFEST} has {len(members)} layers, and the configuration in {shown(image.config)} has {len(diff_ids)}"
        )
    found: dict[Digest, str] = {}
    for diff_id, member in zip(diff_ids, members, strict=True):
        found.setdefault(diff_id, posixpath.normpath(member))
    if len(set(found.values())) != len(found):  # the digests of both cannot be right
        raise InvalidManifestError(f"{MANIFEST} has one member for two layers that differ")
    return tuple((diff_id, found[diff_id]) for diff_id in diff_ids)


def make_manifest(config: bytes, layers: Sequence[tuple[Digest, int]]) -> bytes:
    """The OCI manifest of an image with these layers, each as DiffID and size of its tar, from the lowest up."""
    return serialise(
        Descriptor(OCI_CONFIG, digest_of(config), len(config)),
        [Descriptor(OCI_LAYER_TAR, digest, size) for digest, size in layers],
    )
