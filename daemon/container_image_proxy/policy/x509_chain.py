"""X.509 certificates of signers: reading them, and following them up to a trusted one (RFC 5280, section 6).

Strict where it matters: every certificate is valid at the time in question, may sign code, and has no critical
extension that is not understood here; every issuer is an authority for certificates of this depth. Name constraints are
not supported: an authority that has them is not followed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import MD5, SHA1
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from container_image_proxy.errors import SignatureRejectedError
from container_image_proxy.policy.public_key import parse_pem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
MAX_CERTIFICATES: Final = 16
_MAX_INTERMEDIATES: Final = 5
_UNDERSTOOD: Final = frozenset(
    {
        ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    }
)
_CODE_SIGNING: Final = frozenset({ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})


def parse_certificates(pem: bytes, what: str) -> tuple[x509.Certificate, ...]:
    """Read PEM certificates, at most ``MAX_CERTIFICATES``; :class:`SignatureRejectedError` if one is malformed."""
    blocks = parse_pem(pem, what)
    if len(blocks) > MAX_CERTIFICATES:
        raise SignatureRejectedError(f"{what} has more than {MAX_CERTIFICATES} certificates")
    return tuple(_parse_certificate(der, what) for der in blocks)


def parse_single_certificate(pem: bytes, what: str) -> x509.Certificate:
    """Read exactly one PEM certificate."""
    certificates = parse_certificates(pem, what)
    if len(certificates) != 1:
        raise SignatureRejectedError(f"{what} is not exactly one certificate")
    return certificates[0]


def _parse_certificate(der: bytes, what: str) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        _ = certificate.extensions, certificate.subject, certificate.issuer  # parsed when first asked for: that is now
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc, certificate.public_key()
    except Exception as error:  # the library's errors have no common base
        raise SignatureRejectedError(f"{what} is not a certificate") from error
    return certificate


def verify_chain(
    leaf: x509.Certificate,
    untrusted: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    at: datetime,
) -> x509.Certificate:
    """The root that ``leaf`` leads to, perhaps through ``untrusted`` ones; :class:`SignatureRejectedError` if none."""
    if not _is_valid_at(leaf, at):
        raise SignatureRejectedError(f"the certificate was not valid at {at:%Y-%m-%dT%H:%M:%SZ}")
    if not _may_sign_code(leaf):
        raise SignatureRejectedError(
            "the certificate is not for signing, or has a critical extension of unknown meaning"
        )
    reached = [leaf]
    for depth in range(_MAX_INTERMEDIATES + 1):
        if found := _find_issuers(reached, roots, depth, at):
            return found[0]
        reached = _find_issuers(reached, untrusted, depth, at)
    raise SignatureRejectedError("the certificate was not issued by a trusted authority")


def _find_issuers(
    issued: Sequence[x509.Certificate], candidates: Sequence[x509.Certificate], depth: int, at: datetime
) -> list[x509.Certificate]:
    able = [candidate for candidate in candidates if _may_issue(candidate, depth, at)]
    return [issuer for issuer in able if any(_has_issued(issuer, certificate) for certificate in issued)]


def _has_issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        if isinstance(certificate.signature_hash_algorithm, MD5 | SHA1):
            return False
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
        return False
    return True


def _may_issue(certificate: x509.Certificate, depth: int, at: datetime) -> bool:
    """Whether this is an authority for certificates with ``depth`` authorities below it."""
    constraints = find_extension(certificate, x509.BasicConstraints)
    usage = find_extension(certificate, x509.KeyUsage)
    return (
        constraints is not None
        and constraints.ca
        and (constraints.path_length is None or constraints.path_length >= depth)
        and (usage is None or usage.key_cert_sign)
        and find_extension(certificate, x509.NameConstraints) is None
        and _may_sign_code(certificate)
        and _is_valid_at(certificate, at)
    )


def _may_sign_code(certificate: x509.Certificate) -> bool:
    usage = find_extension(certificate, x509.ExtendedKeyUsage)
    understood = all(extension.oid in _UNDERSTOOD for extension in certificate.extensions if extension.critical)
    return understood and (usage is None or not _CODE_SIGNING.isdisjoint(usage))


def _is_valid_at(certificate: x509.Certificate, at: datetime) -> bool:
    return certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc


def find_extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """The extension of this kind, if the certificate has it."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
