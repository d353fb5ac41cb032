"""Image manifests and indexes: reading what a source delivered, and choosing an index's manifest for a platform.

Owns the shape of OCI and Docker schema 2 documents and what makes one unusable: more than one possible meaning, a
digest or size that cannot be verified, more than 4 MiB. Whether the bytes are those that were asked for is the caller's
to verify, before parsing. OCI image-spec, manifest.md and image-index.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import InvalidManifestError, UnknownManifestError
from container_image_proxy.image.descriptor import Descriptor, as_list, parse_descriptor
from container_image_proxy.image.digest import Digest, digest_of
from container_image_proxy.image.media_types import (
    DOCKER_MANIFEST,
    INDEX_TYPES,
    OCI_INDEX,
    OCI_LAYER_OF,
    OCI_MANIFEST,
    guess_media_type,
    verify_supported,
)
from container_image_proxy.image.platform import Platform, wanted_platforms
from container_image_proxy.image.strict_json import as_object, parse_strict_object

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = [
    "Descriptor",
    "Index",
    "Manifest",
    "UntrustedManifest",
    "choose_manifest",
    "parse_manifest",
    "verify_unambiguous",
]

MAX_MANIFEST_SIZE: Final = 4 * 1024 * 1024
MAX_CONFIG_SIZE: Final = 4 * 1024 * 1024
_MAX_DESCRIPTORS: Final = 10_000

_SCHEMA_VERSION: Final = 2
_KIND_FIELDS: Final = frozenset({"config", "fsLayers", "history", "layers", "manifests"})
_IMAGE_FIELDS: Final = frozenset({"config", "layers"})
_INDEX_FIELDS: Final = frozenset({"manifests"})
_KEYS: Final = _KIND_FIELDS | {"schemaVersion", "mediaType", "annotations", "subject", "artifactType", "signatures"}
_ZSTD_ANNOTATION: Final = "io.github.containers.compression.zstd"
_SHOWN_PLATFORMS: Final = 16
_SHOWN_NAME: Final = 64


@dataclass(frozen=True, slots=True)
class UntrustedManifest:
    """A manifest as a source delivered it, with the media type that the source gave it ("" if none)."""

    raw: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class Manifest:
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


@dataclass(frozen=True, slots=True)
class Index:
    """An OCI index or Docker manifest list; ``digest`` is the sha256 of ``raw``."""

    raw: bytes
    media_type: str
    digest: Digest
    manifests: tuple[Descriptor, ...]


def parse_manifest(untrusted: UntrustedManifest) -> Manifest | Index:
    """Read a manifest or index as what its source declared it to be, and only an undeclared one by its own looks.

    One exception: a manifest that was delivered as OCI's and calls itself Docker's is Docker's, and can be converted.
    :class:`InvalidManifestError` for everything that cannot be used: see the module's first lines.
    """
    if len(untrusted.raw) > MAX_MANIFEST_SIZE:
        raise InvalidManifestError(f"the manifest is larger than {MAX_MANIFEST_SIZE} bytes")
    document = as_object(parse_strict_object(untrusted.raw, "the manifest"), "the manifest", _KEYS)
    media_type = verify_supported(untrusted.media_type or guess_media_type(document))
    if media_type in INDEX_TYPES:
        return _parse_index(untrusted.raw, document, media_type)
    calls_itself_docker = document.get("mediaType") == DOCKER_MANIFEST
    return _parse_image(untrusted.raw, document, DOCKER_MANIFEST if calls_itself_docker else media_type)


def verify_unambiguous(document: Mapping[str, object], media_type: str, allowed: Collection[str]) -> None:
    """Reject a document with fields of another kind of manifest than ``allowed`` ones (CVE-2021-41190)."""
    foreign = sorted(key for key in _KIND_FIELDS.difference(allowed) if document.get(key) is not None)
    if foreign:
        raise InvalidManifestError(f"the manifest is ambiguous: {', '.join(foreign)} do not belong in {media_type}")


def choose_manifest(index: Index, platform: Platform) -> Descriptor:
    """The manifest that serves ``platform`` best, as containers/image chooses it; perhaps that of a nested index.

    The closest variant wins, then zstd over gzip, then the first. In an OCI index, one that names no platform does for
    all, as the last resort. :class:`UnknownManifestError` if there is none.
    """
    last_resort = (None,) if index.media_type == OCI_INDEX else ()
    order = {candidate: rank for rank, candidate in enumerate((*wanted_platforms(platform), *last_resort))}
    fitting = [manifest for manifest in index.manifests if manifest.platform in order]
    if not fitting:
        raise UnknownManifestError(f"the index has no image for {platform}{_available(index)}")
    return min(fitting, key=lambda manifest: (order[manifest.platform], not _is_zstd(manifest)))


def _is_zstd(manifest: Descriptor) -> bool:
    return manifest.annotations.get(_ZSTD_ANNOTATION) == "true"


def _available(index: Index) -> str:
    names = {str(manifest.platform) for manifest in index.manifests if manifest.platform}
    shown = sorted(name for name in names if name.isprintable() and len(name) <= _SHOWN_NAME)[:_SHOWN_PLATFORMS]
    return f", only for {', '.join(shown)}" if shown else ""


def _parse_image(raw: bytes, document: Mapping[str, object], media_type: str) -> Manifest:
    verify_unambiguous(document, media_type, _IMAGE_FIELDS)
    _verify_header(document, [DOCKER_MANIFEST] if media_type == DOCKER_MANIFEST else [OCI_MANIFEST, None])
    config = parse_descriptor(document.get("config"), "config", max_size=MAX_CONFIG_SIZE)
    layers = _parse_descriptors(document, "layers")
    if media_type == DOCKER_MANIFEST:
        _verify_docker_layers(layers)
    return Manifest(raw, media_type, digest_of(raw), config, layers)


def _parse_index(raw: bytes, document: Mapping[str, object], media_type: str) -> Index:
    verify_unambiguous(document, media_type, _INDEX_FIELDS)
    _verify_header(document, [*INDEX_TYPES, None])
    manifests = _parse_descriptors(document, "manifests", max_size=MAX_MANIFEST_SIZE)
    return Index(raw, media_type, digest_of(raw), manifests)


def _verify_header(document: Mapping[str, object], media_types: list[str | None]) -> None:
    if document.get("schemaVersion") != _SCHEMA_VERSION:
        raise InvalidManifestError(f"the manifest's schemaVersion is not {_SCHEMA_VERSION}")
    if document.get("mediaType") not in media_types:
        raise InvalidManifestError("the manifest's mediaType contradicts the type under which it was delivered")


def _parse_descriptors(document: Mapping[str, object], key: str, **limits: int) -> tuple[Descriptor, ...]:
    if key not in document:
        raise InvalidManifestError(f"the manifest has no {key}")
    values = as_list(document[key], key)
    if len(values) > _MAX_DESCRIPTORS:
        raise InvalidManifestError(f"the manifest has more than {_MAX_DESCRIPTORS} {key}")
    return tuple(parse_descriptor(value, f"{key}[{position}]", **limits) for position, value in enumerate(values))


def _verify_docker_layers(layers: tuple[Descriptor, ...]) -> None:
    for position, layer in enumerate(layers):
        if layer.media_type not in OCI_LAYER_OF:
            raise InvalidManifestError(
                f"layers[{position}] has the media type {layer.media_type!r}, which Docker schema 2 does not have"
            )
