"""Finds out why this process cannot read a file (contrib/adr/0016).

The kernel reports "Permission denied" without the directory that denied it. This module looks at modes, and at the
process's mounts, by which a unit's sandbox hides parts of the host (systemd.exec(5)). Whether a file that cannot be
read is an error is decided by the callers.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import shlex
import stat
from pathlib import Path
from typing import Final

from msgspec import Struct

from container_image_proxy.errors import UnreadableFileError

ABSENT: Final = (FileNotFoundError, NotADirectoryError)
"""What says that there is no such file. Below what is no directory there cannot be one, as where HOME is /dev/null."""
PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.ESTALE})
"""Errors of this process, or of a network file system, at the moment, and not of the file: they may pass."""
_MOUNTS: Final = Path("/proc/self/mountinfo")
_HOMES: Final = frozenset({"/home", "/root", "/run/user"})  # hidden by ProtectHome=
_TEMPORARY: Final = frozenset({"/tmp", "/var/tmp"})  # noqa: S108 - hidden by PrivateTmp=
# PrivateTmp=yes mounts a directory of the host's /tmp with this name; PrivateTmp=disconnected mounts a tmpfs.
_PRIVATE_TMP: Final = "/systemd-private-"
_APART: Final = frozenset(" \t\n:\\\"'")  # what would end a path in a unit file, or mean something else
_BITS: Final = {
    "ur": stat.S_IRUSR, "ux": stat.S_IXUSR, "gr": stat.S_IRGRP, "gx": stat.S_IXGRP, "or": stat.S_IROTH,
    "ox": stat.S_IXOTH,
}  # fmt: skip
_OCTAL: Final = re.compile(r"\\([0-7]{3})")  # how mountinfo escapes spaces and other characters


class Obstacle(Struct, frozen=True):
    """Why a file cannot be read, and what to do about it if that is known."""

    reason: str
    remedy: str | None = None


class _Mount(Struct, frozen=True):
    """A line of /proc/self/mountinfo (proc_pid_mountinfo(5)).

    ``root`` is the directory of the file system that is mounted at ``point``; ``kind`` is the file system's type.
    """

    root: str
    point: str
    kind: str

    @property
    def is_inaccessible(self) -> bool:
        """Whether this is the empty directory that systemd mounts over a directory to hide it."""
        return self.root.endswith("/systemd/inaccessible/dir")


def unreadable(path: Path, error: OSError) -> UnreadableFileError:
    """The error to raise for a configuration file or directory that could not be opened or listed."""
    obstacle = find_obstacle(path, error)
    return UnreadableFileError(str(path), f"cannot be read: {obstacle.reason}", remedy=obstacle.remedy)


def find_obstacle(path: Path, error: OSError) -> Obstacle:
    """The reason for ``error``, which opening or listing ``path`` raised."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return _explain_denial(path, os.strerror(error.errno))
    reason = error.strerror or str(error)
    if error.errno == errno.ENOENT and (hidden := _explain_absence(path)):
        return Obstacle(f"{reason}: {hidden.reason}", hidden.remedy)
    if error.errno == errno.ENOENT and (link := find_dangling_link(path)):
        return Obstacle(f"{reason}: {link} is a link that leads nowhere", f"rm {shlex.quote(str(link))}, or mend it")
    return Obstacle(reason)


def find_dangling_link(path: Path) -> Path | None:
    """The link on the way to ``path`` that leads nowhere; None if there is none.

    Such a link does not make a file absent that restricts: somebody wants the file to count, and what it would say is
    not known.
    """
    for place in (*reversed(path.parents), path):
        try:
            if place.is_symlink():
                place.stat()
        except ABSENT:
            return place
        except OSError:  # a closed directory, a loop: it is not known where it leads
            return None
    return None


def file_system_of(path: Path) -> str:
    """The type of the file system that ``path`` is on, as mount(8) names it; "" if /proc is missing."""
    mount = _mount_of(Path(os.path.realpath(path)))
    return mount.kind if mount is not None else ""


def describe_user(uid: int) -> str:
    """``uid N (name)``, or ``uid N`` for a user without a name."""
    try:
        return f"uid {uid} ({pwd.getpwuid(uid).pw_name})"
    except KeyError:
        return f"uid {uid}"


def _explain_denial(path: Path, reason: str) -> Obstacle:
    """What denies access to ``path``: a mount of the unit's sandbox, or else the mode of a file or directory."""
    real = Path(os.path.realpath(path))
    closed = _closed_place(real)
    mount = _mount_of(closed)
    if mount is not None and mount.point in _HOMES and (mount.is_inaccessible or mount.kind == "tmpfs"):
        return Obstacle(f"{reason}: ProtectHome= of the unit hides {mount.point}", _show_home(path, mount.point))
    if mount is not None and mount.is_inaccessible:
        return Obstacle(f"{reason}: InaccessiblePaths= of the unit hides {mount.point}")
    try:
        status = closed.stat()
    except OSError:  # gone meanwhile
        return Obstacle(reason)
    mode = stat.S_IMODE(status.st_mode)
    what = f"{closed} (mode {mode:04o}, of uid {status.st_uid}) is closed to {describe_user(os.geteuid())}"
    needed = "x" if closed != real else "rx" if stat.S_ISDIR(status.st_mode) else "r"
    whose = _permission_class(status)
    if all(mode & _BITS[whose + one] for one in needed):
        return Obstacle(f"{reason}: {what}, though not by its mode")  # by an access list or a security module
    return Obstacle(f"{reason}: {what}", f"chmod {whose}+{needed} {shlex.quote(str(closed))}")


def _show_home(path: Path, home: str) -> str:
    # Since systemd 255 the empty /root that ProtectHome=tmpfs mounts is closed to other users, as the real one is.
    passable = "TemporaryFileSystem=/root:ro, " if home == "/root" else ""
    return f"a drop-in with ProtectHome=tmpfs, {passable}{_bind(path)} shows it"


def _bind(path: Path) -> str:
    """The setting that shows ``path`` in a unit's sandbox, as a unit file has it (systemd.syntax(7))."""
    value = f"-{path}".replace("%", "%%")
    if set(value) & _APART:
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"BindReadOnlyPaths={value}"


def _permission_class(status: os.stat_result) -> str:
    """The part of a mode that applies to this process: "u", "g" or "o", as in chmod(1)."""
    if status.st_uid == os.geteuid():
        return "u"
    return "g" if status.st_gid in (os.getegid(), *os.getgroups()) else "o"


def _closed_place(path: Path) -> Path:
    """The first directory on the way to ``path`` that may not be searched, or ``path`` itself."""
    # lstat() of a name needs the right to search the directory above it, and nothing else.
    for place in (*reversed(path.parents), path):
        try:
            place.lstat()
        except OSError:
            return place.parent
    return path


def _explain_absence(path: Path) -> Obstacle | None:
    """The mount of the unit's sandbox that makes ``path`` look absent; None if there is none."""
    place = Path(os.path.realpath(path))
    while not os.path.lexists(place):
        place = place.parent
    mount = _mount_of(place)
    if mount is None:
        return None
    if mount.point in _HOMES and mount.kind == "tmpfs":
        reason = f"{mount.point} is an empty file system, as ProtectHome=tmpfs mounts it"
        return Obstacle(reason, _show_home(path, mount.point))
    if _PRIVATE_TMP in mount.root or (mount.point in _TEMPORARY and mount.root != "/" and mount.kind == "tmpfs"):
        remedy = f"keep it elsewhere, or show it by a drop-in with {_bind(path)}"
        return Obstacle(f"PrivateTmp= of the unit hides the host's {mount.point}", remedy)
    return None


def _mount_of(path: Path) -> _Mount | None:
    """The mount that ``path`` is on: the last of those with the longest mount point."""
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:  # no /proc here
        return None
    mounts = (_parse_mount(line) for line in lines)
    holding = [mount for mount in mounts if path.is_relative_to(mount.point)]
    return max(reversed(holding), key=lambda mount: len(mount.point), default=None)


def _parse_mount(line: str) -> _Mount:
    fields = line.split(" ")
    root, point = (_OCTAL.sub(lambda match: chr(int(match[1], 8)), field) for field in fields[3:5])
    return _Mount(root, point, fields[fields.index("-") + 1])
