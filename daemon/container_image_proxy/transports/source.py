"""What every transport gives: a source that hands out the image's bytes.

A source locates and bounds, it never vouches: everything that it returns is untrusted until ``proxy`` has held it
against digests and policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator

    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import Descriptor, UntrustedManifest
    from container_image_proxy.policy.signature_blob import SignatureKind, UntrustedSignature


class ImageSource(Protocol):
    """One image where it lies. Safe to use from several threads."""

    def fetch_manifest(self, digest: Digest | None = None, *, unless: Digest | None = None) -> UntrustedManifest | None:
        """The manifest or index the reference names, or the one with ``digest``; at most ``MAX_MANIFEST_SIZE`` bytes.

        None only if the reference is known to name ``unless`` still. The caller checks the digest.
        Raises :class:`UnknownManifestError`, :class:`UpstreamError` or :class:`IntegrityError`.
        """

    def open_blob(self, descriptor: Descriptor) -> Generator[bytes, None, None]:
        """The blob's bytes, unverified, in chunks of at most ``CHUNK_SIZE``; closing the generator frees everything.

        Raises :class:`UnknownBlobError` or :class:`UpstreamError`, before the first chunk or between two.
        """

    def fetch_signatures(
        self, digest: Digest, kinds: Collection[SignatureKind]
    ) -> Iterator[tuple[UntrustedSignature, ...]]:
        """The signatures of ``kinds`` for the manifest with ``digest``, from one place after the other.

        A place is asked when its turn comes, so that who has seen enough can save the rest. Empty only if there are
        none for certain. Raises :class:`UpstreamError`, :class:`IntegrityError` or :class:`ConfigurationError`.
        """

    def close(self) -> None:
        """Free what the source holds; nothing may be called afterwards."""
