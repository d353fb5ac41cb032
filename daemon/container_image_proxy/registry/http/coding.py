"""Content codings: what ``Content-Encoding`` names, and how a gzip is undone within a given size. Pure.

Identity is asked for, and the label is often wrong: storage calls a blob gzip because it is one, or aws-chunked because
it came so. What a blob is, its size and digest decide (``blob_answer``). No document that is read here begins as a gzip
does, so where one does, a gzip was applied on the way (``reply``). No other coding is undone, and never are more bytes
made than are allowed. Spec: RFC 9110 section 8.4, RFC 1952.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP: Final = frozenset({"gzip", "x-gzip"})
_OTHERS: Final = frozenset({"br", "compress", "deflate", "dcb", "dcz", "x-compress", "zstd"})
_WINDOW: Final = zlib.MAX_WBITS | 16  # with the header and the checksum of gzip
_INPUT: Final = 16 * 1024
_EXPANSION: Final = 2
"""No encoder needs more than this many bytes for one of the content, however often it flushes."""
_OVERHEAD: Final = 64 * 1024
_MOST_MEMBERS: Final = 1024
"""An encoder writes one. Each costs more time than its bytes explain, and may contain nothing."""


class DamagedGzipError(ValueError):
    """Not gzip, or cut off, or with more behind it than an encoder would write."""


class Source(Protocol):
    """Bytes to be read once."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the beginning of ``buffer``, which is not empty: how many bytes, none only at the end."""


def parse_codings(values: Iterable[str]) -> tuple[str, ...]:
    """The codings that all lines of ``Content-Encoding`` name, in lower case."""
    codings = (coding.strip().lower() for value in values for coding in value.split(","))
    return tuple(coding for coding in codings if coding)


def may_be_gzip(codings: Iterable[str]) -> bool:
    """Whether a gzip may have been applied."""
    return not _GZIP.isdisjoint(codings)


def told(codings: Iterable[str]) -> str:
    """A clause for messages about content that is not what it should be; empty if no coding explains that."""
    known = sorted((_GZIP | _OTHERS) & set(codings))
    return f" (labelled Content-Encoding: {', '.join(known)}, though identity was asked for)" if known else ""


class Replayed:
    """A source of which the beginning was read before."""

    def __init__(self, seen: bytes | bytearray, source: Source) -> None:
        self._seen = memoryview(seen)
        self._source = source

    def readinto(self, buffer: memoryview) -> int:
        """What was seen comes first."""
        if not self._seen:
            return self._source.readinto(buffer)
        count = min(len(buffer), len(self._seen))
        buffer[:count], self._seen = self._seen[:count], self._seen[count:]
        return count


class Gunzipped:
    """What a gzip holds, which should be no more than ``size`` bytes: in constant memory, in a time that it bounds."""

    def __init__(self, source: Source, size: int) -> None:
        self._source = source
        self._decoder = zlib.decompressobj(_WINDOW)
        self._encoded_left = _EXPANSION * size + _OVERHEAD
        self._input = b""
        self._members_left = _MOST_MEMBERS

    def readinto(self, buffer: memoryview) -> int:
        """Fill the beginning of ``buffer``: how many bytes, none only at the end. :class:`DamagedGzipError`."""
        while True:
            if self._decoder.eof and not self._begin_next_member():
                return 0
            try:
                content = self._decoder.decompress(self._input, len(buffer))
            except zlib.error:
                raise DamagedGzipError from None
            self._input = self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail
            if content:
                buffer[: len(content)] = content
                return len(content)
            if not self._decoder.eof and not self._input and not self._receive():
                raise DamagedGzipError

    def _receive(self) -> bool:
        """Take more of the source; False at its end."""
        piece = memoryview(bytearray(_INPUT))
        count = self._source.readinto(piece)
        self._encoded_left -= count
        if self._encoded_left < 0:
            raise DamagedGzipError
        self._input += piece[:count]
        return count > 0

    def _begin_next_member(self) -> bool:
        """A gzip may be several, one after the other (RFC 1952 section 2.2); False if that was the last."""
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
    """All that ``data`` holds; None if it is more than ``limit`` bytes. :class:`DamagedGzipError`."""
    source = Gunzipped(Replayed(data, NOTHING), max(limit, len(data)))
    content, piece = bytearray(), memoryview(bytearray(min(limit, 64 * 1024) + 1))
    while count := source.readinto(piece):
        content += piece[:count]
        if len(content) > limit:
            return None
    return bytes(content)


class _Nothing:
    """An empty source."""

    def readinto(self, _: memoryview) -> int:
        """Nothing."""
        return 0


NOTHING: Final = _Nothing()
