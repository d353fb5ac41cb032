"""Opening local images: where policy knows them to be, and below a directory without following a link on the way.

Whoever wrote an image may have put anything into its directory. A symbolic link there would lead to a file that is none
of the image's, and opening a FIFO would wait for its writer: so no link is followed, and only directories and regular
files are opened. Must not know any format. Spec: open(2), O_NOFOLLOW.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from container_image_proxy.config.obstacle import PASSING, find_obstacle
from container_image_proxy.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
FILE: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: opening a FIFO must not wait for its writer
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM})
_LINK: Final = frozenset({errno.ELOOP, errno.ENOTDIR})  # open(2), O_NOFOLLOW, of a file and of a directory


def failure_at(place: str, reason: str, error: OSError) -> SourceError:
    """The error for a local image at ``place`` that cannot be read. It is retryable if what is in the way may pass."""
    return SourceError(reason, endpoint=place, retryable=error.errno in PASSING)


def open_place(path: str, place: str, flags: int, what: str) -> int:
    """A descriptor of what is at ``path``: of a regular file with the flags ``FILE``, else of a directory.

    ``place`` is where the path led when the reference was read, by which policy knows the image. ``what`` says in words
    what it is. Raises :class:`SourceError`, also if the path leads elsewhere now.
    """
    try:
        number = os.open(path, flags)
    except OSError as error:
        obstacle = find_obstacle(Path(path), error)
        remedy = f" ({obstacle.remedy})" if obstacle.remedy else ""
        reason = f"there is no {what} to be read at {path}: {obstacle.reason}{remedy}"
        raise failure_at(place, reason, error) from error
    reason = ""
    if flags == FILE and not stat.S_ISREG(os.fstat(number).st_mode):
        reason = f"{path} is not a regular file"
    elif os.path.realpath(path) != place:  # a link on the way was changed: policy was asked about another image
        reason = f"{path} led to {place} when the configuration was read, and does no more: reload"
    if reason:
        os.close(number)
        raise SourceError(reason, endpoint=place)
    return number


def open_beneath(root: int, components: tuple[str, ...], flags: int = FILE) -> int:
    """A descriptor of what lies at ``components`` below the directory with the descriptor ``root``.

    With the default ``flags`` it is a regular file. Raises ``OSError``.
    """
    current = os.dup(root)
    try:
        # O_NOFOLLOW is about the last component of a path alone, so each one is opened by itself.
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


def read_bounded(
    number: int, limit: int, take: Callable[[int], object], failure: Callable[[OSError], SourceError]
) -> bytes:
    """The content of a file. Of a larger one a byte more than ``limit`` is returned, so that its parser refuses it.

    ``take`` is called with the number of bytes before they are read. ``failure`` makes our error of an ``OSError``. The
    descriptor is closed.
    """
    with os.fdopen(number, "rb") as file:
        size = min(os.fstat(number).st_size, limit) + 1
        take(size)  # not in the block below: it may raise TimeoutError, which is an OSError, and not the file's
        try:
            return file.read(size)
        except OSError as error:
            raise failure(error) from error


def explain(
    root: Path, components: tuple[str, ...], error: OSError, what: str, remedy: str | None = None
) -> SourceError:
    """The error for what lies below ``root`` and cannot be opened or read. ``what`` says in words what ``root`` holds.

    ``remedy`` is what to do if permission is missing; by default to change modes.
    """
    place = root.joinpath(*components)
    obstacle = find_obstacle(place, error)
    below = (one for one in (*reversed(place.parents), place) if one != root and one.is_relative_to(root))
    if error.errno in _LINK and (link := next((one for one in below if one.is_symlink()), None)) is not None:
        reason = f"{link} is a symbolic link, which is not followed"
    elif error.errno in PASSING:
        reason = f"{place}: {obstacle.reason}"
    elif error.errno in _DENIED:
        remedy = remedy or obstacle.remedy
        reason = f"the {what} cannot be read: {place}: {obstacle.reason}" + (f" ({remedy})" if remedy else "")
    else:
        reason = f"the {what} is broken: {place}: {obstacle.reason}"
    return failure_at(str(root), reason, error)
