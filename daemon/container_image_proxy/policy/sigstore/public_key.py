"""Public keys and the signatures that sigstore makes with them: ECDSA and RSA over SHA-256, and Ed25519.

The only place that makes keys and checks raw signatures; certificates are ``x509_chain``'s.
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

default_backend()  # else it is made by the first verification, for which a client waits 4 ms longer

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

MAX_RSA_BITS: Final = 16384
"""Of a modulus, as OpenSSL has it."""
MAX_RSA_EXPONENT: Final = (1 << 31) - 1
"""As Go's library has it. A check takes time by the length of the exponent: with one as long as its modulus, a hundred
times as long as with the usual 65537."""

_LABELS: Final = frozenset({"PUBLIC KEY", "RSA PUBLIC KEY"})


def parse_public_key(pem: bytes, what: str) -> PublicKey:
    """Read the PEM public key with which a file begins; what follows it is not looked at.

    :class:`SignatureRejectedError` if it is none, or of a kind unknown to sigstore.
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
    """``key`` if it is of a kind that can sign here, and of a size by which a signature is checked within
    milliseconds.
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
    """How receipts name a key: by the digest of its SubjectPublicKeyInfo."""
    return f"sigstore-key:sha256:{hashlib.sha256(public_der(key)).hexdigest()}"


def find_signing_key(keys: Iterable[PublicKey], signature: bytes, data: bytes, budget: Budget) -> PublicKey | None:
    """The first of the keys that made this signature of ``data``, if any."""
    for key in keys:
        budget.check()
        if is_signed_by(key, signature, data):
            return key
    return None


def is_signed_by(key: PublicKey, signature: bytes, data: bytes) -> bool:
    """Whether ``signature`` is this key's for ``data``; of RSA's schemes, PKCS #1 v1.5 is the one that is known."""
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
