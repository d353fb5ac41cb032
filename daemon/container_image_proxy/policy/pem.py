"""PEM: text blocks that contain DER (RFC 7468). The meaning of the DER is left to the callers."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.errors import MalformedDocumentError, SignatureRejectedError
from container_image_proxy.image.documents import decode_base64

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----\s([A-Za-z0-9+/=\s]*)-----END \1-----\s*")
_BEGIN: Final = b"-----BEGIN"


class PemBlock(Struct, frozen=True):
    """The label of a block (``CERTIFICATE``) and its content."""

    label: str
    der: bytes


def parse_pem(raw: bytes, what: str) -> tuple[PemBlock, ...]:
    """The PEM blocks of ``raw``. Text may precede each block (RFC 7468 section 2), but nothing may follow the last one.

    :class:`SignatureRejectedError` about ``what`` for anything else.
    """
    blocks, position, end = [], 0, len(raw.rstrip())
    while position < end:
        match = _BLOCK.search(raw, position)
        # A beginning before the match belongs to a block that is malformed: to pass over it would drop a certificate.
        block = _read(match) if match is not None and _BEGIN not in raw[position : match.start()] else None
        if match is None or block is None:
            raise SignatureRejectedError(f"{what} is not PEM")
        blocks.append(block)
        position = match.end()
    return tuple(blocks)


def parse_single_pem(raw: bytes, what: str) -> bytes:
    """The DER content of ``raw``; :class:`SignatureRejectedError` about ``what`` unless it is exactly one PEM block."""
    blocks = parse_pem(raw, what)
    if len(blocks) != 1:
        raise SignatureRejectedError(f"{what} is not exactly one PEM block")
    return blocks[0].der


def find_pem(raw: bytes) -> Iterator[PemBlock]:
    """The well-formed blocks in ``raw``. Anything else is ignored, as containers/image does where it reads keys."""
    return (block for block in map(_read, _BLOCK.finditer(raw)) if block is not None)


def to_pem(certificate: bytes) -> bytes:
    """A certificate (DER) as a PEM block."""
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(certificate) + b"-----END CERTIFICATE-----\n"


def _read(match: re.Match[bytes]) -> PemBlock | None:
    """The block, or None if its content is not base64."""
    try:
        return PemBlock(match[1].decode(), decode_base64(b"".join(match[2].split()).decode()))
    except MalformedDocumentError:
        return None
