"""The archives that are open: all images of one archive share it, so that it is indexed and unpacked once for them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from container_image_proxy.transports.archives.archive import Archive
from container_image_proxy.transports.archives.file import ArchiveFile

if TYPE_CHECKING:
    from container_image_proxy.transports.archives.spool import SpoolDirectory


class OpenArchives:
    """The newest archive of each place, for whoever opens it next. Thread-safe.

    One that was replaced is still read by whoever holds it, but keeps nothing unpacked that nobody reads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: dict[tuple[str, str, bool], Archive] = {}

    def open(self, path: str, place: str, spools: SpoolDirectory, *, first_counts: bool = False) -> Archive:
        """The archive that is at ``path`` now, for one holder more, who closes it. Nothing is read yet.

        ``place`` is where ``path`` led when the reference was read.
        """
        key = path, place, first_counts
        with self._lock:
            newest = self._newest.get(key)
            if newest is not None and newest.share():
                return newest
            self._newest[key] = made = Archive(ArchiveFile(path, place), spools, first_counts=first_counts)
        if newest is not None:
            newest.retire()
        return made
