"""Opening files below a directory without following a link on the way, because local images are not trusted.

Only a regular file or a directory is opened. Anything else (a FIFO, a device) is neither waited for nor read.
Must not know any format. Spec: open(2), O_NOFOLLOW.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from container_image_proxy.config.obstacle import find_obstacle
from container_image_proxy.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
FILE: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: opening a FIFO must not wait for its writer
PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})
"""Errors of this process at the moment, and not of the file: they may pass."""
DENIED: Final = frozenset({errno.EACCES, errno.EPERM})
_LINK: Final = frozenset({errno.ELOOP, errno.ENOTDIR})  # open(2), O_NOFOLLOW, of a file and of a directory


def open_beneath(root: int, components: tuple[str, ...], flags: int = FILE) -> int:
    """A descriptor of what lies at ``components`` below the directory with the descriptor ``root``.

    With the default ``flags`` it is a regular file. Raises ``OSError``.
    """
    current = os.dup(root)
    try:
        for name in components[:-1]:
            current, above = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=current), current
            os.close(above)
        number = os.open(components[-1], flags | os.O_NOFOLLOW, dir_fd=current)
    finally:
        os.close(current)
    if flags == FILE and not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "is not a regular file")
    return number


def explain(
    root: Path, components: tuple[str, ...], error: OSError, what: str, remedy: str | None = None
) -> SourceError:
    """The error for what lies below ``root`` and cannot be opened or read. ``what`` says in words what ``root`` holds.

    ``remedy`` is what to do if permission is missing; by default to change modes.
    """
    place = root.joinpath(*components)
    if error.errno in _LINK:
        below = (one for one in (*reversed(place.parents), place) if one != root and one.is_relative_to(root))
        link = next((one for one in below if one.is_symlink()), None)
        if link is not None:
            return SourceError(f"{link} is a symbolic link, which is not followed", endpoint=str(root))
    obstacle = find_obstacle(place, error)
    if error.errno in PASSING:
        return SourceError(f"{place}: {obstacle.reason}", endpoint=str(root), retryable=True)
    if error.errno in DENIED:
        remedy = remedy or obstacle.remedy
        advice = f" ({remedy})" if remedy else ""
        return SourceError(f"the {what} cannot be read: {place}: {obstacle.reason}{advice}", endpoint=str(root))
    return SourceError(f"the {what} is broken: {place}: {obstacle.reason}", endpoint=str(root))
