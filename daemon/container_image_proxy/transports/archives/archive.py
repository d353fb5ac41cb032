"""An archive as a source of images holds it: opened, unpacked if it is compressed, and indexed, once and when needed.

What is in a plain archive is read from where it lies in the file, and a file that changes meanwhile is an error. What
is compressed, the archive itself or a member, is unpacked into the archive's one spool file.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from container_image_proxy.concurrency.cancellation import SLICE
from container_image_proxy.config.obstacle import find_obstacle
from container_image_proxy.errors import SourceError
from container_image_proxy.transports.archives.decompression import MAGIC_SIZE, decompress, detect_compression
from container_image_proxy.transports.archives.headers import shown
from container_image_proxy.transports.archives.index import TarIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.transports.archives.spool import Spool, SpoolDirectory

_PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.ESTALE})
_FILE: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: opening a FIFO must not wait for its writer
_unpacking: Final = threading.Lock()
"""One archive or member is decompressed at a time: what that may take of memory is a good part of the unit's."""


class Region(Struct, frozen=True):
    """``size`` bytes of an open file, from ``offset`` on."""

    number: int
    offset: int
    size: int


class Identity(Struct, frozen=True):
    """Which file it is, and in which state: it changes with what is in the file. ``mtime`` is in nanoseconds."""

    device: int
    inode: int
    size: int
    mtime: int


def identity_of(status: os.stat_result) -> Identity:
    """That of a file with this status."""
    return Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class ArchiveInput(Protocol):
    """Where the archive's bytes come from."""

    @property
    def place(self) -> str:
        """Its name, for errors."""

    @property
    def is_current(self) -> bool:
        """Whether it is open, and opening it anew would give the same bytes."""

    def load(self, context: Context, spools: SpoolDirectory) -> tuple[Region, Spool | None]:
        """The whole archive as plain tar, and the spool file that holds it, if one does; or :class:`SourceError`."""

    def verify_unchanged(self) -> None:
        """Raise :class:`SourceError` if what :meth:`load` gave is not what it was."""

    def close(self) -> None:
        """Let it go."""


class ArchiveFile:
    """An archive in a file: an :class:`ArchiveInput`.

    ``path`` is as it was written, ``place`` where that led when the reference was read, and must still lead.
    """

    def __init__(self, path: str, place: str) -> None:
        self.place = place
        self._path = path
        self._number: int | None = None
        self._identity: Identity | None = None
        self._is_unpacked = False

    @property
    def is_current(self) -> bool:
        """Whether it is open, and still what its path names."""
        try:
            return self._identity is not None and identity_of(Path(self._path).stat()) == self._identity
        except OSError:
            return False

    def verify_place(self) -> None:
        """Raise :class:`SourceError` if there is no file that may be read, or policy knows it by another path."""
        os.close(self._open())

    @property
    def identity(self) -> Identity | None:
        """Which file is open, and as what; None if none is."""
        return self._identity

    def open(self) -> Region:
        """The whole file as it is, or :class:`SourceError`."""
        self._number = number = self._open()
        self._identity = identity_of(os.fstat(number))
        return Region(number, 0, self._identity.size)

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
        self._is_unpacked = True
        return Region(spool.number, 0, spool.size), spool

    def verify_unchanged(self) -> None:
        """See :class:`ArchiveInput`."""
        if not self._is_unpacked and self._number is not None and identity_of(os.fstat(self._number)) != self._identity:
            reason = f"{self.place} has changed while it was read; what is there now is another image"
            raise SourceError(reason, endpoint=self.place, retryable=True)

    def close(self) -> None:
        """See :class:`ArchiveInput`."""
        if self._number is not None:
            os.close(self._number)
        self._number, self._identity, self._is_unpacked = None, None, False

    def _open(self) -> int:
        try:
            number = os.open(self._path, _FILE)
        except OSError as error:
            obstacle = find_obstacle(Path(self._path), error)
            remedy = f" ({obstacle.remedy})" if obstacle.remedy else ""
            reason = f"there is no archive to be read at {self._path}: {obstacle.reason}{remedy}"
            raise SourceError(reason, endpoint=self.place, retryable=error.errno in _PASSING) from error
        reason = ""
        if not stat.S_ISREG(os.fstat(number).st_mode):
            reason = f"{self._path} is not a regular file"
        elif os.path.realpath(self._path) != self.place:
            reason = f"{self._path} led to {self.place} when the configuration was read, and does no more: reload"
        if reason:
            os.close(number)
            raise SourceError(reason, endpoint=self.place)
        return number


class Archive:
    """An archive and what is in it. Threads may share it; it is closed by :meth:`close`, and nothing is asked then."""

    def __init__(self, archive: ArchiveInput, spools: SpoolDirectory, *, first_counts: bool = False) -> None:
        self._input = archive
        self.place = archive.place
        self._spools = spools
        self._first_counts = first_counts
        self._lock = threading.Lock()
        self._whole: Region | None = None
        self._index: TarIndex | None = None
        self._spool: Spool | None = None
        self._unpacked: dict[str, Region] = {}

    @property
    def is_current(self) -> bool:
        """Whether it was read, and reading it anew would give the same."""
        return self._index is not None and self._input.is_current

    def find(self, context: Context, name: str) -> Region | None:
        """The content of a member as it is; None if there is no such member."""
        with self._locked(context):
            whole, index = self._load(context)
        member = index.find(name)
        return Region(whole.number, whole.offset + member.offset, member.size) if member is not None else None

    def unpack(self, context: Context, name: str) -> Region | None:
        """The content of a member, which is unpacked if it is compressed."""
        found = self.find(context, name)
        if found is None:
            return None
        compression = detect_compression(self.read(Region(found.number, found.offset, min(found.size, MAGIC_SIZE))))
        if compression is None:
            return found
        with self._locked(context):
            if name not in self._unpacked:
                self._unpacked[name] = self._unpack(
                    context, found, compression, f"{self.place}: {shown(name.encode())}"
                )
            return self._unpacked[name]

    def read(self, region: Region) -> bytes:
        """All of a region that fits into memory."""
        data = read_fully(region.number, region.offset, region.size, self.place)
        self._verify(region.number)
        return data

    def open_reader(self, region: Region, offset: int = 0) -> RegionReader:
        """A reader of the region from ``offset`` on."""
        self._verify(region.number)
        return RegionReader(region, offset, self.place, lambda: self._verify(region.number))

    def close(self) -> None:
        """Let everything go."""
        with self._lock:
            self._drop()

    def _load(self, context: Context) -> tuple[Region, TarIndex]:
        if self._whole is None or self._index is None:
            try:
                whole, self._spool = self._input.load(context, self._spools)
                index = TarIndex(
                    lambda offset, count: read_fully(whole.number, offset, count, self.place),
                    whole.size,
                    self.place,
                    first_counts=self._first_counts,
                )
                self._input.verify_unchanged()
            except BaseException:
                self._drop()
                raise
            self._whole, self._index = whole, index
        return self._whole, self._index

    def _unpack(self, context: Context, found: Region, compression: str, place: str) -> Region:
        """Put a member behind what the spool file has already."""
        if self._spool is None:
            self._spool = self._spools.create(self.place)
        began = self._spool.size
        size = unpack(context, found, compression, self._spool, place)
        self._input.verify_unchanged()
        return Region(self._spool.number, began, size)

    def _verify(self, number: int) -> None:
        """Spool files are ours; the archive itself is not."""
        if self._spool is None or number != self._spool.number:
            self._input.verify_unchanged()

    def _drop(self) -> None:
        if self._spool is not None:
            self._spool.close()
        self._input.close()
        self._whole, self._index, self._spool = None, None, None
        self._unpacked.clear()

    @contextmanager
    def _locked(self, context: Context) -> Iterator[None]:
        """Others may wait as long as unpacking takes, and their clients may leave meanwhile."""
        while not self._lock.acquire(timeout=SLICE):
            context.check()
        try:
            yield
        finally:
            self._lock.release()


class RegionReader:
    """A :class:`BlobReader` over a region: it moves no file position, so that readers share the descriptor."""

    def __init__(self, region: Region, offset: int, place: str, verify: Callable[[], None]) -> None:
        self._region = region
        self._place = place
        self._verify = verify
        self.offset = offset

    def readinto(self, buffer: memoryview) -> int:
        """As in :class:`BlobReader`. What was read counts only if the file has not changed until then."""
        left = self._region.size - self.offset
        if left <= 0:
            return 0
        try:
            count = os.preadv(self._region.number, [buffer[:left]], self._region.offset + self.offset)
        except OSError as error:
            raise _unreadable(self._place, self._region.offset + self.offset, error) from error
        self._verify()
        self.offset += count
        return count

    def reject(self) -> None:
        """There is nobody else to ask."""

    def close(self) -> None:
        """The archive holds the file."""


def unpack(context: Context, region: Region, compression: str, spool: Spool, place: str) -> int:
    """Decompress the region to the end of the spool file: how many bytes that are. Raises :class:`SourceError`."""
    position = region.offset
    end = region.offset + region.size

    def read(count: int) -> bytes:
        nonlocal position
        data = read_fully(region.number, position, min(count, end - position), place)
        position += len(data)
        return data

    while not _unpacking.acquire(timeout=SLICE):
        context.check()
    try:
        return spool.append(context, decompress(read, compression, place))
    finally:
        _unpacking.release()


def read_fully(number: int, offset: int, count: int, place: str) -> bytes:
    """``count`` bytes from ``offset`` on, fewer only at the end of the file."""
    try:
        data = os.pread(number, count, offset)
        while len(data) < count and (more := os.pread(number, count - len(data), offset + len(data))):
            data += more
    except OSError as error:
        raise _unreadable(place, offset, error) from error
    return data


def _unreadable(place: str, offset: int, error: OSError) -> SourceError:
    reason = f"{place} cannot be read at byte {offset}: {error.strerror or error}"
    return SourceError(reason, endpoint=place, retryable=error.errno in _PASSING)
