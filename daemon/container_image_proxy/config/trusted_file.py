"""Reading one configuration file, safely: opened once, judged by ``fstat``, never longer than its limit.

Because the file is opened once and read whole, a reader sees the old or the new version of a file that is replaced
atomically, never a mixture, and nobody can put another file in place between check and use. This module knows nothing
of what is inside.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from typing import TYPE_CHECKING, Final

from container_image_proxy.config.obstacle import unreadable
from container_image_proxy.config.once import warn_once
from container_image_proxy.errors import ConfigurationError, UnreadableFileError

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)
_OPEN_FLAGS: Final = (
    os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
)  # a FIFO must not make us wait for its writer
# What is wrong with this process at the moment, and not with the file.
_PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})
_DEV_NULL: Final = os.makedev(1, 3)
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
_READABLE_BY_OTHERS: Final = stat.S_IRGRP | stat.S_IROTH


def load_trusted_file(
    path: Path, *, limit: int, refuse_writable_by_others: bool = False, secret: bool = False
) -> bytes:
    """The whole content of a regular file (or ``/dev/null``) of at most ``limit`` bytes.

    A file that other users could have written (group- or world-writable, or owned by neither root nor us) is refused if
    ``refuse_writable_by_others``, otherwise a warning is logged, once; so it is for a ``secret`` that others can read.
    :class:`ConfigurationError` for everything that stands in the way, absence included; :class:`UnreadableFileError`
    if nothing of the file could be read.
    """
    try:
        return _load(path, limit, refuse_writable_by_others, secret)
    except OSError as error:
        raise _explained(path, error) from error


def load_trusted_file_if_present(
    path: Path, *, limit: int, refuse_writable_by_others: bool = False, secret: bool = False
) -> bytes | None:
    """Like :func:`load_trusted_file`, but None if there is no such file. One that cannot be read is still an error."""
    try:
        return _load(path, limit, refuse_writable_by_others, secret)
    except (
        FileNotFoundError
    ):  # most hosts lack most of these files, and looking for what hides them takes a millisecond
        return None
    except OSError as error:
        raise _explained(path, error) from error


def load_trusted_file_if_readable(path: Path, *, limit: int, remedy: str, secret: bool = False) -> bytes | None:
    """Like :func:`load_trusted_file_if_present`, for a place where the file may be somebody else's: one that cannot be
    read counts as absent. A warning says so, once, and ``remedy``, what to do if it is wanted here.
    """
    try:
        return load_trusted_file_if_present(path, limit=limit, secret=secret)
    except UnreadableFileError as error:
        warn_once(_log, f"{path}: {error.reason}; it counts as absent ({remedy})")
        return None


def _load(path: Path, limit: int, refuse: bool, secret: bool) -> bytes:  # noqa: FBT001 - for the functions above
    """See :func:`load_trusted_file`; ``OSError`` if the file cannot be opened or read."""
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, _OPEN_FLAGS)) as file:
            _check(path, os.fstat(file.fileno()), refuse=refuse, secret=secret)
            content = file.read(limit + 1)
    except ValueError as error:
        raise ConfigurationError(str(path), "cannot be read: not a possible file name") from error
    if len(content) > limit:
        raise ConfigurationError(str(path), f"larger than {limit} bytes")
    return content


def _explained(path: Path, error: OSError) -> ConfigurationError:
    if error.errno in _PASSING:
        return ConfigurationError(str(path), f"cannot be read: {error.strerror}")
    return unreadable(path, error)


def _check(path: Path, status: os.stat_result, *, refuse: bool, secret: bool) -> None:
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == _DEV_NULL:
        return
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableFileError(str(path), "is not a regular file")
    complaint = _complain_of_writers(status)
    if complaint and refuse:
        raise ConfigurationError(str(path), complaint, remedy=f"chown root {path} && chmod go-w {path}")
    if complaint:
        warn_once(_log, f"{path}: {complaint}")
    if secret and status.st_mode & _READABLE_BY_OTHERS:
        warn_once(_log, f"{path}: holds credentials and other users can read it (chmod 600 {path})")


def _complain_of_writers(status: os.stat_result) -> str | None:
    if status.st_uid not in {0, os.geteuid()}:
        return f"belongs to uid {status.st_uid}, which is neither root nor the daemon's own"
    if status.st_mode & _WRITABLE_BY_OTHERS:
        return f"other users can write to it (mode {stat.S_IMODE(status.st_mode):04o})"
    return None
