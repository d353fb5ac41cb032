"""Layers as streams of an archive: decompressed, and verified by their DiffID as they are read.

The archive is complete only if the digest of all its bytes is the DiffID that the image's configuration names: `read`
raises instead of giving the end of a wrong one. A thread fetches, decompresses and hashes, so that this goes on while
the caller writes files. It must not interpret the archive.
Spec: OCI image-spec, config.md "Layer DiffID"; RFC 1952 (gzip), RFC 8878 (zstd).
"""

from __future__ import annotations

import contextlib
import queue
import threading
import zlib
from typing import IO, TYPE_CHECKING, Final, Protocol, Self, cast

from container_image_client.errors import UnsupportedImageError, WrongContentError
from container_image_client.hashes import new_hash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_PIECE: Final = 256 * 1024  # decompressed bytes in one chunk
_READ: Final = 64 * 1024  # compressed bytes at a time
_AHEAD: Final = 8  # chunks between the threads, 2 MiB
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE: Final = b"\x2a\x4d\x18"  # behind a first byte of 0x50 to 0x5f
# What a zstd frame may have the reader keep: the most that zstd(1) itself takes without being told (windowLog 27).
_MAX_WINDOW: Final = 1 << 27


class Readable(Protocol):
    """Where a blob comes from: the client's blob reader, or an open file."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes; none only at the end."""
        ...

    def close(self) -> None:
        """Stop; also while another thread reads."""
        ...


class LayerReader:
    """One layer's archive, chunk by chunk. A context manager, since its thread and its blob have to end."""

    def __init__(self, blob: Readable, diff_id: str) -> None:
        self._blob = blob
        self._diff_id = diff_id
        self._chunks: queue.Queue[bytes | BaseException] = queue.Queue(_AHEAD)
        self._has_ended = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._produce, name=f"layer {diff_id[:19]}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        self._blob.close()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):  # it may be waiting for room
                self._chunks.get_nowait()
            self._thread.join(0.01)

    def read(self) -> bytes:
        """The next chunk; an empty one at the end, which is reached only if the DiffID is right."""
        if self._has_ended:
            return b""
        chunk = self._chunks.get()
        if isinstance(chunk, BaseException):
            raise chunk
        self._has_ended = not chunk
        return chunk

    def _produce(self) -> None:
        try:
            for chunk in verified(decompress(self._blob), self._diff_id):
                if self._stopping.is_set():
                    return
                self._chunks.put(chunk)
            self._chunks.put(b"")
        except BaseException as error:  # noqa: BLE001 - it is raised where the chunks are read
            self._chunks.put(error)


def verified(chunks: Iterator[bytes], digest: str) -> Iterator[bytes]:
    """The same chunks; an error in place of their end unless this is their digest."""
    hashing = new_hash(digest)
    for chunk in chunks:
        hashing.update(chunk)
        yield chunk
    if (found := f"{hashing.name}:{hashing.hexdigest()}") != digest:
        raise WrongContentError(
            f"a layer is not what the image's configuration says: its DiffID is {found}, not {digest}"
        )


def decompress(blob: Readable) -> Iterator[bytes]:
    """The archive, by the compression that the first bytes show; media types are wrong at times, and DiffIDs decide."""
    head = b""
    while len(head) < len(_ZSTD) and (piece := blob.read(_READ)):
        head += piece
    if head.startswith(_GZIP):
        return _gunzip(head, blob)
    if head.startswith(_ZSTD) or (head[1:4] == _ZSTD_SKIPPABLE and head[0] & 0xF0 == 0x50):  # noqa: PLR2004 - RFC 8878
        return _unzstd(head, blob)
    return _plain(head, blob)


def _plain(data: bytes, blob: Readable) -> Iterator[bytes]:
    while data:
        yield data
        data = blob.read(_PIECE)


def _gunzip(data: bytes, blob: Readable) -> Iterator[bytes]:
    """All members of a gzip file, one after another; zeros may fill it up."""
    stream = zlib.decompressobj(zlib.MAX_WBITS + 16)
    is_within = False
    while data:
        is_within = True
        try:
            output = stream.decompress(data, _PIECE)
        except zlib.error as error:
            raise WrongContentError(f"a layer cannot be decompressed: {error}") from error
        if output:
            yield output
        data = stream.unconsumed_tail
        if stream.eof:
            data = stream.unused_data.lstrip(b"\0")
            stream = zlib.decompressobj(zlib.MAX_WBITS + 16)
            is_within = False
        while not data and (data := blob.read(_READ)) and not is_within:
            data = data.lstrip(b"\0")
    if is_within:
        raise WrongContentError("a layer breaks off within its gzip stream")


def _unzstd(data: bytes, blob: Readable) -> Iterator[bytes]:
    """All frames of a zstd file; those that are to be skipped, as zstd:chunked has them, are."""
    try:
        import zstandard  # noqa: PLC0415 - only layers that need it should
    except ImportError as error:
        remedy = "install Debian's python3-zstandard, or zstandard from PyPI"
        raise UnsupportedImageError(
            "a layer is compressed with zstd, which this Python cannot read", remedy=remedy
        ) from error
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    with decompressor.stream_reader(
        cast("IO[bytes]", _Joined(data, blob)), read_size=_READ, read_across_frames=True
    ) as stream:
        try:
            while output := stream.read(_PIECE):
                yield output
        except zstandard.ZstdError as error:
            raise WrongContentError(f"a layer cannot be decompressed: {error}") from error


class _Joined:
    """What was read already, and then the rest."""

    def __init__(self, head: bytes, blob: Readable) -> None:
        self._head = head
        self._blob = blob

    def read(self, size: int = -1) -> bytes:
        head, self._head = self._head, b""
        return head or self._blob.read(size)
