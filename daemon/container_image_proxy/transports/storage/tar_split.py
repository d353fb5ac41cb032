"""The format tar-split: what a layer's tar has beside the contents of its files, in the order of the tar.

It is one JSON object a line, compressed with gzip (github.com/vbatts/tar-split, tar/storage). A *segment* is bytes of
the tar as they are: headers, padding, the end. A *file* stands for the content of a file, which the store keeps
unpacked. One entry of bounded size is in memory at a time. Must not open the layer's files.
"""

from __future__ import annotations

import gzip
import io
import zlib
from typing import IO, TYPE_CHECKING, Final

import msgspec

from container_image_proxy.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ENTRY_SIZE: Final = 16 << 20
"""Bytes of a line. Go's tar reader takes headers of 1 MiB. Older programs have all that follows the tar's end in one
segment.
"""
MAX_ENTRIES: Final = 10_000_000
"""More than any layer has files. An entry need not yield a byte, so a small file could keep the daemon busy."""
_BUFFER: Final = 64 << 10
_FILE, _SEGMENT = 1, 2


class _Line(msgspec.Struct, frozen=True):
    """``payload`` is a segment's bytes, or a file's CRC-64, which is not needed: the layer's digest says more.

    ``name_raw`` is there instead of ``name`` if the name is not UTF-8. Both it and ``payload`` are base64 in the JSON.
    """

    type: int
    name: str = ""
    name_raw: bytes = b""
    size: int = 0
    payload: bytes | None = None


class FileContent(msgspec.Struct, frozen=True):
    """``size`` bytes of the file that the tar calls ``name``."""

    name: bytes
    size: int


def size_of(entry: bytes | FileContent) -> int:
    """The bytes of the tar that an entry stands for."""
    return entry.size if isinstance(entry, FileContent) else len(entry)


def read_entries(file: IO[bytes], place: str) -> Iterator[bytes | FileContent]:
    """The segments and files of a tar-split; empty ones are left out. ``place`` names it in errors.

    Raises :class:`IntegrityError` if it is none, and ``OSError`` if it cannot be read.
    """
    decode = msgspec.json.Decoder(_Line).decode
    lines = io.BufferedReader(gzip.GzipFile(fileobj=file), _BUFFER)
    where = place
    try:
        for number in range(1, MAX_ENTRIES + 1):
            where = f"{place}: entry {number}"
            if not (line := lines.readline(MAX_ENTRY_SIZE + 1)):
                return
            if len(line) > MAX_ENTRY_SIZE:
                raise IntegrityError(f"{where} is larger than {MAX_ENTRY_SIZE} bytes")
            entry = decode(line)
            if entry.type not in {_FILE, _SEGMENT} or entry.size < 0:
                raise IntegrityError(f"{where} is neither a segment nor a file")
            if entry.type == _SEGMENT and entry.payload:
                yield entry.payload
            elif entry.type == _FILE and entry.size:
                yield FileContent(entry.name_raw or entry.name.encode(), entry.size)
    except (EOFError, gzip.BadGzipFile, zlib.error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"{where} is damaged: {error}") from error
    raise IntegrityError(f"{place} has more than {MAX_ENTRIES} entries")
