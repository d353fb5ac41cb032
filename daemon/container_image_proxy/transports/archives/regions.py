"""Parts of open files: read whole, read as a blob, and unpacked into a spool file. Must not know archives."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.errors import SourceError
from container_image_proxy.transports.archives.decompression import decompress, memory_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.transports.archives.spool import Spool

# Errors of this process or a network file system at the moment: they may pass.
PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.ESTALE})


class Region(Struct, frozen=True):
    """``size`` bytes of an open file, from ``offset`` on."""

    number: int
    offset: int
    size: int


class RegionReader:
    """A :class:`BlobReader` over a region. It moves no file position, so that several readers share the descriptor.

    ``place`` names the region in errors. ``verify`` raises if the file has changed. ``end`` is called when the reader
    is closed.
    """

    def __init__(
        self,
        region: Region,
        offset: int,
        place: str,
        verify: Callable[[], None],
        end: Callable[[], None] | None = None,
    ) -> None:
        self._region = region
        self._end = end
        self.place = place
        self._verify = verify
        self.offset = offset

    def readinto(self, buffer: memoryview) -> int:
        """As in :class:`BlobReader`. The bytes count only if the file has not changed before they were read."""
        left = self._region.size - self.offset
        if left <= 0:
            return 0
        try:
            count = os.preadv(self._region.number, [buffer[:left]], self._region.offset + self.offset)
        except OSError as error:
            raise _unreadable(self.place, self._region.offset + self.offset, error) from error
        self._verify()
        self.offset += count
        return count

    def reject(self) -> None:
        """There is nobody else to ask."""

    def close(self) -> None:
        """Tell whoever owns the file. May be called again."""
        end, self._end = self._end, None
        if end is not None:
            end()


def unpack(context: Context, region: Region, compression: str, spool: Spool, place: str) -> int:
    """Decompress the region to the end of the spool file. Returns the number of bytes. Raises :class:`SourceError`."""
    position = region.offset
    end = region.offset + region.size

    def read(count: int) -> bytes:
        nonlocal position
        context.check()  # what is compressed need not yield anything
        data = read_fully(region.number, position, min(count, end - position), place)
        position += len(data)
        return data

    with memory_for(context, compression):
        return spool.append(context, decompress(read, compression, place))


def read_fully(number: int, offset: int, count: int, place: str) -> bytes:
    """``count`` bytes of a file from ``offset`` on; fewer only at its end. Raises :class:`SourceError`."""
    try:
        data = os.pread(number, count, offset)
        while len(data) < count and (more := os.pread(number, count - len(data), offset + len(data))):
            data += more
    except OSError as error:
        raise _unreadable(place, offset, error) from error
    return data


def _unreadable(place: str, offset: int, error: OSError) -> SourceError:
    reason = f"{place} cannot be read at byte {offset}: {error.strerror or error}"
    return SourceError(reason, endpoint=place, retryable=error.errno in PASSING)
