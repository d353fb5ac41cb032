"""A layer's tar, put together again out of its tar-split and the files of the layer.

Whether it is what it was when the layer was unpacked shows by its digest, which the reader's user computes. One entry
of the tar-split, one file and two directories are open at a time.
"""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING

from container_image_proxy.errors import IntegrityError
from container_image_proxy.transports.beneath import failure_at
from container_image_proxy.transports.storage.tar_split import FileContent, read_entries, size_of

if TYPE_CHECKING:
    from container_image_proxy.transports.storage.layer_files import LayerFiles


class LayerReader:
    """A :class:`BlobReader` of a layer's tar from ``offset`` on. It owns ``tar_split`` and ``files``.

    ``place`` names the layer in errors.
    """

    def __init__(self, tar_split: IO[bytes], files: LayerFiles, place: str, offset: int = 0) -> None:
        self._tar_split = tar_split
        self._files = files
        self.place = place
        self._entries = read_entries(tar_split, f"{place}: the tar-split")
        self._segment = memoryview(b"")
        self._name = b""
        self._file = -1
        self._left = 0  # bytes of the file that are still to be read
        self._skipped = offset  # bytes before the offset: they are counted, and their files not opened
        self.offset = offset

    def readinto(self, buffer: memoryview) -> int:
        """See :class:`BlobReader`. Fills the buffer as far as the layer goes: most entries are small."""
        filled = 0
        try:
            while filled < len(buffer):
                if self._left:
                    count = os.readv(self._file, [buffer[filled:][: self._left]])
                    if not count:
                        raise IntegrityError(f"{self._where()} became shorter while it was read")
                    filled += count
                    self._left -= count
                    if not self._left:
                        self._close_file()
                elif self._segment:
                    piece = self._segment[: len(buffer) - filled]
                    buffer[filled : filled + len(piece)] = piece
                    self._segment = self._segment[len(piece) :]
                    filled += len(piece)
                elif not self._advance():
                    break
        except OSError as error:
            raise failure_at(self.place, f"{self._where()}: {error.strerror or error}", error) from error
        self.offset += filled
        return filled

    def reject(self) -> None:
        """There is nobody else to ask."""

    def close(self) -> None:
        """See :class:`BlobReader`."""
        if not self._tar_split.closed:
            self._close_file()
            self._files.close()
            self._tar_split.close()

    def _advance(self) -> bool:
        """Begin with the next entry of which something is wanted; False if there is none."""
        for entry in self._entries:
            size = size_of(entry)
            if self._skipped >= size:
                self._skipped -= size
                continue
            if isinstance(entry, FileContent):
                self._name = entry.name
                self._file = self._files.open(entry.name)
                found = os.fstat(self._file).st_size
                if found != size:
                    raise IntegrityError(f"{self._where()} has {found} bytes, and had {size} when it was unpacked")
                os.lseek(self._file, self._skipped, os.SEEK_SET)
                self._left = size - self._skipped
            else:
                self._segment = memoryview(entry)[self._skipped :]
            self._skipped = 0
            return True
        return False

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _where(self) -> str:
        name = os.fsdecode(self._name)
        return f"{self.place}: {name!a}" if self._name else self.place
