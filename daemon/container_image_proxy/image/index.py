"""Image indexes: what they say of the manifests that they name, and which of those is chosen for a platform.

Owns the shape of OCI indexes and Docker manifest lists. An entry that nobody chooses need not be usable: only the one
that is chosen has to have a digest by which its manifest can be verified. OCI image-spec, image-index.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

from container_image_proxy.errors import InvalidManifestError, UnknownManifestError
from container_image_proxy.image.descriptor import annotations_of, as_list, read_digest, text_of
from container_image_proxy.image.media_types import OCI_INDEX
from container_image_proxy.image.platform import Platform, wanted_platforms
from container_image_proxy.image.strict_json import as_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.image.digest import Digest

MAX_DESCRIPTORS: Final = 10_000
_KEYS: Final = frozenset({"mediaType", "digest", "platform"})
_PLATFORM_KEYS: Final = frozenset({"os", "architecture", "variant"})
_ZSTD_ANNOTATION: Final = "io.github.containers.compression.zstd"
_NO_PLATFORM: Final = Platform("", "")  # what an entry is for that names a platform which nobody has
_SHOWN_PLATFORMS: Final = 16
_SHOWN_NAME: Final = 64


class IndexEntry(Struct, frozen=True):
    """What an index says of one manifest, which it is to be fetched by and verified against.

    ``untrusted_digest`` is what stands there as its digest, at ``place``. ``media_type`` and ``artifact_type`` are ""
    if they are not told, ``platform`` is None if none is named. Its size is not read: the digest is what verifies a
    manifest, and all manifests are bounded alike.
    """

    place: str
    untrusted_digest: object = None
    media_type: str = ""
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""

    @property
    def digest(self) -> Digest:
        """The manifest's digest; :class:`InvalidManifestError` if there is none that content can be verified by."""
        return read_digest(self.untrusted_digest, f"{self.place}.digest")


class Index(Struct, frozen=True):
    """An OCI index or Docker manifest list; ``digest`` is the sha256 of ``raw``."""

    raw: bytes
    media_type: str
    digest: Digest
    manifests: tuple[IndexEntry, ...]


def parse_entries(value: object) -> tuple[IndexEntry, ...]:
    """Read an index's ``manifests``; :class:`InvalidManifestError` if they are none, too many, or ambiguous."""
    values = as_list(value, "manifests")
    if len(values) > MAX_DESCRIPTORS:
        raise InvalidManifestError(f"the index has more than {MAX_DESCRIPTORS} manifests")
    return tuple(_parse_entry(entry, f"manifests[{position}]") for position, entry in enumerate(values))


def _parse_entry(value: object, place: str) -> IndexEntry:
    if not isinstance(value, dict):
        return IndexEntry(place, platform=_NO_PLATFORM)
    fields = as_object(value, place, _KEYS)
    return IndexEntry(
        place=place,
        untrusted_digest=fields.get("digest"),
        media_type=text_of(fields.get("mediaType")),
        platform=_parse_platform(fields.get("platform"), f"{place}.platform"),
        annotations=annotations_of(fields.get("annotations")),
        artifact_type=text_of(fields.get("artifactType")),
    )


def _parse_platform(value: object, where: str) -> Platform | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        return _NO_PLATFORM
    fields = as_object(value, where, _PLATFORM_KEYS)
    os, architecture, variant = (fields.get(key) or "" for key in ("os", "architecture", "variant"))
    if not isinstance(os, str) or not isinstance(architecture, str) or not isinstance(variant, str):
        return _NO_PLATFORM
    return Platform(os, architecture, variant)


def choose_manifest(index: Index, platform: Platform) -> IndexEntry:
    """The manifest that serves ``platform`` best, as containers/image chooses it; perhaps that of a nested index.

    The closest variant wins, then in an OCI index zstd over gzip, then the first. In an OCI index, one that names no
    platform does for all, as the last resort. :class:`UnknownManifestError` if there is none.
    """
    is_oci = index.media_type == OCI_INDEX
    ranks = {wanted: rank for rank, wanted in enumerate((*wanted_platforms(platform), *((None,) if is_oci else ())))}
    fitting = [entry for entry in index.manifests if entry.platform in ranks]
    if not fitting:
        raise UnknownManifestError(f"the index has no image for {platform}{_available(index)}")
    return min(fitting, key=lambda entry: (ranks[entry.platform], is_oci and not _is_zstd(entry)))


def _is_zstd(entry: IndexEntry) -> bool:
    return entry.annotations.get(_ZSTD_ANNOTATION) == "true"


def _available(index: Index) -> str:
    names = {str(entry.platform) for entry in index.manifests if entry.platform}
    shown = sorted(name for name in names if name and name.isprintable() and len(name) <= _SHOWN_NAME)
    return f", only for {', '.join(shown[:_SHOWN_PLATFORMS])}" if shown else ""
