"""An archive in a file, which is opened, watched for changes, and unpacked if it is compressed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from container_image_proxy.errors import SourceError
from container_image_proxy.transports.archives.decompression import MAGIC_SIZE, detect_compression
from container_image_proxy.transports.archives.unpacking import read_fully, unpack
from container_image_proxy.transports.beneath import FILE, open_place
from container_image_proxy.transports.regions import Region

if TYPE_CHECKING:
    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.transports.archives.spool import Spool, SpoolDirectory


class Identity(Struct, frozen=True):
    """Which file it is, and in which state. Writing to the file changes it. ``mtime`` is in nanoseconds."""

    device: int
    inode: int
    size: int
    mtime: int


def identity_of(status: os.stat_result) -> Identity:
    """The identity of a file with this status."""
    return Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class ArchiveFile:
    """An :class:`ArchiveInput` over a file.

    ``path`` is as it was written. ``place`` is where it led when the reference was read, and where it must lead still.
    ``identity`` is that of the file that is open; None if none is.
    """

    def __init__(self, path: str, place: str) -> None:
        self.place = place
        self.identity: Identity | None = None
        self._path = path
        self._number: int | None = None
        self._is_unpacked = False

    @property
    def is_current(self) -> bool:
        """Whether it is open, and still what its path names."""
        try:
            return self.identity is not None and identity_of(Path(self._path).stat()) == self.identity
        except OSError:
            return False

    def verify_place(self) -> None:
        """Raise :class:`SourceError` if there is no file that can be read, or it lies elsewhere than policy knows."""
        os.close(self._open())

    def open(self) -> Region:
        """The whole file as it is, opened if it is not yet. Raises :class:`SourceError`."""
        if self._number is None:
            self._number = self._open()
            self.identity = identity_of(os.fstat(self._number))
        self._is_unpacked = False
        self.verify_unchanged()
        assert self.identity is not None  # noqa: S101 - for mypy
        return Region(self._number, 0, self.identity.size)

    @property
    def is_repeatable(self) -> bool:
        """Whether the file that is open is unchanged."""
        return self._number is not None and identity_of(os.fstat(self._number)) == self.identity

    def load(self, context: Context, spools: SpoolDirectory) -> tuple[Region, Spool | None]:
        """See :class:`ArchiveInput`."""
        whole = self.open()
        compression = detect_compression(read_fully(whole.number, 0, MAGIC_SIZE, self.place))
        if compression is None:
            return whole, None
        spool = spools.create(self.place)
        try:
            unpack(context, whole, compression, spool, self.place)
            self.verify_unchanged()
        except BaseException:
            spool.close()
            raise
        self._is_unpacked = True  # from now on only the spool file counts
        return Region(spool.number, 0, spool.size), spool

    def verify_unchanged(self) -> None:
        """See :class:`ArchiveInput`."""
        if self._number is not None and not self._is_unpacked and not self.is_repeatable:
            reason = f"{self.place} has changed while it was read; what is there now is another image"
            raise SourceError(reason, endpoint=self.place, retryable=True)

    def close(self) -> None:
        """See :class:`ArchiveInput`."""
        if self._number is not None:
            os.close(self._number)
        self._number, self.identity, self._is_unpacked = None, None, False

    def _open(self) -> int:
        return open_place(self._path, self.place, FILE, "archive")
