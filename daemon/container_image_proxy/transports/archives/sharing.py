"""The archives that are open: all images in one archive share it, so that it is indexed and unpacked once.

Decision: contrib/adr/0041.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from container_image_proxy.transports.archives.archive import Archive
from container_image_proxy.transports.archives.file import ArchiveFile

if TYPE_CHECKING:
    from container_image_proxy.transports.archives.spool import SpoolDirectory


class OpenArchives:
    """The newest archive at each place. Thread-safe.

    An archive that was replaced stays with its holders, but keeps nothing unpacked that nobody reads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: dict[tuple[str, str, bool], Archive] = {}

    def open(self, path: str, place: str, spools: SpoolDirectory, *, first_counts: bool = False) -> Archive:
        """The archive that is at ``path`` now, with one holder more, which is the caller. Nothing is read yet.

        ``place`` is where ``path`` led when the reference was read. ``first_counts`` is as in :class:`TarIndex`.
        """
        key = path, place, first_counts  # which of two members of one name counts differs between the formats
        with self._lock:
            newest = self._newest.get(key)
            if newest is not None and newest.share():
                return newest
            self._newest[key] = made = Archive(ArchiveFile(path, place), spools, first_counts=first_counts)
        if newest is not None:
            newest.retire()
        return made
