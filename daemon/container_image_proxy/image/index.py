"""Image indexes: parses OCI indexes and Docker manifest lists, and chooses a manifest for a platform.

Only the entry that is chosen needs a valid digest. The other entries are not checked, so that an odd one does not make
the whole index unusable (contrib/adr/0017). OCI image-spec, image-index.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field

from container_image_proxy.errors import InvalidManifestError, MalformedDocumentError, UnknownManifestError
from container_image_proxy.image.descriptor import read_digest
from container_image_proxy.image.documents import annotations_of, convert, text_of
from container_image_proxy.image.media_types import OCI_INDEX
from container_image_proxy.image.platform import Platform, wanted_platforms
from container_image_proxy.image.strict_json import verify_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.errors import KeyPath
    from container_image_proxy.image.digest import Digest

MAX_DESCRIPTORS: Final = 10_000
"""Manifests of an index, and layers of a manifest, each of which takes half a KiB of memory. No image has a tenth of
this number.
"""
_KEYS: Final = frozenset({"mediaType", "digest", "platform"})
_PLATFORM_KEYS: Final = frozenset({"os", "architecture", "variant"})
_ZSTD_ANNOTATION: Final = "io.github.containers.compression.zstd"
_NO_PLATFORM: Final = Platform("", "")  # of an entry with a malformed platform; no host has this platform
_MAX_NAMES: Final = 16
"""Platforms that a message lists. Images have fewer."""
_LONGEST_NAME: Final = 64
"""Characters of a platform in that list. Longer ones are no platforms, and are left out."""


class IndexEntry(Struct, frozen=True):
    """An entry of an index, by which a manifest is fetched and verified. ``place`` is its key path, for errors.

    ``untrusted_digest`` is unchecked until :attr:`digest` is read. ``media_type`` and ``artifact_type`` are "" and
    ``platform`` is None if absent. The size is not read: manifests are verified by digest, and have a common limit.
    """

    place: str
    untrusted_digest: object = None
    media_type: str = ""
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""

    @property
    def digest(self) -> Digest:
        """The manifest's digest; :class:`InvalidManifestError` if it is missing or malformed."""
        try:
            return read_digest(self.untrusted_digest, ())
        except MalformedDocumentError as error:
            raise InvalidManifestError(f"{self.place}.digest: {error.reason}") from error


class Index(Struct, frozen=True):
    """An OCI index or Docker manifest list; ``digest`` is the sha256 of ``raw``."""

    raw: bytes
    media_type: str
    digest: Digest
    manifests: tuple[IndexEntry, ...]


class _WrittenEntry(Struct, frozen=True, rename="camel"):
    """An entry as a document has it.

    Each member may have any form, because entries are checked when they are chosen.
    """

    digest: Any = None
    media_type: Any = None
    platform: Any = None
    annotations: Any = None
    artifact_type: Any = None


class _WrittenPlatform(Struct, frozen=True):
    os: str | None = None
    architecture: str | None = None
    variant: str | None = None


def parse_entries(values: list[Any]) -> tuple[IndexEntry, ...]:
    """The entries in an index's ``manifests``.

    :class:`MalformedDocumentError` if there are too many, or ambiguous keys.
    """
    if len(values) > MAX_DESCRIPTORS:
        raise MalformedDocumentError(f"the index has more than {MAX_DESCRIPTORS} manifests")
    return tuple(_parse_entry(value, position) for position, value in enumerate(values))


def _parse_entry(value: object, position: int) -> IndexEntry:
    path = ("manifests", position)
    place = f"manifests[{position}]"
    if not isinstance(value, dict):
        return IndexEntry(place, platform=_NO_PLATFORM)
    verify_keys(value, _KEYS, path)
    written = convert(value, _WrittenEntry, path)
    return IndexEntry(
        place=place,
        untrusted_digest=written.digest,
        media_type=text_of(written.media_type),
        platform=_parse_platform(written.platform, (*path, "platform")),
        annotations=annotations_of(written.annotations),
        artifact_type=text_of(written.artifact_type),
    )


def _parse_platform(value: object, path: KeyPath) -> Platform | None:
    if value is None:
        return None
    verify_keys(value, _PLATFORM_KEYS, path)
    try:
        written = convert(value, _WrittenPlatform, path)
    except MalformedDocumentError:
        return _NO_PLATFORM
    return Platform(written.os or "", written.architecture or "", written.variant or "")


def choose_manifest(index: Index, platform: Platform) -> IndexEntry:
    """The entry for ``platform`` that containers/image would choose. It may be a nested index.

    The closest variant is chosen; of equally close ones, in an OCI index one with zstd layers, or else the first. In an
    OCI index an entry without a platform is the last choice. :class:`UnknownManifestError` if there is no entry.
    """
    is_oci = index.media_type == OCI_INDEX
    ranks = {wanted: rank for rank, wanted in enumerate((*wanted_platforms(platform), *((None,) if is_oci else ())))}
    fitting = [entry for entry in index.manifests if entry.platform in ranks]
    if not fitting:
        # The names are the registry's words: what is no plausible platform is not repeated.
        names = {str(entry.platform) for entry in index.manifests if entry.platform}
        usual = sorted(name for name in names if name and name.isprintable() and len(name) <= _LONGEST_NAME)
        others = f", only for {', '.join(usual[:_MAX_NAMES])}" if usual else ""
        raise UnknownManifestError(f"the index has no image for {platform}{others}")

    # min() takes the first of equal ones, and False before True.
    def rank(entry: IndexEntry) -> tuple[int, bool]:
        return ranks[entry.platform], is_oci and entry.annotations.get(_ZSTD_ANNOTATION) != "true"

    return min(fitting, key=rank)
