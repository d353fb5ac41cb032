"""What an archive is unpacked by: regions of open files, read as a whole or decompressed into a spool file.

Must not know archives.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from container_image_proxy.transports.archives.decompression import decompress, memory_for
from container_image_proxy.transports.regions import unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.transports.archives.spool import Spool
    from container_image_proxy.transports.regions import Region


def unpack(context: Context, region: Region, compression: str, spool: Spool, place: str) -> int:
    """Decompress the region to the end of the spool file. Returns the number of bytes. Raises :class:`SourceError`."""
    with memory_for(context, compression):
        return spool.append(context, decompress(pieces_of(context, region, place), compression, place))


def pieces_of(context: Context, region: Region, place: str) -> Callable[[int], bytes]:
    """A function that returns the region's next bytes: at most as many as it is asked for, none at the end.

    It raises :class:`SourceError`, and what ``context`` raises.
    """
    position, end = region.offset, region.offset + region.size

    def read(count: int) -> bytes:
        nonlocal position
        context.check()  # gigabytes can be compressed so that they yield nothing, where no other check is reached
        data = read_fully(region.number, position, min(count, end - position), place)
        position += len(data)
        return data

    return read


def read_fully(number: int, offset: int, count: int, place: str) -> bytes:
    """``count`` bytes of a file from ``offset`` on; fewer only at its end. Raises :class:`SourceError`."""
    try:
        data = os.pread(number, count, offset)
        while len(data) < count and (more := os.pread(number, count - len(data), offset + len(data))):
            data += more
    except OSError as error:
        raise unreadable(place, offset, error) from error
    return data
