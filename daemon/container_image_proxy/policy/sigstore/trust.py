"""Verifies sigstore signatures of images offline: by keys, by Fulcio certificates, or by certificates of a PKI.

Loads what a ``sigstoreSigned`` requirement trusts, and owns the order in which the parts of a signature are verified.
The payload is not parsed before its signature is verified. Format: cosign's specs/SIGNATURE_SPEC.md.
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
    """A signature and what is needed to verify it, from either format. Nothing in it is verified yet."""

    @property
    def signature(self) -> bytes:
        """The bare signature."""

    @property
    def signed_bytes(self) -> bytes:
        """The bytes that it signs."""

    @property
    def certificate(self) -> UntrustedCertificate:
        """The signer's certificate; :class:`SignatureRejectedError` if the signature has none."""

    def verify_logged(self, logs: Sequence[PublicKey], signer: bytes, budget: Budget) -> datetime:
        """The time at which one of the logs added this signature by ``signer`` (DER key or certificate).

        :class:`SignatureRejectedError` if none of them promises it.
        """


class SigstoreTrust(Struct, frozen=True):
    """The signers (keys, or holders of certificates) and transparency logs that a requirement trusts.

    ``logs`` is empty if the requirement does not ask for a log. ``now`` is the time of verification.
    """

    signers: tuple[PublicKey, ...] | FulcioRoot | PkiRoot
    logs: tuple[PublicKey, ...]
    now: datetime

    def verify(self, untrusted: UntrustedSignature, budget: Budget) -> Attestation:
        """The attestation in a signature that cosign attached; :class:`SignatureRejectedError` if it does not count."""
        if untrusted.media_type != SIGNATURE_MEDIA_TYPE:
            raise SignatureRejectedError(
                f"it is of the media type {shown(untrusted.media_type)}, which is no signature's"
            )
        with rejected_because("it is malformed"):
            signature = decode_base64(_require_annotation(untrusted, _SIGNATURE).decode())
        signer = self.identify(_Attachment(untrusted, signature), budget)
        return Attestation(signer, parse_claim(untrusted.blob, COSIGN))

    def identify(self, material: Material, budget: Budget) -> str:
        """The trusted signer who made the signature, as receipts name signers; :class:`SignatureRejectedError` if none.

        Each step relies only on what the steps before it verified. The signed content is not parsed.

        1. By key: one of the policy's keys made the signature.
        2. If the policy names logs, one of them promises that it has this signature by this signer.
        3. By certificate: the certificate leads to the policy's authorities at the time that counts, and its holder is
           the one that the policy names. Certificates of Fulcio are valid for minutes, so that this time is the log's
           and step 2 comes first. For a PKI the time is now.
        4. The certificate's key made the signature.
        """
        if isinstance(self.signers, tuple):
            # 1. By key.
            key = find_signing_key(self.signers, material.signature, material.signed_bytes, budget)
            if key is None:
                raise SignatureRejectedError("it is by no trusted key, or what it signs was changed")
            # 2. In the log.
            if self.logs:
                material.verify_logged(self.logs, public_der(key), budget)
            return name_key(key)
        certificate, at = material.certificate, self.now
        # 2. The log promises an entry of exactly this certificate, which is not trusted yet.
        if isinstance(self.signers, FulcioRoot):
            at = material.verify_logged(self.logs, parse_single_pem(certificate.leaf, "the certificate"), budget)
        # 3. By certificate.
        holder = self.signers.verify(certificate, at, budget)
        # 4. By that certificate's key.
        if not is_signed_by(holder.key, material.signature, material.signed_bytes):
            raise SignatureRejectedError("it is not by its certificate's key, or what it signs was changed")
        return holder.name


class _Attachment(Struct, frozen=True):
    """A signature that cosign attached to an image: a layer with the payload, and annotations with the rest."""

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
    """Load the keys and certificates that a requirement names.

    :class:`SignatureRejectedError` or :class:`ConfigurationError` if one of them cannot be used.
    """

    def authorities(pem: bytes) -> tuple[Certificate, ...]:
        return parse_authorities(pem, "the certificate authority file", budget)

    def intermediates(pem: bytes) -> tuple[Certificate, ...]:
        return parse_certificates(pem, "the file of intermediate authorities", budget)

    signers: tuple[PublicKey, ...] | FulcioRoot | PkiRoot
    match requirement.signer:
        case KeySource() as keys:
            signers = _load(keys, lambda pem: [parse_public_key(pem, "the sigstore key")], budget)
        case Fulcio() as fulcio:
            signers = FulcioRoot(_load(fulcio.ca, authorities, budget), fulcio.oidc_issuer, fulcio.subject_email)
        case Pki() as pki:
            below = _load(pki.intermediates, intermediates, budget) if pki.intermediates else ()
            signers = PkiRoot(_load(pki.roots, authorities, budget), below, pki.subject_email, pki.subject_hostname)
    logs = _load(requirement.rekor, lambda pem: [_parse_log_key(pem)], budget) if requirement.rekor else ()
    return SigstoreTrust(signers, logs, now)


def _load(source: KeySource, parse: Callable[[bytes], Iterable[_T]], budget: Budget) -> tuple[_T, ...]:
    """All that ``parse`` finds in the files of the source; errors name the source."""
    found: list[_T] = []
    with source.named_in_errors():
        for pem in load_keys(source):
            budget.check()
            found += parse(pem)
    return tuple(found)


def _parse_log_key(pem: bytes) -> PublicKey:
    """A log's key; like containers/image, only ECDSA is supported."""
    key = parse_public_key(pem, "the Rekor key")
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise SignatureRejectedError("the Rekor key is not an ECDSA key")
    return key


def _require_annotation(untrusted: UntrustedSignature, name: str) -> bytes:
    value = untrusted.annotations.get(name)
    if value is None:
        raise SignatureRejectedError(f"it lacks the annotation {name}")
    return value.encode("utf-8", "replace")
