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
    """An authority with its files in ``directory``; ``certificate`` is what a client has to trust."""

    directory: Path
    name: str = "test authority"

    @cached_property
    def _key(self) -> ec.EllipticCurvePrivateKey:
        return ec.generate_private_key(ec.SECP256R1())

    @cached_property
    def certificate(self) -> Path:
        """The authority's own certificate."""
        path = self.directory / "authority.crt"
        path.write_bytes(self_signed(self._key, self.name).public_bytes(serialization.Encoding.PEM))
        return path

    def issue(self, *names: str, expired: bool = False) -> Issued:
        """A certificate for these host names or addresses, the first being its common name."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(names[0]), _name(self.name), key, expired=expired).add_extension(
            x509.SubjectAlternativeName(_alternatives(names)), critical=False
        )
        issued = Issued(self.directory / f"{names[0]}.cert", self.directory / f"{names[0]}.key")
        issued.certificate.write_bytes(
            builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        issued.key.write_bytes(_private_pem(key))
        return issued


def self_signed(key: ec.EllipticCurvePrivateKey, name: str) -> x509.Certificate:
    """A certificate of an authority, signed by itself."""
    subject = _name(name)
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    return _builder(subject, subject, key).add_extension(constraints, critical=True).sign(key, hashes.SHA256())


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
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, expired: bool = False
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


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
