"""Verifies a sigstore bundle: who signed the manifest, and under which name.

The rule for names (contrib/adr/0012): the name of the statement's subject is a claim like the docker-reference of any
other signature. A bundle without a name proves who signed the content, but not as which image. It is rejected, unless
the setting ``accept-unnamed-bundles`` lets it count as the repository and digest of the configured reference. No signed
content is parsed before its signature is verified.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from msgspec import Struct

from container_image_proxy.errors import SignatureRejectedError, shown
from container_image_proxy.image.digest import digest_of
from container_image_proxy.policy.pem import to_pem
from container_image_proxy.policy.sigstore.bundle import UntrustedEnvelope, UntrustedMessageSignature, parse_bundle
from container_image_proxy.policy.sigstore.certificate_identity import UntrustedCertificate
from container_image_proxy.policy.sigstore.rekor import verify_promise
from container_image_proxy.policy.sigstore.statement import PAYLOAD_TYPE, parse_signing_statement
from container_image_proxy.policy.simple_signing import Attestation, Claim

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from container_image_proxy.image.reference import Reference
    from container_image_proxy.policy.budget import Budget
    from container_image_proxy.policy.sigstore.bundle import UntrustedBundle
    from container_image_proxy.policy.sigstore.public_key import PublicKey
    from container_image_proxy.policy.sigstore.rekor import EntryKind
    from container_image_proxy.policy.sigstore.trust import SigstoreTrust


class _Bundled(Struct, frozen=True):
    """A bundle as :class:`Material`; ``manifest`` is the content that a bare signature must be of."""

    bundle: UntrustedBundle
    manifest: bytes

    @property
    def signature(self) -> bytes:
        return self.bundle.content.signature

    @property
    def signed_bytes(self) -> bytes:
        content = self.bundle.content
        return content.signed_bytes if isinstance(content, UntrustedEnvelope) else self.manifest

    @property
    def certificate(self) -> UntrustedCertificate:
        if self.bundle.certificate is None:
            raise SignatureRejectedError("it has no certificate")
        return UntrustedCertificate(to_pem(self.bundle.certificate), b"")

    def verify_logged(self, logs: Sequence[PublicKey], signer: bytes, budget: Budget) -> datetime:
        promise, content = self.bundle.promise, self.bundle.content
        # cosign logs the signature of a bare manifest as one kind of entry, and an envelope as the other.
        kind: EntryKind = "hashedrekord"
        payload = self.manifest
        if isinstance(content, UntrustedEnvelope):
            kind, payload = "dsse", content.payload
        return verify_promise(
            promise, kind, logs, signer=signer, signature=content.signature, payload=payload, budget=budget
        )


def verify_bundle(
    trust: SigstoreTrust, untrusted: bytes, manifest: bytes, budget: Budget, *, unnamed_as: Reference | None
) -> Attestation:
    """The attestation of a trusted signer about ``manifest`` (the bytes of a manifest or index) in this bundle.

    A bundle that names no image counts for the repository of ``unnamed_as``, or is rejected if that is None.
    :class:`SignatureRejectedError` also if no trusted signer made it, or if it is about other content.
    """
    bundle = parse_bundle(untrusted)
    signer = trust.identify(_Bundled(bundle, manifest), budget)
    digest = digest_of(manifest)
    name = _signed_name(bundle.content, manifest, signer)
    if name:
        return Attestation(signer, Claim(name, digest))
    if unnamed_as is None:
        raise SignatureRejectedError(
            f"it is valid and by {signer}, but the bundle names no image "
            f"(with accept-unnamed-bundles it would count for its digest in the repository)"
        )
    return Attestation(signer, Claim(f"{unnamed_as.name}@{digest}", digest), is_named=False)


def _signed_name(content: UntrustedEnvelope | UntrustedMessageSignature, manifest: bytes, signer: str) -> str:
    """The name that verified content gives the manifest, "" if none.

    :class:`SignatureRejectedError` for other content.
    """
    sha256 = hashlib.sha256(manifest)
    if isinstance(content, UntrustedMessageSignature):
        if content.sha256 != sha256.digest():
            raise SignatureRejectedError(f"it is valid and by {signer}, but its message digest is of other content")
        return ""
    if content.payload_type != PAYLOAD_TYPE:
        raise SignatureRejectedError(
            f"it is valid and by {signer}, but of a payload of type {shown(content.payload_type)}"
        )
    subjects = parse_signing_statement(content.payload)
    names = [subject.name for subject in subjects if subject.sha256 == sha256.hexdigest()]
    if len(names) != 1:  # with two names for one content, it would be open which of them the signer meant
        reason = "for other content" if not names else "its statement is about this content more than once"
        raise SignatureRejectedError(f"it is valid and by {signer}, but {reason}")
    return names[0]
