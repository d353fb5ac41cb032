"""sigstore signatures of container images, checked offline: with keys, Fulcio certificates or an ordinary PKI.

Owns what a ``sigstoreSigned`` requirement trusts and the order in which a signature's parts are believed: nothing in
the payload is read before its signature is known to be a trusted signer's. Format: cosign's SIGNATURE_SPEC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import InvalidInputError, SignatureRejectedError
from container_image_proxy.policy.certificate_identity import FulcioRoot, PkiRoot, UntrustedCertificate
from container_image_proxy.policy.fields import decode_base64
from container_image_proxy.policy.key_source import KeySource, load_keys
from container_image_proxy.policy.public_key import (
    PublicKey,
    find_signing_key,
    is_signed_by,
    name_key,
    parse_public_key,
    parse_single_pem,
    public_der,
)
from container_image_proxy.policy.rekor import verify_set
from container_image_proxy.policy.requirement import Fulcio, Pki, SigstoreSigned
from container_image_proxy.policy.simple_signing import COSIGN, Attestation, parse_claim
from container_image_proxy.policy.x509_chain import parse_certificates

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography.x509 import Certificate

    from container_image_proxy.policy.signature_blob import UntrustedSignature

SIGNATURE_MEDIA_TYPE: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
_SIGNATURE: Final = "dev.cosignproject.cosign/signature"
_BUNDLE: Final = "dev.sigstore.cosign/bundle"
_CERTIFICATE: Final = "dev.sigstore.cosign/certificate"
_CHAIN: Final = "dev.sigstore.cosign/chain"


@dataclass(frozen=True, slots=True)
class SigstoreTrust:
    """Whom a requirement trusts: signers (any of the keys, or holders of certain certificates) and, if any, logs."""

    signers: tuple[PublicKey, ...] | FulcioRoot | PkiRoot
    logs: tuple[PublicKey, ...]
    now: datetime

    def verify(self, untrusted: UntrustedSignature) -> Attestation:
        """What a trusted signer says in this signature; :class:`SignatureRejectedError` if it is none of theirs."""
        if untrusted.media_type != SIGNATURE_MEDIA_TYPE:
            raise SignatureRejectedError(f"is no signature, but {untrusted.media_type[:100]!r}")
        signature = _decode_signature(untrusted)
        if isinstance(self.signers, tuple):
            signer = self._verify_by_key(self.signers, untrusted, signature)
        else:
            signer = self._verify_by_certificate(self.signers, untrusted, signature)
        return Attestation(signer, parse_claim(untrusted.blob, COSIGN))

    def _verify_by_key(self, keys: tuple[PublicKey, ...], untrusted: UntrustedSignature, signature: bytes) -> str:
        key = find_signing_key(keys, signature, untrusted.blob)
        if key is None:
            raise SignatureRejectedError("is by no trusted key, or what it signs was changed")
        if self.logs:
            self._verify_logged(public_der(key), untrusted, signature)
        return name_key(key)

    def _verify_by_certificate(
        self, root: FulcioRoot | PkiRoot, untrusted: UntrustedSignature, signature: bytes
    ) -> str:
        leaf = _require_annotation(untrusted, _CERTIFICATE)
        certificate = UntrustedCertificate(leaf, untrusted.annotations.get(_CHAIN, "").encode())
        at = self.now
        if isinstance(
            root, FulcioRoot
        ):  # its certificates live for minutes: what counts is when the log saw the signature
            at = self._verify_logged(parse_single_pem(leaf, "the certificate"), untrusted, signature)
        if not is_signed_by(root.verify(certificate, at), signature, untrusted.blob):
            raise SignatureRejectedError("is not by its certificate's key, or what it signs was changed")
        return str(root)

    def _verify_logged(self, signer: bytes, untrusted: UntrustedSignature, signature: bytes) -> datetime:
        bundle = _require_annotation(untrusted, _BUNDLE)
        return verify_set(bundle, self.logs, signer=signer, signature=signature, payload=untrusted.blob)


def load_sigstore_trust(requirement: SigstoreSigned, now: datetime) -> SigstoreTrust:
    """Read the keys and certificates that a requirement names.

    :class:`SignatureRejectedError` or :class:`ConfigurationError` if one of them cannot be used.
    """
    logs = _load_public_keys(requirement.rekor, "a Rekor key") if requirement.rekor is not None else ()
    return SigstoreTrust(_load_signers(requirement.signer), logs, now)


def _load_signers(signer: KeySource | Fulcio | Pki) -> tuple[PublicKey, ...] | FulcioRoot | PkiRoot:
    match signer:
        case KeySource():
            return _load_public_keys(signer, "a sigstore key")
        case Fulcio():
            return FulcioRoot(_load_certificates(signer.ca), signer.oidc_issuer, signer.subject_email)
        case Pki():
            intermediates = _load_certificates(signer.intermediates) if signer.intermediates is not None else ()
            roots = _load_certificates(signer.roots)
            return PkiRoot(roots, intermediates, signer.subject_email, signer.subject_hostname)


def _load_public_keys(source: KeySource, what: str) -> tuple[PublicKey, ...]:
    return tuple(parse_public_key(pem, what) for pem in load_keys(source))


def _load_certificates(source: KeySource) -> tuple[Certificate, ...]:
    certificates = tuple(
        certificate
        for pem in load_keys(source)
        for certificate in parse_certificates(pem, "a certificate authority file")
    )
    if not certificates:
        raise SignatureRejectedError("there is no certificate in the certificate authority file")
    return certificates


def _decode_signature(untrusted: UntrustedSignature) -> bytes:
    try:
        return decode_base64(_require_annotation(untrusted, _SIGNATURE).decode(), "the signature")
    except InvalidInputError as error:
        raise SignatureRejectedError(f"is malformed: {error}") from error


def _require_annotation(untrusted: UntrustedSignature, name: str) -> bytes:
    value = untrusted.annotations.get(name)
    if value is None:
        raise SignatureRejectedError(f"lacks the annotation {name}")
    return value.encode("utf-8", "replace")
