"""The reader of a blob that is in memory."""

from __future__ import annotations

from typing import Final


class BytesReader:
    """A :class:`BlobReader` over what is in memory."""

    place: Final = "memory"

    def __init__(self, content: bytes, offset: int = 0) -> None:
        self._content = memoryview(content)
        self.offset = offset

    def readinto(self, buffer: memoryview) -> int:
        """See :class:`BlobReader`."""
        piece = self._content[self.offset : self.offset + len(buffer)]
        buffer[: len(piece)] = piece
        self.offset += len(piece)
        return len(piece)

    def reject(self) -> None:
        """There is nobody else to ask."""

    def close(self) -> None:
        """Nothing is held."""
