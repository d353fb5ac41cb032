"""Readers of blobs that lie in a file or in memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.errors import SourceError


class FileReader:
    """A :class:`BlobReader` over ``size`` bytes of an open file, which begin at ``start`` of it.

    It owns the descriptor and moves no file position, so that duplicates of one descriptor serve several readers.
    ``place`` names the file. ``failure`` makes our error of an ``OSError``. A file that has become shorter ends early.
    """

    def __init__(
        self,
        number: int,
        size: int,
        place: str,
        failure: Callable[[OSError], SourceError],
        *,
        start: int = 0,
        offset: int = 0,
    ) -> None:
        self._number: int | None = number
        self.size = size
        self.place = place
        self._start = start
        self._failure = failure
        self.offset = offset

    def readinto(self, buffer: memoryview) -> int:
        """As in :class:`BlobReader`."""
        left = max(0, self.size - self.offset)
        if self._number is None or not left:
            return 0
        try:
            count = os.preadv(self._number, [buffer[:left]], self._start + self.offset)
        except OSError as error:
            raise self._failure(error) from error
        self.offset += count
        return count

    def reject(self) -> None:
        """There is nobody else to ask."""

    def close(self) -> None:
        """Close the file."""
        if self._number is not None:
            os.close(self._number)
            self._number = None


class BytesReader:
    """A :class:`BlobReader` over what is in memory."""

    place: Final = "memory"

    def __init__(self, content: bytes, offset: int = 0) -> None:
        self._content = memoryview(content)
        self.offset = offset

    def readinto(self, buffer: memoryview) -> int:
        """As in :class:`BlobReader`."""
        piece = self._content[self.offset : self.offset + len(buffer)]
        buffer[: len(piece)] = piece
        self.offset += len(piece)
        return len(piece)

    def reject(self) -> None:
        """There is nobody else to ask."""

    def close(self) -> None:
        """Nothing is held."""
