"""sigstore signatures of container images, checked offline: with keys, Fulcio certificates or an ordinary PKI.

Owns what a ``sigstoreSigned`` requirement trusts and the order in which a signature's parts are believed: nothing in
the payload is read before its signature is known to be a trusted signer's. Format: cosign's SIGNATURE_SPEC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct

from container_image_proxy.errors import SignatureRejectedError, rejected_because, shown
from container_image_proxy.image.documents import decode_base64
from container_image_proxy.image.signature import SIGNATURE_MEDIA_TYPE
from container_image_proxy.policy.key_source import KeySource, load_keys
from container_image_proxy.policy.pem import parse_single_pem
from container_image_proxy.policy.requirement import Fulcio, Pki, SigstoreSigned
from container_image_proxy.policy.sigstore.certificate_identity import FulcioRoot, PkiRoot, UntrustedCertificate
from container_image_proxy.policy.sigstore.public_key import (
    PublicKey,
    find_signing_key,
    is_signed_by,
    name_key,
    parse_public_key,
    public_der,
)
from container_image_proxy.policy.sigstore.rekor import verify_set
from container_image_proxy.policy.sigstore.x509_chain import parse_authorities, parse_certificates
from container_image_proxy.policy.simple_signing import COSIGN, Attestation, parse_claim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from cryptography.x509 import Certificate

    from container_image_proxy.image.signature import UntrustedSignature
    from container_image_proxy.policy.budget import Budget

_T = TypeVar("_T")
_SIGNATURE: Final = "dev.cosignproject.cosign/signature"
_BUNDLE: Final = "dev.sigstore.cosign/bundle"
_CERTIFICATE: Final = "dev.sigstore.cosign/certificate"
_CHAIN: Final = "dev.sigstore.cosign/chain"


class Material(Protocol):
    """A signature with what it takes to check it, in whichever format that came; nothing of it is verified."""

    @property
    def signature(self) -> bytes:
        """The bare signature."""

    @property
    def signed_bytes(self) -> bytes:
        """The bytes that it signs."""

    @property
    def certificate(self) -> UntrustedCertificate:
        """The signer's certificate; :class:`SignatureRejectedError` if there is none."""

    def verify_logged(self, logs: Sequence[PublicKey], signer: bytes, budget: Budget) -> datetime:
        """When one of the logs took in this signature by ``signer`` (DER of a key or certificate), or
        :class:`SignatureRejectedError`.
        """


class SigstoreTrust(Struct, frozen=True):
    """Whom a requirement trusts: signers (any of the keys, or holders of certain certificates) and, if any, logs."""

    signers: tuple[PublicKey, ...] | FulcioRoot | PkiRoot
    logs: tuple[PublicKey, ...]
    now: datetime

    def verify(self, untrusted: UntrustedSignature, budget: Budget) -> Attestation:
        """What a trusted signer says in this signature; :class:`SignatureRejectedError` if it is none of theirs."""
        if untrusted.media_type != SIGNATURE_MEDIA_TYPE:
            raise SignatureRejectedError(
                f"it is of the media type {shown(untrusted.media_type)}, which is no signature's"
            )
        with rejected_because("it is malformed"):
            signature = decode_base64(_require_annotation(untrusted, _SIGNATURE).decode())
        signer = self.identify(_Attachment(untrusted, signature), budget)
        return Attestation(signer, parse_claim(untrusted.blob, COSIGN))

    def identify(self, material: Material, budget: Budget) -> str:
        """Which trusted signer made the signature, as receipts name signers; the content is not looked at.

        The steps of belief, each of which trusts what the ones before it found and nothing else:

        1. A signer by key: one of the policy's keys made the signature.
        2. If the policy names logs, one of them promises that it took in this signature by this signer.
        3. A signer by certificate: the certificate leads to the policy's authorities, at the time that counts, and is
           for whom the policy names. For Fulcio, whose certificates live for minutes, that time is the log's, so that
           step 2 comes first; for an ordinary PKI it is now.
        4. The certificate's key made the signature.
        """
        if isinstance(self.signers, tuple):
            # 1.
            key = find_signing_key(self.signers, material.signature, material.signed_bytes, budget)
            if key is None:
                raise SignatureRejectedError("it is by no trusted key, or what it signs was changed")
            # 2.
            if self.logs:
                material.verify_logged(self.logs, public_der(key), budget)
            return name_key(key)
        certificate, at = material.certificate, self.now
        # 2. What the log vouches for is this very certificate, which is not trusted yet.
        if isinstance(self.signers, FulcioRoot):
            at = material.verify_logged(self.logs, parse_single_pem(certificate.leaf, "the certificate"), budget)
        # 3.
        holder = self.signers.verify(certificate, at, budget)
        # 4.
        if not is_signed_by(holder.key, material.signature, material.signed_bytes):
            raise SignatureRejectedError("it is not by its certificate's key, or what it signs was changed")
        return holder.name


class _Attachment(Struct, frozen=True):
    """A signature as cosign attaches it to an image: the payload, and all that belongs to it in annotations."""

    untrusted: UntrustedSignature
    signature: bytes

    @property
    def signed_bytes(self) -> bytes:
        return self.untrusted.blob

    @property
    def certificate(self) -> UntrustedCertificate:
        leaf = _require_annotation(self.untrusted, _CERTIFICATE)
        return UntrustedCertificate(leaf, self.untrusted.annotations.get(_CHAIN, "").encode())

    def verify_logged(self, logs: Sequence[PublicKey], signer: bytes, budget: Budget) -> datetime:
        bundle = _require_annotation(self.untrusted, _BUNDLE)
        return verify_set(
            bundle, logs, signer=signer, signature=self.signature, payload=self.signed_bytes, budget=budget
        )


def load_sigstore_trust(requirement: SigstoreSigned, now: datetime, budget: Budget) -> SigstoreTrust:
    """Read the keys and certificates that a requirement names.

    :class:`SignatureRejectedError` or :class:`ConfigurationError` if one of them cannot be used.
    """
    logs = _load(requirement.rekor, lambda pem: [_parse_log_key(pem)], budget) if requirement.rekor else ()
    return SigstoreTrust(_load_signers(requirement.signer, budget), logs, now)


def _load_signers(signer: KeySource | Fulcio | Pki, budget: Budget) -> tuple[PublicKey, ...] | FulcioRoot | PkiRoot:
    def authorities(pem: bytes) -> tuple[Certificate, ...]:
        return parse_authorities(pem, "the certificate authority file", budget)

    def intermediates(pem: bytes) -> tuple[Certificate, ...]:
        return parse_certificates(pem, "the file of intermediate authorities", budget)

    match signer:
        case KeySource():
            return _load(signer, lambda pem: [parse_public_key(pem, "the sigstore key")], budget)
        case Fulcio():
            return FulcioRoot(_load(signer.ca, authorities, budget), signer.oidc_issuer, signer.subject_email)
        case Pki():
            below = _load(signer.intermediates, intermediates, budget) if signer.intermediates else ()
            roots = _load(signer.roots, authorities, budget)
            return PkiRoot(roots, below, signer.subject_email, signer.subject_hostname)


def _load(source: KeySource, parse: Callable[[bytes], Iterable[_T]], budget: Budget) -> tuple[_T, ...]:
    """What is in each file of the source; errors name it."""
    found: list[_T] = []
    with source.named_in_errors():
        for pem in load_keys(source):
            budget.check()
            found += parse(pem)
    return tuple(found)


def _parse_log_key(pem: bytes) -> PublicKey:
    key = parse_public_key(pem, "the Rekor key")
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise SignatureRejectedError("the Rekor key is not an ECDSA key")
    return key


def _require_annotation(untrusted: UntrustedSignature, name: str) -> bytes:
    value = untrusted.annotations.get(name)
    if value is None:
        raise SignatureRejectedError(f"it lacks the annotation {name}")
    return value.encode("utf-8", "replace")
