"""The locks of a store, taken for reading, for as long as a list of it is read (fcntl(2), "Advisory record locking").

podman and its kin lock ``images.lock`` and ``layers.lock`` as a whole, for writing while they change the lists beside
them. Our lock is one of an *open file description*: it counts against theirs, and two threads that read at once do not
take it from each other. Taking it needs no right to write.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import UpstreamTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from container_image_proxy.concurrency.context import Context

PATIENCE: Final = 30.0
"""Seconds. podman holds the lock of the layers while it unpacks one."""
_PAUSE: Final = 0.05
_FLOCK: Final = "hhqqi4x"  # struct flock: type, whence, start, length (0: to the end), pid


@contextmanager
def locked(number: int | None, path: Path, context: Context) -> Iterator[None]:
    """Hold the lock file for reading meanwhile, and close its descriptor ``number``; ``path`` is for errors.

    None: there is no such file, on a medium to which nobody writes. :class:`UpstreamTimeoutError` if somebody else has
    it for too long.
    """
    if number is None:
        yield
        return
    try:
        _wait(number, path, context.within(PATIENCE))
        yield
    finally:
        os.close(number)  # and with it the lock


def _wait(number: int, path: Path, context: Context) -> None:
    while not _take(number):
        try:
            context.sleep(_PAUSE)
        except TimeoutError as error:
            raise UpstreamTimeoutError(
                f"{path} stays locked by another program{_holder(number)}", endpoint=str(path.parent), retryable=True
            ) from error


def _take(number: int) -> bool:
    try:
        fcntl.fcntl(number, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        if error.errno not in {errno.EAGAIN, errno.EACCES}:
            raise
        return False
    return True


def _holder(number: int) -> str:
    """Who has the lock, as far as the kernel tells: it does of processes in our namespace."""
    asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    pid = struct.unpack(_FLOCK, fcntl.fcntl(number, fcntl.F_OFD_GETLK, asked))[4]
    return f" (process {pid})" if pid > 0 else ""
