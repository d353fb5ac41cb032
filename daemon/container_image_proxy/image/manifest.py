"""Image manifests: reading what a source delivered, an index or an image's manifest.

Owns the shape of OCI and Docker schema 2 manifests and what makes one unusable: more than one possible meaning, a
digest or size that cannot be verified, more than 4 MiB. Schema 1 is :mod:`schema1`'s. Whether the bytes are those that
were asked for is the caller's to verify, before parsing. OCI image-spec, manifest.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec import Struct

from container_image_proxy.errors import InvalidManifestError
from container_image_proxy.image.descriptor import Descriptor, as_list, parse_descriptor
from container_image_proxy.image.digest import Digest, digest_of
from container_image_proxy.image.index import MAX_DESCRIPTORS, Index, IndexEntry, choose_manifest, parse_entries
from container_image_proxy.image.media_types import (
    INDEX_TYPES,
    SCHEMA1_TYPES,
    determine_media_type,
    verify_supported,
)
from container_image_proxy.image.schema1 import Schema1Manifest, parse_schema1, without_signatures
from container_image_proxy.image.strict_json import as_object, parse_object

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = [
    "MAX_CONFIG_SIZE",
    "MAX_MANIFEST_SIZE",
    "Descriptor",
    "ImageManifest",
    "Index",
    "IndexEntry",
    "Manifest",
    "Schema1Manifest",
    "UntrustedManifest",
    "choose_manifest",
    "parse_manifest",
    "verify_unambiguous",
]

MAX_MANIFEST_SIZE: Final = 4 * 1024 * 1024
MAX_CONFIG_SIZE: Final = 4 * 1024 * 1024

_KIND_FIELDS: Final = frozenset({"config", "fsLayers", "history", "layers", "manifests"})
_IMAGE_FIELDS: Final = frozenset({"config", "layers"})
_INDEX_FIELDS: Final = frozenset({"manifests"})
_SCHEMA1_FIELDS: Final = frozenset({"fsLayers", "history"})
_KEYS: Final = _KIND_FIELDS | {"mediaType"}


class UntrustedManifest(Struct, frozen=True):
    """A manifest as a source delivered it, with the media type that the source gave it ("" if none)."""

    raw: bytes
    media_type: str


class Manifest(Struct, frozen=True):
    """An image (or artifact) manifest; ``digest`` is the sha256 of ``raw``."""

    raw: bytes
    media_type: str
    digest: Digest
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Everything that the manifest names: the configuration, then the layers from the lowest up."""
        return (self.config, *self.layers)


ImageManifest: TypeAlias = Manifest | Schema1Manifest
"""What is one image. Of one without a configuration of its own that is made: see ``schema1_conversion``."""


def parse_manifest(untrusted: UntrustedManifest) -> ImageManifest | Index:
    """Read a manifest or index as what its bytes say it is; see :func:`determine_media_type`.

    :class:`InvalidManifestError` for everything that cannot be used: see the module's first lines.
    """
    if len(untrusted.raw) > MAX_MANIFEST_SIZE:
        raise InvalidManifestError(f"the manifest is larger than {MAX_MANIFEST_SIZE} bytes")
    raw = without_signatures(untrusted.raw)
    document = as_object(parse_object(raw, "the manifest"), "the manifest", _KEYS)
    media_type = verify_supported(determine_media_type(document, untrusted.media_type))
    if media_type in INDEX_TYPES:
        verify_unambiguous(document, media_type, _INDEX_FIELDS)
        if "manifests" not in document:
            raise InvalidManifestError("the index has no manifests")
        return Index(raw, media_type, digest_of(raw), parse_entries(document["manifests"]))
    if media_type in SCHEMA1_TYPES:
        verify_unambiguous(document, media_type, _SCHEMA1_FIELDS)
        return parse_schema1(raw, document, media_type)
    verify_unambiguous(document, media_type, _IMAGE_FIELDS)
    return _parse_image(raw, document, media_type)


def verify_unambiguous(document: Mapping[str, object], media_type: str, allowed: Collection[str]) -> None:
    """Reject a document with fields of another kind of manifest than ``allowed`` ones (CVE-2021-41190)."""
    foreign = sorted(key for key in _KIND_FIELDS.difference(allowed) if document.get(key) is not None)
    if foreign:
        raise InvalidManifestError(
            f"the manifest is ambiguous: {media_type} has no {' and no '.join(foreign)}, but this one has"
        )


def _parse_image(raw: bytes, document: Mapping[str, object], media_type: str) -> Manifest:
    if document.get("config") is None:
        raise InvalidManifestError("the manifest has no config")
    config = parse_descriptor(document["config"], "config", max_size=MAX_CONFIG_SIZE)
    layers = as_list(document.get("layers"), "layers")
    if len(layers) > MAX_DESCRIPTORS:
        raise InvalidManifestError(f"the manifest has more than {MAX_DESCRIPTORS} layers")
    read = tuple(parse_descriptor(layer, f"layers[{position}]") for position, layer in enumerate(layers))
    return Manifest(raw, media_type, digest_of(raw), config, read)
