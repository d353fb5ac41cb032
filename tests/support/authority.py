"""A certificate authority for tests: certificates for any name, client certificates, and their TLS contexts."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import NameOID

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, PEM files."""

    certificate: Path
    key: Path

    def server_context(self, *, clients: Path | None = None) -> ssl.SSLContext:
        """A server's context; with ``clients`` it demands a certificate of that authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if clients:
            context.load_verify_locations(clients)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass(frozen=True)
class Authority:
    """An authority with its files in ``directory``; ``certificate`` is what a client has to trust.

    With an ``issuer`` it is an intermediate one, whose directory must be another.
    """

    directory: Path
    name: str = "test authority"
    issuer: Authority | None = None

    @cached_property
    def _key(self) -> ec.EllipticCurvePrivateKey:
        return ec.generate_private_key(ec.SECP256R1())

    @cached_property
    def certificate(self) -> Path:
        """The authority's own certificate."""
        path = self.directory / "authority.crt"
        issuer = self.issuer or self
        certificate = _authority(self._key, self.name, issuer._key, issuer.name)
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path

    def issue(self, *names: str, expired: bool = False, key: CertificateIssuerPrivateKeyTypes | None = None) -> Issued:
        """A certificate for these host names or addresses, the first being its common name."""
        return self._issue(names, key or ec.generate_private_key(ec.SECP256R1()), self._key, self.name, expired=expired)

    def issue_for_itself(self, *names: str) -> Issued:
        """The same, but signed with its own key: nobody's, and no authority's."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._issue(names, key, key, names[0])

    def _issue(
        self,
        names: tuple[str, ...],
        key: CertificateIssuerPrivateKeyTypes,
        issuer_key: ec.EllipticCurvePrivateKey,
        issuer: str,
        *,
        expired: bool = False,
    ) -> Issued:
        builder = (
            _builder(_name(names[0]), _name(issuer), key, expired=expired)
            .add_extension(x509.SubjectAlternativeName(_alternatives(names)), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        )
        issued = Issued(self.directory / f"{names[0]}.cert", self.directory / f"{names[0]}.key")
        issued.certificate.write_bytes(
            builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        issued.key.write_bytes(_private_pem(key))
        return issued


def self_signed(key: ec.EllipticCurvePrivateKey, name: str) -> x509.Certificate:
    """A certificate of an authority, signed by itself."""
    return _authority(key, name, key, name)


def _authority(
    key: ec.EllipticCurvePrivateKey, name: str, issuer_key: ec.EllipticCurvePrivateKey, issuer: str
) -> x509.Certificate:
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    builder = _builder(_name(name), _name(issuer), key).add_extension(constraints, critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


def _alternatives(names: Iterable[str]) -> list[x509.GeneralName]:
    return [_alternative(name) for name in names]


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: CertificateIssuerPrivateKeyTypes, *, expired: bool = False
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 10 * _DAY)
        .not_valid_after(now - _DAY if expired else now + 10 * _DAY)
    )


def _private_pem(key: CertificateIssuerPrivateKeyTypes) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
