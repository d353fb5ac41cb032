"""What a signature says: the "simple signing" payload, which cosign shares (containers-signature(5)).

Parses strictly, and only bytes whose signature was verified; what it says is then held against the image. Knows no
cryptography.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.errors import IntegrityError, InvalidDigestError, InvalidInputError, SignatureRejectedError
from container_image_proxy.image.digest import Digest, parse_digest
from container_image_proxy.image.strict_json import parse_strict_object
from container_image_proxy.policy.fields import Fields

if TYPE_CHECKING:
    from container_image_proxy.image.reference import Reference
    from container_image_proxy.image.signature import UntrustedSignature
    from container_image_proxy.policy.budget import Budget
    from container_image_proxy.policy.identity import SignedIdentity
    from container_image_proxy.policy.openpgp import Keyring

ATOMIC: Final = "atomic container signature"
COSIGN: Final = "cosign container image signature"


class Claim(Struct, frozen=True):
    """The image that a signature is about."""

    docker_reference: str
    manifest_digest: Digest


class Attestation(Struct, frozen=True):
    """A claim whose signature is good, and whose it is, as receipts name signers.

    ``is_named`` is False if the signer named no image and a setting lets the signature count under the claim's name.
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
    """What one of the keys says in this signature; :class:`SignatureRejectedError` if it is none of theirs."""
    message = keyring.verify(untrusted.blob, budget)
    return Attestation(f"openpgp:{message.primary_fingerprint}", parse_claim(message.content, ATOMIC))


def parse_claim(raw: bytes, expected_type: str) -> Claim:
    """Read a payload of the given type; :class:`SignatureRejectedError` for anything that is not exactly one."""
    try:
        return _parse_payload(raw, expected_type)
    except (IntegrityError, InvalidInputError) as error:
        raise SignatureRejectedError(f"what it signs is no {expected_type}: {error}") from error


def _parse_payload(raw: bytes, expected_type: str) -> Claim:
    payload = Fields(parse_strict_object(raw, "the payload"), "")
    critical = payload.fields("critical")
    untrusted_type = critical.text("type")
    if untrusted_type != expected_type:
        raise InvalidInputError(f"critical.type is {untrusted_type[:100]!r}")
    image, identity = critical.fields("image"), critical.fields("identity")
    digest, reference = image.text("docker-manifest-digest"), identity.text("docker-reference")
    _check_optional(payload.take("optional"), null_allowed=expected_type == COSIGN)
    for fields in (image, identity, critical, payload):
        fields.done()
    return Claim(reference, _parse_manifest_digest(digest))


def _check_optional(value: object, *, null_allowed: bool) -> None:
    """The signing program's notes, which decide nothing; others may stand beside them. Any may be null, and cosign
    writes null if there are none.
    """
    if value is None and null_allowed:
        return
    optional = Fields(value, "optional")
    if optional.has_value("creator"):
        optional.text("creator")
    if optional.has_value("timestamp"):
        optional.integer("timestamp")


def _parse_manifest_digest(text: str) -> Digest:
    try:
        return parse_digest(text)
    except InvalidDigestError as error:
        raise InvalidInputError(f"critical.image.docker-manifest-digest: {error}") from error


def verify_claim(attestation: Attestation, identity: SignedIdentity, image: Reference | None, raw: bytes) -> None:
    """Raise :class:`SignatureRejectedError` unless it is about these bytes under a name that ``identity`` accepts."""
    claim = attestation.claim
    if not identity.matches(image, claim.docker_reference):
        wanted = identity.wanted(image)
        expected = (
            f"{wanted} is wanted" if wanted is not None else "the image has no name that it could be compared with"
        )
        named = "for" if attestation.is_named else "names no image, and can only count for"
        raise SignatureRejectedError(
            f"it is valid and by {attestation.signer}, but {named} {claim.docker_reference[:300]!r}; {expected}"
        )
    if not claim.manifest_digest.matches(raw):
        raise SignatureRejectedError(
            f"it is valid and by {attestation.signer}, but for other content: {claim.manifest_digest}"
        )
