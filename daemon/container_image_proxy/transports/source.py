"""What every transport gives: a source that hands out the image's bytes, and a reader for each blob.

A source locates and bounds, it never vouches: everything that it returns is untrusted until ``proxy`` has held it
against digests and policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import Descriptor, UntrustedManifest
    from container_image_proxy.image.signature import Findings, SignatureKind


class BlobReader(Protocol):
    """A blob's bytes in their order, unverified. One thread uses it, and closes it; it may outlive its source."""

    @property
    def offset(self) -> int:
        """Where in the blob the next byte is from, in bytes."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill the beginning of ``buffer``, which is not empty: how many bytes, none only at the end.

        Raises :class:`UnknownBlobError`, :class:`UpstreamError` or :class:`IntegrityError`.
        """

    def reject(self) -> None:
        """Take note that the content was wrong: whoever supplied it is asked last from now on."""

    def close(self) -> None:
        """Free what the reader holds. May be called again."""


class ImageSource(Protocol):
    """One image where it lies, for one resolution or one blob. One thread uses it."""

    @property
    def supplier(self) -> object:
        """Who has delivered what was asked for, of several who may have it; None if there is but one.

        A later source of the same image that is opened with it asks there first.
        """

    def fetch_manifest(self, digest: Digest | None = None, *, unless: Digest | None = None) -> UntrustedManifest | None:
        """The manifest or index the reference names, or the one with ``digest``; at most ``MAX_MANIFEST_SIZE`` bytes.

        None only if the reference is known to name ``unless`` still. The caller checks the digest.
        Raises :class:`UnknownManifestError`, :class:`UpstreamError` or :class:`IntegrityError`.
        """

    def open_blob(self, descriptor: Descriptor) -> BlobReader:
        """A reader of the blob from its beginning.

        Raises :class:`UnknownBlobError` or :class:`UpstreamError`, unless the reader does so when it is first asked.
        """

    def fetch_signatures(self, digest: Digest, kinds: Collection[SignatureKind]) -> Iterator[Findings]:
        """The signatures of ``kinds`` for the manifest with ``digest``, from one place after the other.

        A place is asked when its turn comes, so that who has seen enough can save the rest. What is not among the
        findings is for certain not there: a place that cannot be asked, or only in part, says so in its ``failures``.
        """

    def close(self) -> None:
        """Free what the source holds; nothing may be called afterwards."""
