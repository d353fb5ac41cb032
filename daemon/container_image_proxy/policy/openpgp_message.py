"""The packets of an OpenPGP message, checked before gpg reads them (RFC 4880, sections 4.2, 5.6 and 11.3).

An image's signature is one signature of one literal packet, perhaps compressed. OpenPGP allows more: several messages
in a row, nested packets, a few bytes that unpack to gigabytes. gpg reads all of these to the end and reports some of
them in no status line, so they are refused here (contrib/adr/0019). This module verifies nothing; gpg does.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from container_image_proxy.errors import SignatureRejectedError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_MESSAGE_SIZE: Final = 4 << 20
"""Bytes of a message, compressed or not. A signature has a few hundred; gpg itself has no limit but the memory."""
_MAX_NESTING: Final = 4
"""Levels of compressed packets, each of which takes time to decompress. Programs make one level at most."""
_MAX_PACKETS: Final = 8
"""Packets of a message, each of which takes memory. A signed message has three; marker packets are not counted."""
_MAX_PIECES: Final = 4096
"""Partial bodies of a packet, each of which takes memory. gpg writes 8 KiB in each, which makes 512 of 4 MiB."""

_SIGNATURE: Final = 2
_ONE_PASS_SIGNATURE: Final = 4
_COMPRESSED: Final = 8
_MARKER: Final = 10
_LITERAL: Final = 11
_ENCRYPTED: Final = frozenset({1, 3, 9, 18, 20})  # packets of encrypted messages, 20 being GnuPG's own
_SIGNED_MESSAGES: Final = ((_ONE_PASS_SIGNATURE, _LITERAL, _SIGNATURE), (_SIGNATURE, _LITERAL))  # section 11.3

_IS_PACKET: Final = 0x80
_IS_NEW_FORMAT: Final = 0x40
_OLD_LENGTH_OCTETS: Final = (1, 2, 4)  # by length type; the fourth type is "up to the end of the data"
# The first octet of a length in the new format tells its kind (section 4.2.2): below _TWO_OCTETS it is the length
# itself, below _PARTIAL the first of two octets, below _FOUR_OCTETS the length of a partial body.
_TWO_OCTETS: Final = 192
_PARTIAL: Final = 224
_FOUR_OCTETS: Final = 255


class _Packet(Struct, frozen=True):
    tag: int
    body: bytes

    def __bytes__(self) -> bytes:
        """The packet in the new format, with a length of four octets (section 4.2.2.3)."""
        head = _IS_PACKET | _IS_NEW_FORMAT | self.tag
        return bytes([head, _FOUR_OCTETS]) + len(self.body).to_bytes(4, "big") + self.body


class MessageTooLargeError(SignatureRejectedError):
    """The message has more bytes, compressed or not, than the limit, or needs more memory to be decompressed."""


def unpack_signed_message(untrusted: bytes, limit: int = MAX_MESSAGE_SIZE) -> bytes:
    """The same message, uncompressed and with a definite length for each packet, so that gpg finds the same packets.

    :class:`SignatureRejectedError` for anything but one signature of one literal packet,
    :class:`MessageTooLargeError` for more than ``limit`` bytes.
    """
    if len(untrusted) > limit:
        raise MessageTooLargeError(f"it is larger than {limit} bytes")
    packets = _read_packets(untrusted)
    for _ in range(_MAX_NESTING):
        if [packet.tag for packet in packets] != [_COMPRESSED]:
            break
        packets = _read_packets(_decompress(packets[0].body, limit))
    tags = tuple(packet.tag for packet in packets)
    if tags in _SIGNED_MESSAGES:
        return b"".join(map(bytes, packets))
    if not _ENCRYPTED.isdisjoint(tags):
        raise SignatureRejectedError("it is encrypted")
    if _SIGNATURE not in tags and _COMPRESSED not in tags:
        raise SignatureRejectedError("it is no signed OpenPGP message")
    raise SignatureRejectedError("it is not exactly one signature of one message")


def _read_packets(data: bytes) -> list[_Packet]:
    """All packets of ``data`` but the markers, which a reader must ignore (section 5.8)."""
    packets: list[_Packet] = []
    reader = _Reader(data)
    while not reader.is_at_end:
        packet = reader.read_packet()
        if packet.tag != _MARKER:
            packets.append(packet)
        if len(packets) > _MAX_PACKETS:
            raise SignatureRejectedError("it is not exactly one signature of one message")
    return packets


class _Reader:
    """Reads one packet after another from ``data``; :class:`SignatureRejectedError` where there is none."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._position = 0

    @property
    def is_at_end(self) -> bool:
        return self._position == len(self._data)

    def read_packet(self) -> _Packet:
        (head,) = self._take(1)
        if not head & _IS_PACKET:
            raise SignatureRejectedError("it is malformed: something else than a packet is in it")
        if head & _IS_NEW_FORMAT:
            return _Packet(head & 0x3F, b"".join(self._new_body()))
        octets = _OLD_LENGTH_OCTETS[head & 3 : (head & 3) + 1]
        length = int.from_bytes(self._take(octets[0]), "big") if octets else len(self._data) - self._position
        return _Packet(head >> 2 & 0xF, bytes(self._take(length)))

    def _new_body(self) -> Iterator[memoryview]:
        """The pieces of a body in the new format.

        Any number of partial bodies, whose lengths are powers of two, precede a last piece of any length (section
        4.2.2).
        """
        for _ in range(_MAX_PIECES):
            (first,) = self._take(1)
            if _PARTIAL <= first < _FOUR_OCTETS:
                yield self._take(1 << (first & 0x1F))
                continue
            if first < _TWO_OCTETS:
                length = first
            elif first < _PARTIAL:
                length = ((first - _TWO_OCTETS) << 8) + self._take(1)[0] + _TWO_OCTETS
            else:
                length = int.from_bytes(self._take(4), "big")
            yield self._take(length)
            return
        raise SignatureRejectedError(f"it is malformed: a packet of it is in more than {_MAX_PIECES} pieces")

    def _take(self, count: int) -> memoryview:
        taken = self._data[self._position : self._position + count]
        if len(taken) != count:
            raise SignatureRejectedError("it is malformed: it ends within a packet")
        self._position += count
        return taken


class _Decompressor(Protocol):
    """The common part of the decompressors of ``zlib`` and ``bz2``."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _decompress(body: bytes, limit: int) -> bytes:
    """The content of a compressed packet (section 5.6); an error if the stream is cut, or if data follows it."""
    algorithm, data = body[:1], body[1:]
    if algorithm == b"\x00":
        return data
    decompressor = _make_decompressor(algorithm, limit)
    try:
        content = decompressor.decompress(data, limit + 1)
    except (zlib.error, OSError) as error:
        raise SignatureRejectedError("it is malformed: it cannot be decompressed") from error
    if len(content) > limit:
        raise MessageTooLargeError(f"it unpacks to more than {limit} bytes")
    if not decompressor.eof:
        raise SignatureRejectedError("it is malformed: it ends within compressed data")
    if decompressor.unused_data:
        raise SignatureRejectedError("it is not exactly one signature of one message: something follows it")
    return content


def _make_decompressor(algorithm: bytes, limit: int) -> _Decompressor:
    """A decompressor for this algorithm (section 9.3)."""
    match algorithm:
        case b"\x01":
            return zlib.decompressobj(-zlib.MAX_WBITS)  # without zlib's header
        case b"\x02":
            return zlib.decompressobj()
        case b"\x03":
            # bzip2 needs megabytes of memory for a message of any size. A caller with a small limit gets this error and
            # comes again with the large limit, when it holds the lock of large messages.
            if limit < MAX_MESSAGE_SIZE:
                raise MessageTooLargeError("it takes megabytes to unpack, however small it is")
            import bz2  # noqa: PLC0415 - rare

            return bz2.BZ2Decompressor()
    raise SignatureRejectedError("it is compressed in an unknown way")
