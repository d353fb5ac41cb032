"""OpenPGP packets made by hand, for messages that no program makes (RFC 4880)."""

from __future__ import annotations

import hashlib
import zlib

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_MADE_AT = (1_700_000_000).to_bytes(4, "big")
_ED25519 = bytes.fromhex("092b06010401da470f01")


def packet(tag: int, body: bytes) -> bytes:
    """In the new format, with a length of four octets."""
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4, "big") + body


def in_pieces(tag: int, body: bytes, exponent: int) -> bytes:
    """In the new format, as parts of 2**exponent octets and a rest (section 4.2.2.4)."""
    size = 1 << exponent
    whole = len(body) - len(body) % size
    pieces = (bytes([0xE0 | exponent]) + body[start : start + size] for start in range(0, whole, size))
    rest = body[whole:]
    return bytes([0xC0 | tag]) + b"".join(pieces) + b"\xff" + len(rest).to_bytes(4, "big") + rest


def literal(content: bytes, name: bytes = b"") -> bytes:
    """A literal data packet (section 5.9)."""
    return packet(11, b"b" + bytes([len(name)]) + name + bytes(4) + content)


def compressed(content: bytes) -> bytes:
    """A compressed data packet (section 5.6) as gpg makes it: raw deflate, up to the end of the data."""
    return b"\xa3\x01" + zlib.compress(content, wbits=-zlib.MAX_WBITS)


def make_openpgp_key(number: int) -> bytes:
    """A small public key with one name, which takes gpg a second to make, and this a millisecond."""
    key = ed25519.Ed25519PrivateKey.generate()
    point = b"\x40" + key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    body = b"\x04" + _MADE_AT + b"\x16" + _ED25519 + _mpi(point)
    name = f"{number}@example.com".encode()
    hashed_key = b"\x99" + len(body).to_bytes(2, "big") + body
    fingerprint = hashlib.sha1(hashed_key, usedforsecurity=False).digest()
    subpackets = b"\x05\x02" + _MADE_AT + b"\x02\x1b\x03" + b"\x16\x21\x04" + fingerprint
    head = b"\x04\x13\x16\x08" + len(subpackets).to_bytes(2, "big") + subpackets
    trailer = b"\x04\xff" + len(head).to_bytes(4, "big")
    digest = hashlib.sha256(hashed_key + b"\xb4" + len(name).to_bytes(4, "big") + name + head + trailer).digest()
    signature = key.sign(digest)
    unhashed = b"\x00\x0a\x09\x10" + fingerprint[-8:]
    signed = head + unhashed + digest[:2] + _mpi(signature[:32]) + _mpi(signature[32:])
    return packet(6, body) + packet(13, name) + packet(2, signed)


def _mpi(number: bytes) -> bytes:
    """A number with its length in bits (section 3.2)."""
    number = number.lstrip(b"\0")
    return int.from_bytes(number, "big").bit_length().to_bytes(2, "big") + number
