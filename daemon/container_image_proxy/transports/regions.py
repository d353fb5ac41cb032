"""Regions of open files, and their readers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from msgspec import Struct

from container_image_proxy.transports.beneath import failure_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.errors import SourceError


class Region(Struct, frozen=True):
    """``size`` bytes of the open file with the descriptor ``number``, from ``offset`` on."""

    number: int
    offset: int
    size: int


class RegionReader:
    """A :class:`BlobReader` over a region. It moves no file position, so that several readers share the descriptor.

    ``place`` names the region in errors. ``verify`` raises if the file has changed. ``failure`` makes our error of an
    ``OSError``. ``end`` is called once, when the reader is closed. A file that has become shorter ends early.
    """

    def __init__(
        self,
        region: Region,
        place: str,
        offset: int = 0,
        *,
        verify: Callable[[], None] = lambda: None,
        failure: Callable[[OSError], SourceError] | None = None,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        self._region = region
        self._verify = verify
        self._failure = failure
        self._end: Callable[[], None] | None = end
        self.place = place
        self.size = region.size
        self.offset = offset

    def readinto(self, buffer: memoryview) -> int:
        """See :class:`BlobReader`."""
        left = self.size - self.offset
        if left <= 0 or self._end is None:
            return 0
        position = self._region.offset + self.offset
        try:
            count = os.preadv(self._region.number, [buffer[:left]], position)
        except OSError as error:
            raise (self._failure(error) if self._failure else unreadable(self.place, position, error)) from error
        self._verify()  # after reading: bytes that were read from a changed file must not count
        self.offset += count
        return count

    def reject(self) -> None:
        """There is nobody else to ask."""

    def close(self) -> None:
        """See :class:`BlobReader`."""
        end, self._end = self._end, None
        if end is not None:
            end()


def unreadable(place: str, position: int, error: OSError) -> SourceError:
    """The error for a file that cannot be read at ``position``."""
    reason = f"{place} cannot be read at byte {position}: {error.strerror or error}"
    return failure_at(place, reason, error)
