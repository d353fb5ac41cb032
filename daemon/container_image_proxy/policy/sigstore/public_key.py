"""Public keys and the signature schemes of sigstore: ECDSA and RSA with SHA-256, and Ed25519.

All keys are loaded and all raw signatures are verified here; certificates are in ``x509_chain``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.backends import default_backend
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from container_image_proxy.errors import SignatureRejectedError
from container_image_proxy.policy.pem import find_pem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from container_image_proxy.policy.budget import Budget

default_backend()  # takes 4 ms, which a client would otherwise wait at the first verification

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

MAX_RSA_BITS: Final = 16384
"""Bits of a modulus; OpenSSL has the same limit. A signature by a larger key takes long to verify."""
MAX_RSA_EXPONENT: Final = (1 << 31) - 1
"""Go's library has the same limit. Verification takes time in proportion to the length of the exponent: with one as
long as its modulus, a hundred times as long as with the usual 65537 (contrib/adr/0019).
"""

_LABELS: Final = frozenset({"PUBLIC KEY", "RSA PUBLIC KEY"})


def parse_public_key(pem: bytes, what: str) -> PublicKey:
    """The first public key in a PEM file; what follows it is ignored, as containers/image does.

    :class:`SignatureRejectedError` about ``what`` if there is none, or if sigstore has no signatures by such a key.
    """
    block = next(find_pem(pem), None)
    if block is None:
        raise SignatureRejectedError(f"{what} is not PEM")
    if block.label not in _LABELS:
        raise SignatureRejectedError(f"{what} is not a public key, but a {block.label}")
    try:
        key = load_der_public_key(block.der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureRejectedError(f"{what} is not a public key") from error
    return check_key_type(key, what)


def check_key_type(key: object, what: str) -> PublicKey:
    """``key`` if sigstore has signatures by such keys and it verifies one within milliseconds.

    :class:`SignatureRejectedError` about ``what`` otherwise.
    """
    if not isinstance(key, PublicKey):
        raise SignatureRejectedError(f"{what} is neither an ECDSA nor an RSA nor an Ed25519 key")
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size > MAX_RSA_BITS:
            raise SignatureRejectedError(f"{what} is an RSA key of more than {MAX_RSA_BITS} bits")
        if key.public_numbers().e > MAX_RSA_EXPONENT:
            raise SignatureRejectedError(f"{what} is an RSA key whose exponent is larger than {MAX_RSA_EXPONENT}")
    return key


def public_der(key: PublicKey) -> bytes:
    """The key as a DER SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def name_key(key: PublicKey) -> str:
    """The name of a key in receipts, made of the SHA-256 of its SubjectPublicKeyInfo."""
    return f"sigstore-key:sha256:{hashlib.sha256(public_der(key)).hexdigest()}"


def find_signing_key(keys: Iterable[PublicKey], signature: bytes, data: bytes, budget: Budget) -> PublicKey | None:
    """The first of the keys that made this signature of ``data``, if any."""
    for key in keys:
        budget.check()
        if is_signed_by(key, signature, data):
            return key
    return None


def is_signed_by(key: PublicKey, signature: bytes, data: bytes) -> bool:
    """Whether ``key`` made this ``signature`` of ``data``. RSA signatures are PKCS #1 v1.5, as cosign makes them."""
    try:
        match key:
            case rsa.RSAPublicKey():
                key.verify(signature, data, padding.PKCS1v15(), SHA256())
            case ed25519.Ed25519PublicKey():
                key.verify(signature, data)
            case _:
                key.verify(signature, data, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True
