"""sigstore for tests: keys, certificates, log entries and signatures as cosign makes them, offline."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from container_image_proxy.image.signature import SIGNATURE_MEDIA_TYPE, UntrustedSignature
from tests.support.layouts import OCI_CONFIG, OCI_MANIFEST, Layout, StoredImage
from tests.support.layouts import encode as encode_json

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
SIGNED_AT = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
ISSUER = "https://accounts.example.com"
EMAIL = "signer@example.com"


def make_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def make_slow_key(bits: int = 3072) -> rsa.RSAPrivateKey:
    """An RSA key whose public exponent is as long as its modulus: to check with it takes as long as to sign."""
    known = rsa.generate_private_key(65537, bits).private_numbers()
    exponent, order = (1 << bits - 1) + 1, math.lcm(known.p - 1, known.q - 1)
    while math.gcd(exponent, order) != 1:
        exponent += 2
    public, private = rsa.RSAPublicNumbers(exponent, known.public_numbers.n), pow(exponent, -1, order)
    halves = rsa.rsa_crt_dmp1(private, known.p), rsa.rsa_crt_dmq1(private, known.q)
    return rsa.RSAPrivateNumbers(known.p, known.q, private, *halves, known.iqmp, public).private_key()


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def sign(key: PrivateKey, data: bytes, *, scheme: Any = None) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, scheme or padding.PKCS1v15(), SHA256())
    return key.sign(data, ec.ECDSA(SHA256()))


def make_payload(reference: str, digest: str) -> bytes:
    critical = {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return json.dumps({"critical": critical, "optional": None}).encode()


def make_bundle(
    log: PrivateKey, signer_pem: bytes, signature: bytes, payload: bytes, at: float = SIGNED_AT.timestamp()
) -> str:
    """A signed entry timestamp: the log's promise about this signer, signature and payload, since ``at`` (Unix)."""
    body = {
        "apiVersion": "0.0.1",
        "kind": "hashedrekord",
        "spec": {
            "data": {"hash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()}},
            "signature": {"content": encode(signature), "publicKey": {"content": encode(signer_pem)}},
        },
    }
    entry = {
        "body": encode(json.dumps(body).encode()),
        "integratedTime": int(at),
        "logID": "c0d2",
        "logIndex": 1,
    }
    signed = json.dumps(entry, separators=(",", ":"), sort_keys=True).encode()
    return json.dumps({"SignedEntryTimestamp": encode(sign(log, signed)), "Payload": entry})


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass
class Certificate:
    """A certificate and its key; a root unless ``issuer`` is given. ``claims`` is a public key that it has instead."""

    name: str = "ca"
    issuer: Certificate | None = None
    is_ca: bool = True
    path_length: int | None = None
    valid_from: datetime = SIGNED_AT - timedelta(days=1)
    valid_until: datetime = SIGNED_AT + timedelta(days=1)
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    key: PrivateKey = field(default_factory=make_key)
    claims: rsa.RSAPublicKey | None = None

    def __post_init__(self) -> None:
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(self.name))
            .issuer_name(_name(self.issuer.name if self.issuer else self.name))
            .public_key(self.claims or self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.valid_from)
            .not_valid_after(self.valid_until)
        )
        if self.is_ca:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=self.path_length), critical=True)
        for extension, critical in self.extensions:
            builder = builder.add_extension(extension, critical)
        self.certificate = builder.sign(self.issuer.key if self.issuer else self.key, SHA256())
        self.pem = self.certificate.public_bytes(Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make_leaf(issuer: Certificate, *extensions: tuple[x509.ExtensionType, bool], **fields: Any) -> Certificate:
    """A signer's certificate; by default as Fulcio issues it."""
    standard: tuple[tuple[x509.ExtensionType, bool], ...] = (
        (x509.SubjectAlternativeName([x509.RFC822Name(EMAIL)]), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False),
        (oidc_issuer(ISSUER), False),
    )
    return Certificate("leaf", issuer, is_ca=False, extensions=extensions or standard, **fields)


def oidc_issuer(issuer: str, *, der: bool = False) -> x509.UnrecognizedExtension:
    text = issuer.encode()
    oid = x509.ObjectIdentifier(f"1.3.6.1.4.1.57264.1.{8 if der else 1}")
    return x509.UnrecognizedExtension(oid, bytes([0x0C, len(text)]) + text if der else text)


def make_signature(key: PrivateKey, payload: bytes, *, scheme: Any = None) -> UntrustedSignature:
    """A signature as an attachment carries it."""
    annotations = {"dev.cosignproject.cosign/signature": encode(sign(key, payload, scheme=scheme))}
    return UntrustedSignature("sigstore", payload, SIGNATURE_MEDIA_TYPE, annotations)


def signature_bytes(signature: UntrustedSignature) -> bytes:
    return base64.b64decode(signature.annotations["dev.cosignproject.cosign/signature"])


def attachment(
    layout: Layout, key: PrivateKey, reference: str, digest: str, *, certificate: bytes = b"", chain: bytes = b""
) -> StoredImage:
    """The image of one signature, named ``x``, that cosign pushes beside the image, tagged after its digest.

    ``certificate`` of the key, and the authorities above it, are PEM.
    """
    payload = make_payload(reference, digest)
    layer = layout.blob(payload, SIGNATURE_MEDIA_TYPE)
    layer["annotations"] = {"dev.cosignproject.cosign/signature": encode(sign(key, payload))}
    certificates = {"certificate": certificate, "chain": chain}
    layer["annotations"] |= {f"dev.sigstore.cosign/{name}": pem.decode() for name, pem in certificates.items() if pem}
    rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
    config = encode_json({"architecture": "", "os": "", "rootfs": rootfs})
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": layout.blob(config, OCI_CONFIG),
        "layers": [layer],
    }
    return layout.manifest(manifest, config, (payload,), name="x")


def attachment_tag(digest: str) -> str:
    """``sha256:<hex>`` as the tag of its attachment."""
    return f"{digest.replace(':', '-')}.sig"
