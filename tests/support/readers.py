"""Reading blobs in tests: from any reader, and a reader over bytes that a test makes up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from container_image_proxy.errors import Error
from container_image_proxy.transports.source import BlobReader


def pieces(reader: BlobReader, size: int = 1 << 20) -> Iterator[bytes]:
    """What each read into a buffer of ``size`` bytes brings; the reader is closed at the end."""
    buffer = memoryview(bytearray(size))
    try:
        while count := reader.readinto(buffer):
            yield bytes(buffer[:count])
    finally:
        reader.close()


def read_all(reader: BlobReader) -> bytes:
    """The whole blob."""
    return b"".join(pieces(reader))


class ScriptedReader:
    """A reader that brings the given pieces, each in as many reads as it needs, and raises the errors among them."""

    def __init__(self, script: Iterable[bytes | Error]) -> None:
        self._script = iter(script)
        self._left = b""
        self.offset = 0
        self.rejected = 0
        self.closed = 0
        self.place = "a script"

    def readinto(self, buffer: memoryview) -> int:
        if not self._left:
            piece = next(self._script, b"")
            if isinstance(piece, Error):
                raise piece
            self._left = piece
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        self.offset += count
        return count

    def reject(self) -> None:
        self.rejected += 1

    def close(self) -> None:
        self.closed += 1
