"""Spool files: what had to be decompressed, or came as a stream, on disk and without a name.

An archive has at most one, which ends with it and with the process. They lie in the cache directory, never in memory:
files of a tmpfs count against what the unit may take. All together have a limit, since the disk is the host's.
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


class SpoolDirectory:
    """Where spool files lie, and how many bytes they may have together. Thread-safe.

    ``path`` is None where nobody said one and none can be thought of. Nothing is opened before the first file is made.
    """

    def __init__(self, path: Path | None, limit: int = DEFAULT_SPOOL_LIMIT) -> None:
        self._path = path
        self._limit = limit
        self._lock = threading.Lock()
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes that all files have together."""
        return self._used

    def create(self, place: str) -> Spool:
        """A new file for the archive ``place``; :class:`SourceError` if there is nowhere to keep it."""
        what = f"{place} has to be unpacked into a file before it can be read, and"
        if self._path is None:
            raise SourceError(
                f"{what} no cache directory is known: name one with --cache-dir or cache-dir of [sources]",
                endpoint=place,
            )
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            kind = file_system_of(self._path)
            if kind in _IN_MEMORY:
                raise SourceError(
                    f"{what} {self._path} is on a {kind}, which is memory: name another with --cache-dir or"
                    " cache-dir of [sources]",
                    endpoint=place,
                )
            number = _open_unnamed(self._path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SourceError(
                f"{what} there can be no file in {self._path}: {reason}", endpoint=place, retryable=error.errno in _FULL
            ) from error
        return Spool(number, self, place)

    def take(self, size: int, place: str) -> None:
        """Count ``size`` more bytes."""
        with self._lock:
            if self._used + size > self._limit:
                raise SourceError(
                    f"{place} cannot be unpacked: all spool files together would have more than {self._limit} bytes,"
                    " which --spool-limit or spool-limit of [sources] raises",
                    endpoint=place,
                    retryable=True,
                )
            self._used += size

    def give_back(self, size: int) -> None:
        """Count ``size`` bytes no more."""
        with self._lock:
            self._used -= size

    def failure(self, error: OSError, place: str, written: int) -> SourceError:
        """Why a file cannot be written."""
        is_full = error.errno in _FULL
        remedy = (
            ": make room there, or name another directory with --cache-dir or cache-dir of [sources]" if is_full else ""
        )
        reason = f"{self._path}: {error.strerror or error}{remedy}"
        return SourceError(
            f"{place} cannot be unpacked, {written} bytes were: {reason}", endpoint=place, retryable=is_full
        )


class Spool:
    """One file that grows at its end. One thread writes; what is there may be read by several."""

    def __init__(self, number: int, directory: SpoolDirectory, place: str) -> None:
        self.number = number
        self.size = 0
        self._directory = directory
        self._place = place

    def append(self, context: Context, content: Decompressed) -> int:
        """Put all of ``content`` behind what is there: how many bytes it has.

        Raises :class:`SourceError`, and what ``content`` raises; the file is then what it was before.
        """
        began = self.size
        try:
            self._append(context, content)
        except BaseException:
            os.ftruncate(self.number, began)
            self._directory.give_back(self.size - began)
            self.size = began
            raise
        return self.size - began

    def _append(self, context: Context, content: Decompressed) -> None:
        buffer = memoryview(mmap.mmap(-1, _PIECE))
        while count := content.readinto(buffer):
            context.check()
            self._directory.take(count, self._place)
            self.size += count
            try:
                self._write(buffer[:count], self.size - count)
            except OSError as error:
                raise self._directory.failure(error, self._place, self.size - count) from error

    def close(self) -> None:
        """Let it go, and with it the room that it takes once the last reader is closed."""
        os.close(self.number)
        self._directory.give_back(self.size)
        self.size = 0

    def _write(self, piece: memoryview, offset: int) -> None:
        while piece:
            written = os.pwrite(self.number, piece, offset)
            piece, offset = piece[written:], offset + written


def _open_unnamed(directory: Path) -> int:
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
    # Not every file system has files without a name.
    name = directory / f".spool-{os.getpid()}-{threading.get_ident()}"
    number = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    name.unlink()
    return number
