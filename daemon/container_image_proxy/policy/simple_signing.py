"""The "simple signing" payload, which names the signed image; cosign uses the same format (containers-signature(5)).

Payloads are parsed strictly, and only after their signature was verified. The claim in them is then compared with the
image. No cryptography happens here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.errors import MalformedDocumentError, SignatureRejectedError, rejected_because, shown
from container_image_proxy.image.descriptor import read_digest
from container_image_proxy.image.documents import Int64, Strict, parse_strict

if TYPE_CHECKING:
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.reference import Reference
    from container_image_proxy.image.signature import UntrustedSignature
    from container_image_proxy.policy.budget import Budget
    from container_image_proxy.policy.identity import SignedIdentity
    from container_image_proxy.policy.openpgp import Keyring

ATOMIC: Final = "atomic container signature"
COSIGN: Final = "cosign container image signature"


class Claim(Struct, frozen=True):
    """The image that a signature is about: its name as untrusted text, and the digest of its index or manifest."""

    docker_reference: str
    manifest_digest: Digest


class Attestation(Struct, frozen=True):
    """A claim with a good signature, and its signer as receipts name signers.

    ``is_named`` is False if the signer named no image, and the name in the claim comes from the configuration
    (contrib/adr/0012).
    """

    signer: str
    claim: Claim
    is_named: bool = True

    def __str__(self) -> str:
        name = self.claim.docker_reference
        if self.is_named:
            return f"signed by {self.signer} as {name}"
        return f"signed by {self.signer}, who named no image; accept-unnamed-bundles lets it count as {name}"


def verify_simple_signature(keyring: Keyring, untrusted: UntrustedSignature, budget: Budget) -> Attestation:
    """The claim in an OpenPGP signature; :class:`SignatureRejectedError` unless one of the key ring's keys made it."""
    message = keyring.verify(untrusted.blob, budget)
    return Attestation(f"openpgp:{message.primary_fingerprint}", parse_claim(message.content, ATOMIC))


class _Image(Strict, frozen=True, rename="kebab"):
    docker_manifest_digest: str


class _Identity(Strict, frozen=True, rename="kebab"):
    docker_reference: str


class _Critical(Strict, frozen=True):
    type: str
    image: _Image
    identity: _Identity


class _Notes(Struct, frozen=True):
    """Notes of the signing program, which decide nothing. Other members are allowed, and any member may be null."""

    creator: str | None = None
    timestamp: Int64 | None = None


class _Payload(Strict, frozen=True):
    critical: _Critical
    optional: _Notes | None


def parse_claim(raw: bytes, expected_type: str) -> Claim:
    """The claim in a payload of type ``ATOMIC`` or ``COSIGN``.

    :class:`SignatureRejectedError` if it is no such payload.
    """
    with rejected_because(f"what it signs is no {expected_type}"):
        payload = parse_strict(raw, _Payload, "the payload")
        critical = payload.critical
        if critical.type != expected_type:
            raise MalformedDocumentError(f"is {shown(critical.type)}", ("critical", "type"))
        if payload.optional is None and expected_type != COSIGN:  # cosign writes null if it has no notes
            raise MalformedDocumentError("must be an object, not null", ("optional",))
        digest = read_digest(critical.image.docker_manifest_digest, ("critical", "image", "docker-manifest-digest"))
        return Claim(critical.identity.docker_reference, digest)


def verify_claim(attestation: Attestation, identity: SignedIdentity, image: Reference | None, raw: bytes) -> None:
    """Raise :class:`SignatureRejectedError` unless the claim is about ``raw``, under a name that ``identity`` accepts.

    ``raw`` are the bytes of an index or manifest; ``image`` is its configured name, None if it has none.
    """
    # A good signature of test:latest must not vouch for production:latest, so the name is compared as well.
    claim = attestation.claim
    if not identity.matches(image, claim.docker_reference):
        wanted = identity.wanted(image)
        expected = (
            f"{wanted} is wanted" if wanted is not None else "the image has no name that it could be compared with"
        )
        named = "for" if attestation.is_named else "names no image, and can only count for"
        raise SignatureRejectedError(
            f"it is valid and by {attestation.signer}, but {named} {shown(claim.docker_reference)}; {expected}"
        )
    if not claim.manifest_digest.matches(raw):
        raise SignatureRejectedError(
            f"it is valid and by {attestation.signer}, but for other content: {claim.manifest_digest}"
        )
