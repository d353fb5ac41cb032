"""Image manifests: parses what a source delivered, an index or an image's manifest (OCI image-spec, manifest.md).

Owns OCI and Docker schema 2 manifests; :mod:`index` and :mod:`schema1` own the others. A manifest is refused if it has
more than one possible meaning, a malformed digest or size, or more than 4 MiB. The caller has verified before parsing
that the bytes have the digest that was asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from msgspec import Struct

from container_image_proxy.errors import InvalidManifestError, MalformedDocumentError
from container_image_proxy.image.descriptor import Descriptor, parse_descriptor
from container_image_proxy.image.digest import Digest, digest_of
from container_image_proxy.image.documents import convert
from container_image_proxy.image.index import MAX_DESCRIPTORS, Index, IndexEntry, choose_manifest, parse_entries
from container_image_proxy.image.media_types import (
    INDEX_TYPES,
    SCHEMA1_TYPES,
    determine_media_type,
    verify_supported,
)
from container_image_proxy.image.schema1 import Schema1Manifest, parse_schema1, without_signatures
from container_image_proxy.image.strict_json import parse_tolerant_json, verify_keys

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
    "list_entries",
    "parse_manifest",
    "verify_unambiguous",
]

MAX_MANIFEST_SIZE: Final = 4 * 1024 * 1024
"""Bytes of a manifest, which is held in memory, where its parsed form takes fifteen times its length. Registries accept
no larger ones (OCI distribution-spec, "Pushing Manifests").
"""
MAX_CONFIG_SIZE: Final = 4 * 1024 * 1024
"""Bytes of a configuration, which is held in memory until it is verified. containers/image has the same limit."""

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
    """The manifest of an image or artifact; ``digest`` is the sha256 of ``raw``."""

    raw: bytes
    media_type: str
    digest: Digest
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The configuration, then the layers from the lowest up."""
        return (self.config, *self.layers)


class _WrittenIndex(Struct, frozen=True):
    manifests: list[Any] | None


class _WrittenImage(Struct, frozen=True):
    config: Any = None
    layers: list[Any] | None = None


ImageManifest: TypeAlias = Manifest | Schema1Manifest
"""A manifest of one image. Schema 1 has no configuration; ``schema1_conversion`` makes one."""


def parse_manifest(untrusted: UntrustedManifest) -> ImageManifest | Index:
    """The manifest or index in these bytes, of the kind that the bytes tell (:func:`determine_media_type`).

    :class:`InvalidManifestError` if they are malformed, ambiguous or too large.
    """
    raw = untrusted.raw
    if len(raw) > MAX_MANIFEST_SIZE:
        raise InvalidManifestError(f"the manifest is larger than {MAX_MANIFEST_SIZE} bytes")
    raw = without_signatures(raw)
    try:
        value = parse_tolerant_json(raw, "the manifest")
        document = convert(value, dict[str, Any])
        # Of the members that decide what kind it is, and of those alone: others may be repeated (contrib/adr/0017).
        verify_keys(value, _KEYS)
        media_type = verify_supported(determine_media_type(document, untrusted.media_type))
        if media_type in INDEX_TYPES:
            verify_unambiguous(document, media_type, _INDEX_FIELDS)
            entries = parse_entries(convert(document, _WrittenIndex).manifests or [])
            return Index(raw, media_type, digest_of(raw), entries)
        if media_type in SCHEMA1_TYPES:
            verify_unambiguous(document, media_type, _SCHEMA1_FIELDS)
            return parse_schema1(raw, document, media_type)
        verify_unambiguous(document, media_type, _IMAGE_FIELDS)
        return _parse_image(raw, document, media_type)
    except MalformedDocumentError as error:
        raise InvalidManifestError(str(error)) from error


def list_entries(index: Index) -> list[Any]:
    """The entries of an index as parsed JSON, with all their members."""
    return convert(parse_tolerant_json(index.raw, "the index"), _WrittenIndex).manifests or []


def verify_unambiguous(document: Mapping[str, object], media_type: str, allowed: Collection[str]) -> None:
    """Raise :class:`InvalidManifestError` if a document of this type has fields of another kind (CVE-2021-41190).

    ``allowed`` are the fields of its own kind.
    """
    foreign = sorted(key for key in _KIND_FIELDS.difference(allowed) if document.get(key) is not None)
    if foreign:
        raise InvalidManifestError(
            f"the manifest is ambiguous: {media_type} has no {' and no '.join(foreign)}, but this one has"
        )


def _parse_image(raw: bytes, document: dict[str, Any], media_type: str) -> Manifest:
    written = convert(document, _WrittenImage)
    if written.config is None:
        raise MalformedDocumentError("the manifest has no config")
    layers = written.layers or []  # null is how Go writes an empty list
    if len(layers) > MAX_DESCRIPTORS:
        raise MalformedDocumentError(f"the manifest has more than {MAX_DESCRIPTORS} layers")
    return Manifest(
        raw=raw,
        media_type=media_type,
        digest=digest_of(raw),
        config=parse_descriptor(written.config, ("config",), max_size=MAX_CONFIG_SIZE),
        layers=tuple(parse_descriptor(layer, ("layers", position)) for position, layer in enumerate(layers)),
    )
