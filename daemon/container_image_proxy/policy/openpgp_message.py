"""The packets of an OpenPGP message, taken apart before gpg sees it (RFC 4880, sections 4.2, 5.6 and 11.3).

A signature of an image is one signature around one literal packet, perhaps compressed. OpenPGP can say much more:
several messages in a row, packets within packets, gigabytes in a few bytes. gpg would read all of that to its end, and
need not say a word about it; here it is refused. What is signed, and by whom, is gpg's to find out: nothing is verified
here.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from container_image_proxy.errors import SignatureRejectedError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_MESSAGE_SIZE: Final = 4 << 20
"""Bytes of a message, packed and unpacked: a signature has a few hundred, gpg's own bound is the memory."""
_MAX_NESTING: Final = 4
"""Compressed packets in one another, each of which takes time to unpack: programs make one at most."""
_MAX_PACKETS: Final = 8
"""Packets of a message, each of which takes memory: three are a message, and markers do not count."""
_MAX_PIECES: Final = 4096
"""Pieces of a packet, each of which takes memory: gpg makes them of 8 KiB, so that the largest message has 512."""

_SIGNATURE: Final = 2
_ONE_PASS_SIGNATURE: Final = 4
_COMPRESSED: Final = 8
_MARKER: Final = 10
_LITERAL: Final = 11
_BZIP2: Final = b"\x03"  # an algorithm of compression (section 9.3)
_ENCRYPTED: Final = frozenset({1, 3, 9, 18, 20})
_SIGNED_MESSAGES: Final = ((_ONE_PASS_SIGNATURE, _LITERAL, _SIGNATURE), (_SIGNATURE, _LITERAL))

_IS_PACKET: Final = 0x80
_IS_NEW_FORMAT: Final = 0x40
_OLD_LENGTH_OCTETS: Final = (1, 2, 4)  # by length type; the fourth type is "up to the end of the data"
_TWO_OCTETS: Final = 192
_PARTIAL: Final = 224
_FOUR_OCTETS: Final = 255


class _Packet(Struct, frozen=True):
    tag: int
    body: bytes

    def __bytes__(self) -> bytes:
        """In the new format, with a length of four octets."""
        head = _IS_PACKET | _IS_NEW_FORMAT | self.tag
        return bytes([head, _FOUR_OCTETS]) + len(self.body).to_bytes(4, "big") + self.body


class MessageTooLargeError(SignatureRejectedError):
    """The message has more bytes, packed or unpacked, than it may; or it takes more memory to find out."""


def unpack_signed_message(untrusted: bytes, limit: int = MAX_MESSAGE_SIZE) -> bytes:
    """The same message, uncompressed and each packet of a definite length, so that every reader finds the same packets.

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
    if tags not in _SIGNED_MESSAGES:
        raise SignatureRejectedError(_complain(tags))
    return b"".join(map(bytes, packets))


def _complain(tags: tuple[int, ...]) -> str:
    if not _ENCRYPTED.isdisjoint(tags):
        return "it is encrypted"
    if not {_SIGNATURE, _COMPRESSED} & set(tags):
        return "it is no signed OpenPGP message"
    return "it is not exactly one signature of one message"


def _read_packets(data: bytes) -> list[_Packet]:
    """The packets in ``data``, whole or not at all, but for markers, which are to be ignored (section 5.8)."""
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
    """Reads packets from the front of ``data``."""

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
        """The pieces of a body: parts whose length is a power of two, and a last one of any length (section 4.2.2)."""
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
    """What zlib's and bz2's have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _decompress(body: bytes, limit: int) -> bytes:
    """The content of a compressed packet (section 5.6): all of it, and nothing behind it."""
    algorithm, data = body[:1], body[1:]
    if algorithm == b"\0":
        return data
    if algorithm == _BZIP2 and limit < MAX_MESSAGE_SIZE:
        raise MessageTooLargeError("it takes megabytes to unpack, however small it is")
    decompressor = _decompressor(algorithm)
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


def _decompressor(algorithm: bytes) -> _Decompressor:
    match algorithm:
        case b"\x01":
            return zlib.decompressobj(-zlib.MAX_WBITS)
        case b"\x02":
            return zlib.decompressobj()
        case _ if algorithm == _BZIP2:
            import bz2  # noqa: PLC0415 - hardly anybody uses it

            return bz2.BZ2Decompressor()
    raise SignatureRejectedError("it is compressed in an unknown way")
