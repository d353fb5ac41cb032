"""Where the signatures of an image in a registry are fetched from: lookaside storage, sigstore attachments, bundles.

containers-registries.d(5) says where; containers-signature(5) and cosign's specification say how they lie there.
Bounded in count and size, and fail closed: a storage that answers anything but "there is none" is an error, because a
signature that was not seen must not count as one that is not there. Verifies nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from container_image_proxy.config.lookaside import signature_url
from container_image_proxy.config.trusted_file import load_trusted_file_if_present
from container_image_proxy.errors import ConfigurationError, SourceError
from container_image_proxy.policy.signature_blob import (
    MAX_SIGNATURES,
    SIGNATURE_MEDIA_TYPE,
    UntrustedSignature,
    parse_signature_blob,
)
from container_image_proxy.transports.attached import MAX_SIGNATURE_SIZE, fetch_attached
from container_image_proxy.transports.bundles import fetch_bundles

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from container_image_proxy.config.lookaside import LookasideConfiguration
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.reference import Reference
    from container_image_proxy.policy.signature_blob import SignatureKind
    from container_image_proxy.registry.client import RegistryClient

MAX_TOTAL_SIZE: Final = 8 << 20  # of all signatures of one manifest, which are kept as long as its snapshot


@dataclass(frozen=True, slots=True)
class SignatureStorage:
    """The places that keep signatures of registry images."""

    lookaside: LookasideConfiguration
    registry: RegistryClient

    def fetch(
        self, reference: Reference, digest: Digest, kinds: Collection[SignatureKind]
    ) -> Iterator[tuple[UntrustedSignature, ...]]:
        """The signatures of ``kinds`` for the manifest with ``digest`` in the repository of ``reference``.

        Place by place, each asked when its turn comes: bundles, for which a registry has to be searched, are the last.
        Raises :class:`UpstreamError`, :class:`IntegrityError` or :class:`ConfigurationError`.
        """
        kept = 0
        for place in self._places(reference, digest, kinds):
            signatures = tuple(_within_budget(place, MAX_TOTAL_SIZE - kept))
            kept += sum(len(signature.blob) for signature in signatures)
            yield signatures

    def _places(
        self, reference: Reference, digest: Digest, kinds: Collection[SignatureKind]
    ) -> Iterator[Iterator[UntrustedSignature]]:
        if "simple" in kinds:
            yield self._in_lookaside(reference, digest)
        if "sigstore" in kinds and self.lookaside.use_sigstore_attachments(reference):
            yield self._attachments(reference, digest)
            yield fetch_bundles(self.registry, reference, digest)

    def _in_lookaside(self, reference: Reference, digest: Digest) -> Iterator[UntrustedSignature]:
        """signature-1, signature-2, ... until one is missing."""
        base = self.lookaside.lookaside_base_url(reference)
        for position in range(MAX_SIGNATURES):
            url = signature_url(base, digest, position)
            blob = self._load(url)
            if blob is None:
                return
            yield parse_signature_blob(blob, url)
        raise SourceError(f"{base} has more than {MAX_SIGNATURES} signatures for {digest}", phase="signature")

    def _load(self, url: str) -> bytes | None:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"}:
            return self.registry.fetch_document(url, limit=MAX_SIGNATURE_SIZE)
        if parts.scheme != "file":
            raise ConfigurationError(
                url, "a signature storage has an http, https or file URL", remedy="mend registries.d"
            )
        try:
            return load_trusted_file_if_present(Path(unquote(parts.path)), limit=MAX_SIGNATURE_SIZE)
        except ConfigurationError as error:
            raise SourceError(str(error), phase="signature", endpoint=parts.path) from error

    def _attachments(self, reference: Reference, digest: Digest) -> Iterator[UntrustedSignature]:
        """The layers of the image that cosign tags ``sha256-<hex>.sig`` in the same repository."""
        place = replace(reference, tag=f"{digest.algorithm}-{digest.hex}.sig", digest=None)
        return fetch_attached(self.registry, place, SIGNATURE_MEDIA_TYPE)


def _within_budget(signatures: Iterable[UntrustedSignature], budget: int) -> Iterator[UntrustedSignature]:
    for signature in signatures:
        budget -= len(signature.blob)
        if budget < 0:
            raise SourceError(
                f"{signature.source}: all signatures together exceed {MAX_TOTAL_SIZE} bytes", phase="signature"
            )
        yield signature
