"""An archive as a source of images holds it. When it is first needed, it is opened, unpacked and indexed, once.

The members of a plain archive are read from where they lie in the file. If the file changes meanwhile, that is an error
(contrib/adr/0031). What is compressed, the archive itself or a member, is unpacked into the archive's one spool file.
Must not know what the members are.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from container_image_proxy.concurrency.locks import held
from container_image_proxy.errors import located
from container_image_proxy.transports.archives.decompression import MAGIC_SIZE, detect_compression
from container_image_proxy.transports.archives.headers import shown
from container_image_proxy.transports.archives.index import TarIndex
from container_image_proxy.transports.archives.unpacking import read_fully, unpack
from container_image_proxy.transports.regions import Region, RegionReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.transports.archives.spool import Spool, SpoolDirectory


class ArchiveInput(Protocol):
    """Where the archive's bytes come from."""

    @property
    def place(self) -> str:
        """The archive's name, for errors."""

    @property
    def is_current(self) -> bool:
        """Whether it is open, and opening it anew would give the same bytes."""

    @property
    def is_repeatable(self) -> bool:
        """Whether :meth:`load` can be called again, and will return the same."""

    def load(self, context: Context, spools: SpoolDirectory) -> tuple[Region, Spool | None]:
        """The whole archive as plain tar, and the spool file that holds it, if any. Raises :class:`SourceError`."""

    def verify_unchanged(self) -> None:
        """Raise :class:`SourceError` if the bytes that :meth:`load` returned have changed."""

    def close(self) -> None:
        """Release what is open."""


class Archive:
    """An archive and its members. Threads may share it.

    Its maker is the first holder. Each holder closes it, which is its last call. ``first_counts`` is as in
    :class:`TarIndex`. A region stays valid while the archive is :meth:`in_use` or a reader of it is open. What may
    raise is called while the archive is in use, which gives errors their endpoint.
    """

    def __init__(self, archive: ArchiveInput, spools: SpoolDirectory, *, first_counts: bool = False) -> None:
        self._input = archive
        self.place = archive.place
        self._spools = spools
        self._first_counts = first_counts
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._holders = 1
        self._users = 0
        self._is_retired = False
        self._whole: Region | None = None
        self._index: TarIndex | None = None
        self._spool: Spool | None = None
        self._unpacked: dict[str, Region] = {}

    @property
    def is_current(self) -> bool:
        """Whether the archive was read, and reading it anew would give the same."""
        return self._index is not None and self._input.is_current

    def share(self) -> bool:
        """Add a holder. Returns False if there can be none: the archive is closed, or its file was replaced."""
        if self._index is not None and not self._input.is_current:
            return False
        with self._counting:
            if self._holders:
                self._holders += 1
            return self._holders > 0

    def retire(self) -> None:
        """From now on, keep nothing unpacked that nobody reads: another archive has taken this one's place."""
        self._is_retired = True
        self._tidy()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the regions valid that are asked for meanwhile, and say of errors in which archive they are."""
        self._begin_use()
        try:
            with located(self.place):
                yield
        finally:
            self._end_use()

    def find(self, context: Context, name: str) -> Region | None:
        """The content of a member as it is; None if there is no such member. Raises :class:`SourceError`."""
        with held(self._lock, context):
            whole, index = self._load(context)
        member = index.find(name)
        return Region(whole.number, whole.offset + member.offset, member.size) if member is not None else None

    def unpack(self, context: Context, name: str) -> Region | None:
        """As :meth:`find`, but a compressed member is unpacked."""
        found = self.find(context, name)
        if found is None:
            return None
        compression = detect_compression(self.read(Region(found.number, found.offset, min(found.size, MAGIC_SIZE))))
        if compression is None:
            return found
        with held(self._lock, context):
            if name not in self._unpacked:
                if self._spool is None:
                    self._spool = self._spools.create(self.place)
                began = self._spool.size
                size = unpack(context, found, compression, self._spool, self._place_of(name))
                self._input.verify_unchanged()  # before it counts: it may hold parts of two files
                self._unpacked[name] = Region(self._spool.number, began, size)
            return self._unpacked[name]

    def read(self, region: Region) -> bytes:
        """The bytes of a region. The caller bounds its size."""
        data = read_fully(region.number, region.offset, region.size, self.place)
        self._verify(region.number)
        return data

    def open_reader(self, region: Region, name: str, offset: int = 0) -> RegionReader:
        """A reader of the region from ``offset`` on. It keeps the region valid. ``name`` is the member's."""
        self._verify(region.number)
        self._begin_use()  # ended by the reader
        place, verify = self._place_of(name), lambda: self._verify(region.number)
        return RegionReader(region, place, offset, verify=verify, end=self._end_use)

    def close(self) -> None:
        """Remove a holder. The last one closes everything."""
        with self._counting:
            self._holders -= 1
            is_last = self._holders == 0
        if is_last:
            with self._lock:
                self._drop()

    def _load(self, context: Context) -> tuple[Region, TarIndex]:
        """The archive as plain tar, and its index, read if they are not yet. The caller holds the lock."""
        if self._whole is None or self._index is None:
            try:
                whole, self._spool = self._input.load(context, self._spools)

                def read_at(offset: int, count: int) -> bytes:
                    context.check()
                    return read_fully(whole.number, offset, count, self.place)

                index = TarIndex(read_at, whole.size, self.place, first_counts=self._first_counts)
                self._input.verify_unchanged()
            except BaseException:
                self._drop()
                raise
            self._whole, self._index = whole, index
        return self._whole, self._index

    def _place_of(self, name: str) -> str:
        return f"{self.place}: {shown(name.encode(errors='backslashreplace'))}"

    def _verify(self, number: int) -> None:
        """Raise :class:`SourceError` if the file that was read has changed. Nobody else writes to a spool file."""
        if self._spool is None or number != self._spool.number:
            self._input.verify_unchanged()

    def _begin_use(self) -> None:
        with self._counting:
            self._users += 1

    def _end_use(self) -> None:
        with self._counting:
            self._users -= 1
        if self._is_retired:
            self._tidy()

    def _tidy(self) -> None:
        """Release what was unpacked, if nobody uses it and it can be unpacked again."""
        with self._counting:
            if self._users:  # who may hold the lock while they unpack: do not wait for them
                return
        with self._lock:
            # A user that came meanwhile has no region yet, because that takes this lock.
            with self._counting:
                is_idle = not self._users
            if is_idle and self._spool is not None and self._input.is_repeatable:
                self._drop_spool()

    def _drop_spool(self) -> None:
        if self._spool is not None:
            self._spool.close()
        self._whole, self._index, self._spool = None, None, None
        self._unpacked.clear()

    def _drop(self) -> None:
        self._drop_spool()
        self._input.close()
