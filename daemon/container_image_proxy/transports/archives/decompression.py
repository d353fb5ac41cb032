"""Compressed files, decompressed into the caller's buffer: gzip, bzip2, xz and zstd, known by their first bytes.

The input is hostile. A piece of output is never larger than the buffer, and input that asks for more memory than
``MAX_MEMORY`` is refused. Several compressed parts in a row are one file, as for gzip(1), bzip2(1), xz(1) and zstd(1).
Must not bound the output as a whole, which the caller does. Spec: RFC 1952, RFC 8878, the .xz file format.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Final, Protocol, cast

from container_image_proxy.concurrency.locks import held
from container_image_proxy.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from container_image_proxy.concurrency.context import Context

MAX_MEMORY: Final = 128 << 20
"""Bytes of a decompressor's window: as many as ``zstd`` allows by default, and twice what ``xz -9`` needs. They are
half of what the unit may have (``MemoryMax=``), so one at a time has them: see :func:`memory_for`.
"""
_memory: Final = threading.Lock()
_PIECE: Final = 256 * 1024
_MAGIC: Final = {
    "gzip": (b"\x1f\x8b\x08",),
    # With the bytes that follow: the three letters alone may begin the name of a tar archive's first member.
    "bzip2": tuple(b"BZh%d" % level + block for level in range(1, 10) for block in (b"1AY&SY", b"\x17rE8P\x90")),
    "xz": (b"\xfd7zXZ\0",),
    "zstd": (b"\x28\xb5\x2f\xfd", *(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60))),
}
MAGIC_SIZE: Final = 10


def detect_compression(beginning: bytes) -> str | None:
    """The compression of a file that begins so; None if it has none of those known here."""
    return next((name for name, magics in _MAGIC.items() if beginning.startswith(magics)), None)


@contextmanager
def memory_for(context: Context, compression: str) -> Iterator[None]:
    """Have the memory for decompression meanwhile. All who need much of it take turns."""
    if compression == "gzip":  # whose window is 32 KiB (RFC 1951)
        yield
    else:
        with held(_memory, context):
            yield


class Decompressed(Protocol):
    """The bytes that were compressed, in their order."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill the beginning of ``buffer``. Returns the number of bytes, 0 only at the end.

        Raises :class:`SourceError` if the data is damaged.
        """


def decompress(read: Callable[[int], bytes], compression: str, place: str) -> Decompressed:
    """Decompress what ``read(count)`` returns, which is empty only at the end. ``place`` is for errors.

    ``compression`` is as :func:`detect_compression` returns it. Raises :class:`SourceError` if a library is missing.
    """
    source = _Counted(read)
    return _Zstd(source, place) if compression == "zstd" else _Parts(source, compression, place)


class _Counted:
    """The compressed bytes as a file, with the number of those that were read."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.offset = 0

    def read(self, count: int) -> bytes:
        data = self._read(count)
        self.offset += len(data)
        return data


def _damaged(place: str, source: _Counted, compression: str, reason: object) -> SourceError:
    return SourceError(f"{place}: the {compression} data is damaged before byte {source.offset}: {reason}")


class _Decompressor(Protocol):
    """What the decompressors of ``bz2``, ``lzma`` and ``zlib`` have in common.

    Of the input that does not yield output yet, those of ``bz2`` and ``lzma`` keep a copy, and have ``needs_input``.
    That of ``zlib`` gives it back in ``unconsumed_tail``.
    """

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


class _Parts:
    """gzip, bzip2 or xz, part by part."""

    def __init__(self, source: _Counted, compression: str, place: str) -> None:
        self._source = source
        self._compression = compression
        self._place = place
        self._make, self._errors = _find_decompressor(compression)
        self._part: _Decompressor | None = None
        self._input = b""
        self._is_first = True

    def readinto(self, buffer: memoryview) -> int:
        while True:
            if self._part is None and not self._begin_part():
                return 0
            part = self._part
            assert part is not None  # noqa: S101 - for mypy
            is_hungry = getattr(part, "needs_input", True)
            if not self._input and is_hungry:
                self._input = self._source.read(_PIECE)
                if not self._input:
                    raise _damaged(self._place, self._source, self._compression, "the data ends early")
            try:  # around this alone: bz2 raises OSError, which the TimeoutError of a read is, too
                piece = part.decompress(self._input, len(buffer))
            except self._errors as error:
                raise _damaged(self._place, self._source, self._compression, error) from error
            self._input = getattr(part, "unconsumed_tail", b"")
            if part.eof:
                self._input, self._part = part.unused_data, None
            if piece:
                buffer[: len(piece)] = piece
                return len(piece)

    def _begin_part(self) -> bool:
        """Turn to the next part; False if there is none. Zeros between and behind parts are padding."""
        while not self._input.strip(b"\0"):
            self._input = self._source.read(_PIECE)
            if not self._input:
                return False
        self._input = self._input.lstrip(b"\0")
        self._part = self._make()
        return True


def _find_decompressor(compression: str) -> tuple[Callable[[], _Decompressor], tuple[type[Exception], ...]]:
    """A function that makes a decompressor, and the exceptions that it raises for damaged data.

    The modules are loaded when they are needed, because few images need any.
    """
    if compression == "gzip":
        import zlib  # noqa: PLC0415

        return (lambda: zlib.decompressobj(16 + zlib.MAX_WBITS)), (zlib.error, EOFError)
    if compression == "bzip2":
        import bz2  # noqa: PLC0415

        return bz2.BZ2Decompressor, (OSError, EOFError)
    import lzma  # noqa: PLC0415

    return (lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_MEMORY)), (lzma.LZMAError, EOFError)


class _Zstd:
    """Frame by frame, which includes frames to be skipped (RFC 8878 section 3.1.2)."""

    def __init__(self, source: _Counted, place: str) -> None:
        try:
            import zstandard  # noqa: PLC0415 - loaded when needed
        except ImportError as error:
            raise SourceError(
                f"{place} is compressed with zstd, for which Python's zstandard is missing (python3-zstandard)"
            ) from error
        self._source = source
        self._place = place
        self._error = zstandard.ZstdError
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_MEMORY)
        self._reader = decompressor.stream_reader(cast("IO[bytes]", source), read_size=_PIECE, read_across_frames=True)

    def readinto(self, buffer: memoryview) -> int:
        try:
            return self._reader.readinto(buffer)
        except self._error as error:
            raise _damaged(self._place, self._source, "zstd", error) from error
