"""The resolved images that are kept, by shelf: in memory and, if there is a directory for it, on disk.

A shelf keeps its last ``KEPT`` images, and all shelves together keep ``MAX_SIZE`` bytes. Beyond that, the largest shelf
loses its oldest image, so that a large image does not push out others. A lost image is resolved anew when it is asked
for. Files are ordered by number and not by time, because clocks jump (contrib/adr/0013).

A directory belongs to one process at a time, so an unfinished file in it is left over from a process that is gone.
Files are opened without trust in what they are: a link or a FIFO is no snapshot. Must not verify images.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
from typing import IO, TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.core.stored_image import StoredImage, decode, encode
from container_image_proxy.errors import Error, MalformedDocumentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

KEPT: Final = 8
"""Images of a shelf: so often a tag may move while a client still fetches blobs of what it named before."""
MAX_SIZE: Final = 16 << 20
"""Bytes, in terms of :attr:`StoredImage.size`: a part of what the unit may take (``MemoryMax=``). Few images have more
than 100 KiB.
"""
_MAX_FILE: Final = 2 * MAX_SIZE
_SUFFIX: Final = ".snapshot"
_UNFINISHED: Final = ".new"
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: a FIFO must not wait
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_log = logging.getLogger(__name__)


class _Entry(Struct):
    """An image, and the file that has it, if any."""

    image: StoredImage
    path: Path | None = None


class _Shelf:
    """The entries of a shelf, newest first; None before they were read. ``lock`` is held while its files are used."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.entries: list[_Entry] | None = None


class SnapshotStore:
    """Stored images by shelf, newest first. It outlives a reload, and with a ``directory`` also the process.

    Thread-safe. No shelf waits for another one's files.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._lock = threading.Lock()  # of all entries; never held while a file is used
        self._shelves: dict[str, _Shelf] = {}

    def of(self, name: str) -> tuple[StoredImage, ...]:
        """The images that are kept on the shelf, newest first."""
        shelf = self._shelf(name)
        with shelf.lock:
            entries = self._load(name, shelf)
        with self._lock:
            return tuple(entry.image for entry in entries)

    def kept(self) -> list[StoredImage]:
        """The images on all shelves that were used since the start."""
        with self._lock:
            return [entry.image for shelf in self._shelves.values() for entry in shelf.entries or ()]

    def add(self, name: str, stored: StoredImage) -> None:
        """Make ``stored`` the newest of the shelf. The same content is kept once, what is too large not at all."""
        shelf = self._shelf(name)
        with shelf.lock:
            entries = self._load(name, shelf)
            if not entries or entries[0].image is not stored:
                self._put(name, entries, _Entry(stored))

    def _put(self, name: str, entries: list[_Entry], entry: _Entry) -> None:
        with self._lock:
            same = next((one for one in entries if one.image == entry.image), None)
            if same is not None:
                entries.remove(same)
                entry.path = same.path
            number = 1 + max(map(_number, entries), default=_number(entry))
            entries.insert(0, entry)
            surplus = [*self._take_surplus(entries)]
        if entry not in surplus:
            self._write(name, entry, number)
        with self._lock:
            is_gone = entry not in entries  # another shelf may have needed its room meanwhile
        _unlink(one.path for one in (*surplus, *([entry] if is_gone else [])))

    def _shelf(self, name: str) -> _Shelf:
        with self._lock:
            if name not in self._shelves:
                self._shelves[name] = _Shelf()
            return self._shelves[name]

    def _take_surplus(self, entries: list[_Entry]) -> Iterator[_Entry]:
        """Take the entries for which there is no room off the shelves."""
        while len(entries) > KEPT:
            yield entries.pop()
        loaded = [shelf.entries for shelf in self._shelves.values() if shelf.entries]
        while sum(map(_size, loaded)) > MAX_SIZE:
            yield max(loaded, key=_size).pop()

    # --- files --------------------------------------------------------------------------------------------------------

    def _load(self, name: str, shelf: _Shelf) -> list[_Entry]:
        if shelf.entries is None:
            paths = _find(self._directory / name) if self._directory else []
            entries = _read_all(paths[:KEPT])
            _unlink(paths[KEPT:])
            with self._lock:
                shelf.entries = entries
                surplus = [*self._take_surplus(entries)]
            _unlink(entry.path for entry in surplus)
        return shelf.entries

    def _write(self, name: str, entry: _Entry, number: int) -> None:
        """Put an entry on disk, as the newest of its shelf.

        A failure is only logged: it costs a resolution after the next start, which is no reason to fail a request.
        """
        if self._directory is None:
            return
        place = self._directory / name
        path = place / f"{number:020d}{_SUFFIX}"
        unfinished = place / _UNFINISHED
        try:
            if entry.path is None:
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
                unfinished.unlink(missing_ok=True)
                entry.path = unfinished
                with os.fdopen(os.open(unfinished, _WRITE, 0o600), "wb") as file:
                    file.writelines(encode(entry.image))
            entry.path = entry.path.replace(path)
        except OSError as error:
            _log.warning("cannot keep a snapshot of %s in %s: %s", entry.image.name, place, _reason(error))
            _unlink([entry.path])
            entry.path = None


def _size(entries: list[_Entry]) -> int:
    return sum(entry.image.size for entry in entries)


def _number(entry: _Entry) -> int:
    """The number in the file's name, which orders the entries of a shelf; 0 without a file."""
    return int(entry.path.stem) if entry.path is not None else 0


def _unlink(paths: Iterable[Path | None]) -> None:
    """Remove files. Those that cannot be removed are left."""
    for path in paths:
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink()


def _find(place: Path) -> list[Path]:
    """The files of a shelf, newest first; none if they cannot be listed, as when the unit was given another user."""
    try:
        return sorted(place.glob(f"*{_SUFFIX}"), reverse=True)
    except OSError as error:
        _log.warning("the snapshots in %s are not used: %s", place, _reason(error))
        return []


def _read_all(paths: list[Path]) -> list[_Entry]:
    """The entries of a shelf, until there are as many bytes of them as may be kept at all."""
    entries: list[_Entry] = []
    for path in paths:
        entry = _read(path) if _size(entries) <= MAX_SIZE else None
        if entry is not None:
            entries.append(entry)
    return entries


def _read(path: Path) -> _Entry | None:
    """The image that a file has; None, and a warning in the log, for a file that is no snapshot of ours."""
    try:
        if not path.stem.isdecimal():
            raise MalformedDocumentError("its name is not one of ours")
        with _open(path) as file:
            return _Entry(decode(file), path)
    except OSError as error:
        _log.warning("ignoring the snapshot %s: %s", path, _reason(error))
    except Error as error:
        _log.warning("ignoring the snapshot %s: %s", path, error)
    return None


def _open(path: Path) -> IO[bytes]:
    descriptor = os.open(path, _READ)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_FILE:
        os.close(descriptor)
        raise MalformedDocumentError("no regular file, or larger than any snapshot")
    return os.fdopen(descriptor, "rb")


def _reason(error: OSError) -> str:
    return "it is a symbolic link" if error.errno == errno.ELOOP else os.strerror(error.errno or 0)
