"""From a reference to the manifest for a platform: each document is the one that the document before chooses.

Fetched or kept, a document is held against the digest that leads to it. Signatures are none of its business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import (
    DigestMismatchError,
    InvalidManifestError,
    SizeMismatchError,
    UnknownManifestError,
)
from container_image_proxy.image.manifest import Index, Manifest, UntrustedManifest, choose_manifest, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.image_reference import ImageReference
    from container_image_proxy.image.manifest import Descriptor
    from container_image_proxy.image.platform import Platform
    from container_image_proxy.transports.source import ImageSource

_MAX_INDEXES: Final = 4


def fetch_chain(
    source: ImageSource, reference: ImageReference, platform: Platform, known: Digest | None
) -> tuple[tuple[Index, ...], Manifest] | None:
    """The indexes from the one that ``reference`` names, none if that is a manifest, and the manifest itself.

    None if the source says that ``known`` is still what it names. Raises :class:`UnknownManifestError`,
    :class:`UpstreamError` or :class:`IntegrityError`.
    """
    top = source.fetch_manifest(reference.pinned_digest, unless=known)
    if top is None:
        return None
    document = parse_manifest(top)
    _verify_pin(document, reference)
    indexes: list[Index] = []
    while isinstance(document, Index):
        if len(indexes) == _MAX_INDEXES:
            raise InvalidManifestError(f"{reference}: indexes are nested more than {_MAX_INDEXES} deep")
        indexes.append(document)
        document = _fetch_instance(source, choose_manifest(document, platform))
    return tuple(indexes), document


def verify_chain(indexes: Sequence[Index], manifest: Manifest, reference: ImageReference, platform: Platform) -> None:
    """Raise :class:`DigestMismatchError` if these are not what :func:`fetch_chain` would have returned."""
    documents: tuple[Index | Manifest, ...] = (*indexes, manifest)
    _verify_pin(documents[0], reference)
    for index, chosen in zip(indexes, documents[1:], strict=True):
        if not choose_manifest(index, platform).digest.matches(chosen.raw):
            raise DigestMismatchError(f"{reference}: its index chooses another manifest")


def _verify_pin(document: Index | Manifest, reference: ImageReference) -> None:
    if reference.pinned_digest is not None and not reference.pinned_digest.matches(document.raw):
        raise DigestMismatchError(f"{reference}: the source sent another manifest")


def _fetch_instance(source: ImageSource, descriptor: Descriptor) -> Manifest | Index:
    """The manifest or nested index that an index entry names, as its digest, size and type say."""
    untrusted = source.fetch_manifest(descriptor.digest)
    if untrusted is None:
        raise UnknownManifestError(f"the source has no manifest {descriptor.digest}")
    if not descriptor.digest.matches(untrusted.raw):
        raise DigestMismatchError(f"the source sent another manifest for {descriptor.digest}")
    if len(untrusted.raw) != descriptor.size:
        raise SizeMismatchError(
            f"{descriptor.digest} has {len(untrusted.raw)} bytes, its index entry says {descriptor.size}"
        )
    return parse_manifest(UntrustedManifest(untrusted.raw, untrusted.media_type or descriptor.media_type))
