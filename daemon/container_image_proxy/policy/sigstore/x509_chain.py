"""X.509 certificates of signers: parses them, and follows them up to a trusted authority (RFC 5280, section 6).

Every certificate must be valid at the given time, may be used to sign code, and has no critical extension that is
unknown here. Every issuer must be an authority for certificates of this depth. Name constraints are not supported: an
authority that has them is not followed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import MD5, SHA1
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from container_image_proxy.errors import SignatureRejectedError
from container_image_proxy.policy.pem import find_pem, parse_pem
from container_image_proxy.policy.sigstore.public_key import check_key_type

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from container_image_proxy.policy.budget import Budget

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
MAX_CERTIFICATES: Final = 16
"""Certificates that come with a signature. Comparing each with each takes time of the square of their number. A chain
has three. Certificates that the policy itself names are not limited.
"""
_MAX_CERTIFICATE_SIZE: Final = 64 << 10
"""Bytes of a certificate. A name of megabytes takes seconds to parse. Certificates have 2 KiB."""
_MAX_INTERMEDIATES: Final = 5
"""Authorities between a signer and a root. Each level adds comparisons. Fulcio has one, PKIs have up to three."""
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
_CERTIFICATE: Final = "CERTIFICATE"
_CODE_SIGNING: Final = frozenset({ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})


def parse_certificates(pem: bytes, what: str, budget: Budget) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM file; :class:`SignatureRejectedError` about ``what`` if one is malformed."""
    return tuple(_parse_certificate(block.der, what, budget) for block in parse_pem(pem, what))


def parse_authorities(pem: bytes, what: str, budget: Budget) -> tuple[x509.Certificate, ...]:
    """The certificates of a file of authorities. Everything else in it, malformed certificates included, is ignored.

    Go reads such files that way. :class:`SignatureRejectedError` if there is no usable certificate.
    """
    authorities = []
    for block in find_pem(pem):
        with suppress(SignatureRejectedError):
            if block.label == _CERTIFICATE:
                authorities.append(_parse_certificate(block.der, what, budget))
    if not authorities:
        raise SignatureRejectedError(f"{what} has no certificate that can be used")
    return tuple(authorities)


def parse_untrusted_chain(pem: bytes, what: str, budget: Budget) -> tuple[x509.Certificate, ...]:
    """As :func:`parse_certificates`, for what came with a signature: more than ``MAX_CERTIFICATES`` are an error."""
    blocks = parse_pem(pem, what)
    if len(blocks) > MAX_CERTIFICATES:
        raise SignatureRejectedError(f"{what} has more than {MAX_CERTIFICATES} certificates")
    return tuple(_parse_certificate(block.der, what, budget) for block in blocks)


def parse_single_certificate(pem: bytes, what: str, budget: Budget) -> x509.Certificate:
    """The certificate of a PEM file; :class:`SignatureRejectedError` unless there is exactly one."""
    certificates = parse_untrusted_chain(pem, what, budget)
    if len(certificates) != 1:
        raise SignatureRejectedError(f"{what} is not exactly one certificate")
    return certificates[0]


def _parse_certificate(der: bytes, what: str, budget: Budget) -> x509.Certificate:
    budget.check()
    if len(der) > _MAX_CERTIFICATE_SIZE:
        raise SignatureRejectedError(f"{what} has a certificate of more than {_MAX_CERTIFICATE_SIZE} bytes")
    try:
        certificate = x509.load_der_x509_certificate(der)
        # The library parses these lazily. Asking now makes a malformed one an error here, and not later.
        _ = certificate.extensions, certificate.subject, certificate.issuer
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc, certificate.public_key()
    except Exception as error:  # the library's errors have no common base
        raise SignatureRejectedError(f"{what} is not a certificate") from error
    return certificate


def verify_chain(
    leaf: x509.Certificate,
    untrusted: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    at: datetime,
    budget: Budget,
) -> x509.Certificate:
    """The root that ``leaf`` leads to, perhaps through some of the ``untrusted`` certificates.

    :class:`SignatureRejectedError` if there is none, if the leaf was not valid ``at`` this time, or if it may not sign
    code (RFC 5280, 4.2.1.12).
    """
    if not _is_valid_at(leaf, at):
        raise SignatureRejectedError(f"the certificate was not valid at {at:%Y-%m-%dT%H:%M:%SZ}")
    if not _may_sign_code(leaf):
        usage = "has a critical extension of unknown meaning" if _has_strange_extension(leaf) else "is not for signing"
        raise SignatureRejectedError(f"the certificate {usage}")
    # Breadth first, from the leaf up. A certificate is reached once, by the shortest chain, so that no two certificates
    # are compared twice: certificates that all have the same name would otherwise be tried in every order.
    reached, unreached = [leaf], list(dict.fromkeys(untrusted))
    for depth in range(_MAX_INTERMEDIATES + 1):
        if (root := next(_find_issuers(reached, roots, depth, at, budget), None)) is not None:
            return root
        reached = list(_find_issuers(reached, unreached, depth, at, budget))
        unreached = [certificate for certificate in unreached if certificate not in reached]
    raise SignatureRejectedError(
        "the certificate leads to no trusted authority that was valid then and may issue it "
        "(authorities with name constraints are not supported)"
    )


def _find_issuers(
    issued: Sequence[x509.Certificate],
    candidates: Sequence[x509.Certificate],
    depth: int,
    at: datetime,
    budget: Budget,
) -> Iterator[x509.Certificate]:
    for candidate in candidates:
        budget.check()
        if _may_issue(candidate, depth, at) and any(_has_issued(candidate, certificate) for certificate in issued):
            yield candidate


def _has_issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether the certificate names this issuer and the issuer's key signed it."""
    try:
        if isinstance(certificate.signature_hash_algorithm, MD5 | SHA1):  # both can be forged
            return False
        # It compares names and verifies the signature, and nothing else: _may_issue looks at the issuer's rights.
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
        return False
    return True


def _may_issue(certificate: x509.Certificate, depth: int, at: datetime) -> bool:
    """Whether this is an authority that may have ``depth`` authorities below it (RFC 5280, 4.2.1.9 and 6.1.4)."""
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
        and _has_usable_key(certificate)
    )


def _has_usable_key(certificate: x509.Certificate) -> bool:
    try:
        check_key_type(certificate.public_key(), "the authority's key")
    except SignatureRejectedError:
        return False
    return True


def _may_sign_code(certificate: x509.Certificate) -> bool:
    # An authority's own usages limit those of the certificates below it, as in Go's library.
    usage = find_extension(certificate, x509.ExtendedKeyUsage)
    return not _has_strange_extension(certificate) and (usage is None or not _CODE_SIGNING.isdisjoint(usage))


def _has_strange_extension(certificate: x509.Certificate) -> bool:
    return any(extension.oid not in _UNDERSTOOD for extension in certificate.extensions if extension.critical)


def _is_valid_at(certificate: x509.Certificate, at: datetime) -> bool:
    # Both ends belong to the period (RFC 5280, 4.1.2.5).
    return certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc


def find_extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """The extension of this kind, if the certificate has it."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
