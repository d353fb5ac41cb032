"""Public keys and the signatures that sigstore makes with them: ECDSA and RSA over SHA-256, and Ed25519.

The only place that turns PEM into keys and checks raw signatures; certificates are ``x509_chain``'s.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.backends import default_backend
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from container_image_proxy.errors import SignatureRejectedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from container_image_proxy.policy.budget import Budget

default_backend()  # else it is made by the first verification, for which a client waits 4 ms longer

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

MAX_RSA_BITS: Final = 16384
"""Of a modulus, as OpenSSL has it."""
MAX_RSA_EXPONENT: Final = (1 << 31) - 1
"""As Go's library has it. A check takes time by the length of the exponent: with one as long as its modulus, a hundred
times as long as with the usual 65537."""

_PEM: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----\s([A-Za-z0-9+/=\s]*)-----END \1-----\s*")
_BEGIN: Final = b"-----BEGIN"
_RSA_SCHEMES: Final = (
    padding.PKCS1v15(),
    padding.PSS(mgf=padding.MGF1(SHA256()), salt_length=padding.PSS.AUTO),
)


def parse_pem(raw: bytes, what: str) -> tuple[bytes, ...]:
    """The DER contents of PEM blocks, each perhaps after text that explains it (RFC 7468); nothing may follow the last.

    :class:`SignatureRejectedError` for anything else.
    """
    blocks, position, end = [], 0, len(raw.rstrip())
    while position < end:
        match = _PEM.search(raw, position)
        if match is None or _BEGIN in raw[position : match.start()]:
            raise SignatureRejectedError(f"{what} is not PEM")
        blocks.append(_decode(match[2], what))
        position = match.end()
    return tuple(blocks)


def parse_single_pem(raw: bytes, what: str) -> bytes:
    """The DER content of exactly one PEM block."""
    blocks = parse_pem(raw, what)
    if len(blocks) != 1:
        raise SignatureRejectedError(f"{what} is not exactly one PEM block")
    return blocks[0]


def parse_public_key(pem: bytes, what: str) -> PublicKey:
    """Read one PEM public key; :class:`SignatureRejectedError` if it is none, or of a kind unknown to sigstore."""
    try:
        key = load_der_public_key(parse_single_pem(pem, what))
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
    """Whether ``signature`` is this key's for ``data``."""
    return any(_succeeds(attempt) for attempt in _attempts(key, signature, data))


def _attempts(key: PublicKey, signature: bytes, data: bytes) -> list[Callable[[], None]]:
    """Each way in which this kind of key may have signed, as a check that raises."""
    match key:
        case rsa.RSAPublicKey():
            return [partial(key.verify, signature, data, scheme, SHA256()) for scheme in _RSA_SCHEMES]
        case ed25519.Ed25519PublicKey():
            return [partial(key.verify, signature, data)]
        case _:
            return [partial(key.verify, signature, data, ec.ECDSA(SHA256()))]


def _succeeds(verify: Callable[[], None]) -> bool:
    try:
        verify()
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True


def _decode(text: bytes, what: str) -> bytes:
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error as error:
        raise SignatureRejectedError(f"{what} is not PEM") from error
