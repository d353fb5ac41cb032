"""Spool files: what had to be decompressed, or came as a stream, on disk and without a name.

An archive has at most one. It is removed with the archive, or when the process ends. Spool files are in the cache
directory, and never on a tmpfs, whose files count against the memory that the unit may take. All files together have a
limit, because the disk is the host's. Must not know what is in them.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from typing import TYPE_CHECKING, Final

from container_image_proxy.config.instances import DEFAULT_SPOOL_LIMIT
from container_image_proxy.config.obstacle import file_system_of
from container_image_proxy.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.transports.archives.decompression import Decompressed

_PIECE: Final = 1 << 20
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_OPTION: Final = "--cache-dir or cache-dir of [sources]"


class SpoolDirectory:
    """The directory of spool files, which may have ``limit`` bytes together. Thread-safe.

    ``path`` is None if no directory is known. It is made with the first file.
    """

    def __init__(self, path: Path | None, limit: int = DEFAULT_SPOOL_LIMIT) -> None:
        self._path = path
        self._limit = limit
        self._lock = threading.Lock()
        self._used = 0

    @property
    def used(self) -> int:
        """The bytes that all files have together."""
        return self._used

    def create(self, place: str) -> Spool:
        """A new file for the archive ``place``. Raises :class:`SourceError` if there is nowhere to keep it."""
        what = f"{place} has to be unpacked into a file before it can be read, and"
        if self._path is None:
            raise SourceError(f"{what} no cache directory is known: name one with {_OPTION}")
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            kind = file_system_of(self._path)
            if kind in _IN_MEMORY:
                raise SourceError(f"{what} {self._path} is on a {kind}, which is memory: name another with {_OPTION}")
            number = _open_unnamed(self._path)
        except OSError as error:
            reason = f"{what} there can be no file in {self._path}: {error.strerror or error}"
            raise SourceError(reason, retryable=error.errno in _FULL) from error
        return Spool(number, self, place)

    def take(self, size: int, place: str) -> None:
        """Count ``size`` bytes more. Raises :class:`SourceError` if all files together would exceed the limit."""
        with self._lock:
            if self._used + size > self._limit:
                raise SourceError(
                    f"{place} cannot be unpacked: all spool files together would have more than {self._limit} bytes,"
                    " which --spool-limit or spool-limit of [sources] raises",
                    retryable=True,
                )
            self._used += size

    def give_back(self, size: int) -> None:
        """Count ``size`` bytes less."""
        with self._lock:
            self._used -= size

    def failure(self, error: OSError, place: str, written: int) -> SourceError:
        """The error for a file that cannot be written, after ``written`` bytes were."""
        is_full = error.errno in _FULL
        remedy = f": make room there, or name another directory with {_OPTION}" if is_full else ""
        reason = f"{self._path}: {error.strerror or error}{remedy}"
        return SourceError(f"{place} cannot be unpacked, {written} bytes were: {reason}", retryable=is_full)


class Spool:
    """A file that grows at its end. One thread writes; several may read what is there."""

    def __init__(self, number: int, directory: SpoolDirectory, place: str) -> None:
        self.number = number
        self.size = 0
        self._directory = directory
        self._place = place

    def append(self, context: Context, content: Decompressed) -> int:
        """Write all of ``content`` behind what is there. Returns the number of its bytes.

        Raises :class:`SourceError`, and what ``content`` raises. The file is then what it was before.
        """
        began = self.size
        buffer = memoryview(mmap.mmap(-1, _PIECE))
        try:
            while count := content.readinto(buffer):
                context.check()
                self._directory.take(count, self._place)
                self.size += count
                try:
                    written = 0
                    while written < count:
                        written += os.pwrite(self.number, buffer[written:count], self.size - count + written)
                except OSError as error:
                    raise self._directory.failure(error, self._place, self.size - count) from error
        except BaseException:
            os.ftruncate(self.number, began)
            self._directory.give_back(self.size - began)
            self.size = began
            raise
        return self.size - began

    def close(self) -> None:
        """Close the file. Having no name, it is removed with the last descriptor of it."""
        os.close(self.number)
        self._directory.give_back(self.size)
        self.size = 0


def _open_unnamed(directory: Path) -> int:
    """A descriptor of a new file without a name (open(2), O_TMPFILE). Raises ``OSError``."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
    # NFS, for one, has no O_TMPFILE.
    name = directory / f".spool-{os.getpid()}-{threading.get_ident()}"
    number = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    name.unlink()
    return number
