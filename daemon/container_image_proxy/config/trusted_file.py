"""Reads one configuration file safely: opened once, checked by ``fstat``, and never more bytes than a limit.

The checks are about the open file, so that nobody can replace it between check and use. A file that is replaced
atomically is read in its old or its new version, never in a mixture.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from typing import TYPE_CHECKING, Final

from container_image_proxy.config.obstacle import ABSENT, PASSING, find_dangling_link, unreadable
from container_image_proxy.config.once import warn_once
from container_image_proxy.errors import ConfigurationError, UnreadableFileError

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)
# O_NONBLOCK: opening a FIFO must not wait for its writer. O_NOCTTY: a terminal must not become the daemon's.
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_DEV_NULL: Final = os.makedev(1, 3)
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
_READABLE_BY_OTHERS: Final = stat.S_IRGRP | stat.S_IROTH


def load_trusted_file(
    path: Path, *, limit: int, refuse_writable_by_others: bool = False, secret: bool = False, if_denied: str = ""
) -> bytes:
    """The whole content of a regular file, or of /dev/null, of at most ``limit`` bytes.

    A file that other users can write (by its mode, or because it belongs neither to root nor to the daemon's user) is
    refused with ``refuse_writable_by_others``, and otherwise causes a warning. So does a ``secret`` that others can
    read. :class:`ConfigurationError` if the file is refused or too large, :class:`UnreadableFileError` if it is absent
    or cannot be read. ``if_denied`` is the remedy for a secret that this process may not read: to open it to everybody
    is none.
    """
    try:
        return _load(path, limit, refuse_writable_by_others, secret)
    except PermissionError as error:
        explained = _explained(path, error)
        raise type(explained)(str(path), explained.reason, remedy=if_denied or explained.remedy) from error
    except OSError as error:
        raise _explained(path, error) from error


def load_trusted_file_if_present(
    path: Path, *, limit: int, refuse_writable_by_others: bool = False, secret: bool = False, restricts: bool = False
) -> bytes | None:
    """As :func:`load_trusted_file`, but None if there is no such file.

    A file that ``restricts`` is absent below what is no directory, too; a link that leads nowhere is an error.
    """
    try:
        return _load(path, limit, refuse_writable_by_others, secret)
    except OSError as error:
        # Most hosts lack most of these files. To find out whether a sandbox hides one would take a millisecond each.
        if isinstance(error, ABSENT if restricts else FileNotFoundError) and not (
            restricts and find_dangling_link(path)
        ):
            return None
        raise _explained(path, error) from error


def load_trusted_file_if_readable(path: Path, *, limit: int, remedy: str, secret: bool = False) -> bytes | None:
    """As :func:`load_trusted_file_if_present`, but a file that cannot be read counts as absent (contrib/adr/0016).

    This is for default places, where the file may be meant for other users. A warning tells the reason and ``remedy``,
    which is what to do if the file is meant for this daemon.
    """
    try:
        return load_trusted_file_if_present(path, limit=limit, secret=secret)
    except UnreadableFileError as error:
        warn_once(_log, f"{path}: {error.reason}; it counts as absent ({remedy})")
        return None


def _load(path: Path, limit: int, refuse: bool, secret: bool) -> bytes:  # noqa: FBT001 - for the functions above
    """As :func:`load_trusted_file`, but ``OSError`` if the file cannot be opened or read."""
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, _OPEN_FLAGS)) as file:
            _check(path, os.fstat(file.fileno()), refuse=refuse, secret=secret)
            content = file.read(limit + 1)  # not as much as fstat says: the file may grow meanwhile
    except ValueError as error:
        raise ConfigurationError(str(path), "cannot be read: not a possible file name") from error
    if len(content) > limit:
        raise ConfigurationError(str(path), f"larger than {limit} bytes")
    return content


def _explained(path: Path, error: OSError) -> ConfigurationError:
    if error.errno in PASSING:
        return ConfigurationError(str(path), f"cannot be read: {error.strerror}")
    return unreadable(path, error)


def _check(path: Path, status: os.stat_result, *, refuse: bool, secret: bool) -> None:
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == _DEV_NULL:  # the usual way to name an empty file
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
