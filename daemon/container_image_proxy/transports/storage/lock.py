"""The locks of a store, each taken for reading while a list beside it is read (fcntl(2), "Advisory record locking").

podman and its kin lock ``images.lock`` and ``layers.lock`` as a whole, for writing while they change the lists.
Our lock is one of an *open file description* (``F_OFD_SETLK``). It counts against theirs. Locks of a process would not
do: they end when any thread closes the file. A lock for reading needs no right to write.
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
"""Seconds. podman holds the lock of the layers while it unpacks one, which may take long."""
_PAUSE: Final = 0.05
_FLOCK: Final = "hhqqi4x"  # struct flock: type, whence, start, length, pid
_WHOLE_FILE: Final = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)  # the length 0 is up to the end


@contextmanager
def locked(number: int | None, path: Path, context: Context) -> Iterator[None]:
    """Hold the lock for reading meanwhile. ``number`` is a descriptor of the lock file, and is closed.

    It is None if there is no lock file, as on a medium to which nobody writes: then nothing is locked. ``path`` is for
    errors. Raises :class:`UpstreamTimeoutError` if another program has the lock for more than ``PATIENCE``.
    """
    if number is None:
        yield
        return
    try:
        _take(number, path, context.within(PATIENCE))
        yield
    finally:
        os.close(number)  # and with it the lock


def _take(number: int, path: Path, context: Context) -> None:
    while True:
        try:
            fcntl.fcntl(number, fcntl.F_OFD_SETLK, _WHOLE_FILE)
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EACCES}:
                raise
        else:
            return
        try:
            # Asking again and again, and not F_OFD_SETLKW, which the end of a context could not interrupt.
            context.sleep(_PAUSE)
        except TimeoutError as error:
            raise UpstreamTimeoutError(
                f"{path} stays locked by another program{_holder(number)}", endpoint=str(path.parent), retryable=True
            ) from error


def _holder(number: int) -> str:
    """Which process has the lock; empty if it is in another PID namespace, or has a lock of our kind."""
    pid = struct.unpack(_FLOCK, fcntl.fcntl(number, fcntl.F_OFD_GETLK, _WHOLE_FILE))[4]
    return f" (process {pid})" if pid > 0 else ""
