"""Content codings: what ``Content-Encoding`` names, and how a gzip is undone within a given size. Pure.

Identity is asked for, and the label is often wrong: storage calls a blob gzip because it is one, or aws-chunked because
it was uploaded so (contrib/adr/0021). A blob's size and digest decide what it is (``blob_answer``). No document that is
read here begins as a gzip does, so one that does was compressed on the way (``reply``). No other coding is undone.
Must never produce more bytes than it is allowed. Spec: RFC 9110 section 8.4, RFC 1952.
"""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP: Final = frozenset({"gzip", "x-gzip"})
_OTHERS: Final = frozenset({"br", "compress", "deflate", "dcb", "dcz", "x-compress", "zstd"})
_WINDOW: Final = zlib.MAX_WBITS | 16  # with the header and the checksum of gzip
_INPUT: Final = 16 * 1024
# The bytes that are read for a content of known size are bounded, too: a gzip may hold empty blocks without end. No
# encoder needs more bytes than this for one of the content, however often it flushes, and for its headers.
_EXPANSION: Final = 2
_OVERHEAD: Final = 64 * 1024
_MOST_MEMBERS: Final = 1024
"""An encoder writes one member. Each costs more time than its bytes explain, and may contain nothing."""


class DamagedGzipError(ValueError):
    """Not gzip, or cut off, or with more bytes than an encoder would write."""


class Source(Protocol):
    """Bytes that can be read once."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the beginning of ``buffer``, which is not empty. Returns the number of bytes, 0 only at the end."""


def parse_codings(values: Iterable[str]) -> tuple[str, ...]:
    """The codings that the lines of ``Content-Encoding`` name, in lower case and in the order of their application."""
    codings = (coding.strip().lower() for value in values for coding in value.split(","))
    return tuple(coding for coding in codings if coding)


def may_be_gzip(codings: Iterable[str]) -> bool:
    """Whether a gzip may have been applied: the label says so, and may be wrong."""
    return not _GZIP.isdisjoint(codings)


def told(codings: Iterable[str]) -> str:
    """A clause for messages about wrong content; empty if no coding explains it. Only known codings are repeated."""
    known = sorted((_GZIP | _OTHERS) & set(codings))
    return f" (labelled Content-Encoding: {', '.join(known)}, though identity was asked for)" if known else ""


class Replayed:
    """A source whose beginning was read before: ``seen`` comes first, then the rest."""

    def __init__(self, seen: bytes | bytearray, source: Source) -> None:
        self._seen = memoryview(seen)
        self._source = source

    def readinto(self, buffer: memoryview) -> int:
        """As in :class:`Source`."""
        if not self._seen:
            return self._source.readinto(buffer)
        count = min(len(buffer), len(self._seen))
        buffer[:count], self._seen = self._seen[:count], self._seen[count:]
        return count


class Gunzipped:
    """The content of a gzip, in constant memory. The gzip's own bytes are bounded by what ``size`` of content need."""

    def __init__(self, source: Source, size: int) -> None:
        self._source = source
        self._decoder = zlib.decompressobj(_WINDOW)
        self._encoded_left = _EXPANSION * size + _OVERHEAD
        self._input = b""
        self._members_left = _MOST_MEMBERS

    def readinto(self, buffer: memoryview) -> int:
        """As in :class:`Source`. Raises :class:`DamagedGzipError`."""
        while True:
            if self._decoder.eof and not self._begin_next_member():
                return 0
            try:
                content = self._decoder.decompress(self._input, len(buffer))
            except zlib.error:
                raise DamagedGzipError from None
            self._input = self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail
            # Input may give no content, such as the header of the gzip or an empty block.
            if content:
                buffer[: len(content)] = content
                return len(content)
            if not self._decoder.eof and not self._input and not self._receive():
                raise DamagedGzipError

    def _receive(self) -> bool:
        """Read more of the source into the input; False at its end."""
        piece = memoryview(bytearray(_INPUT))
        count = self._source.readinto(piece)
        self._encoded_left -= count
        if self._encoded_left < 0:
            raise DamagedGzipError
        self._input += piece[:count]
        return count > 0

    def _begin_next_member(self) -> bool:
        """Turn to the next member, of which a gzip may have several (RFC 1952 section 2.2); False after the last."""
        while len(self._input) < len(GZIP_MAGIC) and self._receive():
            pass
        if self._input[:2] != GZIP_MAGIC:
            return False
        self._members_left -= 1
        if not self._members_left:
            raise DamagedGzipError
        self._decoder = zlib.decompressobj(_WINDOW)
        return True


def gunzip(data: bytes | bytearray, limit: int) -> bytes | None:
    """The content of the gzip ``data``; None if it is more than ``limit`` bytes. Raises :class:`DamagedGzipError`."""
    source = Gunzipped(BytesIO(data), max(limit, len(data)))
    content, piece = bytearray(), memoryview(bytearray(min(limit, 64 * 1024) + 1))
    while count := source.readinto(piece):
        content += piece[:count]
        if len(content) > limit:
            return None
    return bytes(content)
