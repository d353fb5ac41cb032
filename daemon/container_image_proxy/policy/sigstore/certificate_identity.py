"""The holder of a signer's certificate, and whether the policy trusts that holder: certificates of Fulcio and of a PKI.

``x509_chain`` verifies the certificate itself, and ``trust`` verifies what its holder signed.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from cryptography import x509
from msgspec import Struct

from container_image_proxy.errors import SignatureRejectedError, shown
from container_image_proxy.policy.sigstore.public_key import PublicKey, check_key_type
from container_image_proxy.policy.sigstore.x509_chain import (
    find_extension,
    parse_single_certificate,
    parse_untrusted_chain,
    verify_chain,
)

if TYPE_CHECKING:
    from datetime import datetime

    from container_image_proxy.policy.budget import Budget

# Fulcio's extensions for the OIDC issuer (fulcio, docs/oid-info.md): the old one has the text as it is, the new one as
# a DER UTF8String.
_ISSUER_RAW: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_UTF8_STRING: Final = 0x0C  # the tag (X.690, 8.1.2)
_LONG_FORM: Final = 0x80  # a first octet above it says how many octets of the length follow (X.690, 8.1.3.5)


class UntrustedCertificate(Struct, frozen=True):
    """A signer's certificate, and the certificates of authorities that came with it; both PEM."""

    leaf: bytes
    chain: bytes


class CertificateHolder(Struct, frozen=True):
    """A trusted signer: the key in the certificate, and the name that receipts give the signer."""

    key: PublicKey
    name: str


class FulcioRoot(Struct, frozen=True):
    """Trusts certificates of Fulcio authorities for this e-mail address, vouched by this OIDC issuer."""

    authorities: tuple[x509.Certificate, ...]
    oidc_issuer: str
    subject_email: str

    def verify(self, untrusted: UntrustedCertificate, at: datetime, budget: Budget) -> CertificateHolder:
        """The holder of a certificate that was valid ``at`` the time of signing, which the log tells.

        :class:`SignatureRejectedError` if the certificate or its holder is not trusted.
        """
        leaf, _ = _verify_issued(untrusted, self.authorities, (), at, budget)
        issuer = find_oidc_issuer(leaf)
        if issuer != self.oidc_issuer:
            raise SignatureRejectedError(f"the certificate's OIDC issuer is {_show(issuer)}, not {self.oidc_issuer!r}")
        _verify_email(leaf, self.subject_email)
        return _holder(leaf, f"mailto:{self.subject_email} by {self.oidc_issuer}")


class PkiRoot(Struct, frozen=True):
    """Trusts certificates of an ordinary PKI for this e-mail address, this host name, or both."""

    roots: tuple[x509.Certificate, ...]
    intermediates: tuple[x509.Certificate, ...]
    subject_email: str | None
    subject_hostname: str | None

    def verify(self, untrusted: UntrustedCertificate, at: datetime, budget: Budget) -> CertificateHolder:
        """The holder of a certificate that is valid ``at`` the time of verification.

        :class:`SignatureRejectedError` if the certificate or its holder is not trusted.
        """
        leaf, root = _verify_issued(untrusted, self.roots, self.intermediates, at, budget)
        if self.subject_hostname is not None:
            _verify_hostname(leaf, self.subject_hostname)
        if self.subject_email is not None:
            _verify_email(leaf, self.subject_email)
        wanted = {"mailto": self.subject_email, "dns": self.subject_hostname}
        subject = " ".join(f"{kind}:{name}" for kind, name in wanted.items() if name is not None)
        return _holder(leaf, f"{subject} by {root.subject.rfc4514_string()}")


def _verify_issued(
    untrusted: UntrustedCertificate,
    roots: tuple[x509.Certificate, ...],
    intermediates: tuple[x509.Certificate, ...],
    at: datetime,
    budget: Budget,
) -> tuple[x509.Certificate, x509.Certificate]:
    """The signer's certificate and the root that it leads to."""
    chain = parse_untrusted_chain(untrusted.chain, "the certificate chain", budget)
    leaf = parse_single_certificate(untrusted.leaf, "the certificate", budget)
    return leaf, verify_chain(leaf, (*intermediates, *chain), roots, at, budget)


def _holder(leaf: x509.Certificate, name: str) -> CertificateHolder:
    return CertificateHolder(check_key_type(leaf.public_key(), "the certificate's key"), name)


def find_oidc_issuer(certificate: x509.Certificate) -> str | None:
    """The OIDC issuer that Fulcio noted in the certificate, if any.

    :class:`SignatureRejectedError` if the old and the new extension differ.
    """
    values = {extension.oid: extension.value for extension in certificate.extensions}
    raw, der = values.get(_ISSUER_RAW), values.get(_ISSUER)
    found = []
    if isinstance(raw, x509.UnrecognizedExtension):
        found.append(raw.value)
    if isinstance(der, x509.UnrecognizedExtension):
        found.append(_parse_utf8_string(der.value))
    # Of two different ones each reader could take another, and so believe another signer.
    if len(set(found)) > 1:
        raise SignatureRejectedError("the certificate names two different OIDC issuers")
    return found[0].decode("utf-8", "replace") if found else None


def _parse_utf8_string(der: bytes) -> bytes:
    """The content of exactly one DER UTF8String (X.690, 8.1) of less than 64 KiB."""
    head, length = (2, der[1]) if len(der) > 1 else (0, 0)
    if length > _LONG_FORM:
        head = 2 + (length - _LONG_FORM)
        length = int.from_bytes(der[2:head], "big")
    if head not in {2, 3, 4} or der[0] != _UTF8_STRING or len(der) != head + length:
        raise SignatureRejectedError("the certificate's OIDC issuer is not a UTF8String")
    return der[head:]


def _verify_email(certificate: x509.Certificate, wanted: str) -> None:
    emails = _alternative_names(certificate, x509.RFC822Name)
    if wanted not in emails:
        raise SignatureRejectedError(f"the certificate is for {_show(*emails)}, not for {wanted!r}")


def _verify_hostname(certificate: x509.Certificate, wanted: str) -> None:
    try:
        address = str(ipaddress.ip_address(wanted))
    except ValueError:
        names = _alternative_names(certificate, x509.DNSName)
        matches = any(_matches_hostname(name, wanted) for name in names)
    else:
        names = [str(name) for name in _alternative_names(certificate, x509.IPAddress)]
        matches = address in names
    if not matches:
        raise SignatureRejectedError(f"the certificate is for {_show(*names)}, not for the host {wanted!r}")


def _alternative_names(
    certificate: x509.Certificate, kind: type[x509.RFC822Name | x509.DNSName | x509.IPAddress]
) -> list[str]:
    names = find_extension(certificate, x509.SubjectAlternativeName)
    return [str(name) for name in names.get_values_for_type(kind)] if names is not None else []


def _matches_hostname(pattern: str, hostname: str) -> bool:
    """Whether ``pattern`` covers the host (RFC 6125 section 6.4): ``*`` stands for exactly the left-most label."""
    wanted, offered = (name.lower().removesuffix(".").split(".") for name in (hostname, pattern))
    if offered[0] == "*" and len(offered) > 1 and wanted[0]:
        return offered[1:] == wanted[1:]
    return offered == wanted


def _show(*names: str | None) -> str:
    """Names from a certificate, which is untrusted, as a message may contain them."""
    return ", ".join(shown(name) for name in names[:8] if name) or "nobody"
