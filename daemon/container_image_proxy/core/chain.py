"""From a reference to the manifest for a platform: each document is the one that the document before it chooses.

Every document, fetched or kept, is verified against the digest that leads to it.
Must not look at signatures, which is for ``policy``. Spec: OCI image-spec, image-index.md and manifest.md.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import (
    AmbiguousImageError,
    DigestMismatchError,
    ImageNotFoundError,
    InvalidManifestError,
    UnknownManifestError,
    naming,
)
from container_image_proxy.image.manifest import Index, UntrustedManifest, choose_manifest, parse_manifest
from container_image_proxy.image.schema1 import without_signatures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.image_reference import ImageReference
    from container_image_proxy.image.manifest import ImageManifest, IndexEntry
    from container_image_proxy.image.platform import Platform
    from container_image_proxy.transports.source import ImageSource

_MAX_INDEXES: Final = 4
"""Indexes on the way to a manifest. The specification allows indexes of indexes, and sets no limit."""
_parsing: Final = threading.Lock()
"""Held while a document is parsed: that takes fifteen times its length in memory, and threads take turns anyway."""


def fetch_chain(
    context: Context,
    source: ImageSource,
    reference: ImageReference,
    platform: Platform,
    known: Digest | None,
    take: Callable[[int], object],
) -> tuple[tuple[Index, ...], ImageManifest] | None:
    """The indexes from the one that ``reference`` names (none if that is a manifest), and the manifest itself.

    None if the source says that ``known`` is still what it names. ``take`` is called with the size in bytes of each
    document before it is read. Raises :class:`ImageNotFoundError` if the source has no image of that name,
    :class:`UnknownManifestError`, :class:`UpstreamError` or :class:`IntegrityError`.
    """
    try:
        top = source.fetch_manifest(context, reference.pinned_digest, unless=known, take=take)
    except AmbiguousImageError:
        raise
    except UnknownManifestError as error:
        raise ImageNotFoundError(str(error)) from error
    if top is None:
        return None
    place = str(reference)
    with naming(place):
        document = _parse(top)
    _verify_pin(document, reference)
    indexes: list[Index] = []
    while isinstance(document, Index):
        if len(indexes) == _MAX_INDEXES:
            raise InvalidManifestError(f"{reference}: indexes are nested more than {_MAX_INDEXES} deep")
        indexes.append(document)
        with naming(place):
            entry = choose_manifest(document, platform)
            place = f"{reference}, manifest {entry.digest}"
        document = fetch_instance(context, source, entry, place, take)
    return tuple(indexes), document


def verify_chain(
    indexes: Sequence[Index], manifest: ImageManifest, reference: ImageReference, platform: Platform
) -> None:
    """Raise :class:`DigestMismatchError` unless :func:`fetch_chain` could have returned these documents."""
    documents: tuple[Index | ImageManifest, ...] = (*indexes, manifest)
    _verify_pin(documents[0], reference)
    for index, chosen in zip(indexes, documents[1:], strict=True):
        if not choose_manifest(index, platform).digest.matches(chosen.raw):
            raise DigestMismatchError(f"{reference}: its index chooses another manifest")


def _verify_pin(document: Index | ImageManifest, reference: ImageReference) -> None:
    if reference.pinned_digest is not None and not reference.pinned_digest.matches(document.raw):
        raise DigestMismatchError(f"{reference}: the source sent a manifest with another digest")


def fetch_instance(
    context: Context, source: ImageSource, entry: IndexEntry, place: str, take: Callable[[int], object]
) -> ImageManifest | Index:
    """The manifest or nested index that an index entry names, verified by the entry's digest.

    ``place`` names it in messages. Raises as :func:`fetch_chain`.
    """
    untrusted = source.fetch_manifest(context, entry.digest, take=take)
    if untrusted is None:
        raise UnknownManifestError(f"{place}: the source says 'not modified' to a first request")
    raw = without_signatures(untrusted.raw)
    if not entry.digest.matches(raw):
        raise DigestMismatchError(f"{place}: the source sent a manifest with another digest")
    # The entry's media type is verified with the index. The one that came with the bytes is only the source's word.
    with naming(place):
        return _parse(UntrustedManifest(raw, entry.media_type or untrusted.media_type))


def _parse(untrusted: UntrustedManifest) -> ImageManifest | Index:
    with _parsing:
        return parse_manifest(untrusted)
