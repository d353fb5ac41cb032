"""Directories beneath one descriptor: reached component by component, following no link.

`Walk` keeps the descriptors on the way to the directory that is being filled, since an archive's members come in the
order of its directories. A directory that was changed gets its time back when the walk leaves it, and its mode, which
may be one that forbids its owner to write. It must know nothing of archives. Spec: openat(2), O_NOFOLLOW.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from container_image_client.errors import WrongContentError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Each level costs a descriptor, of which a process usually has 1024. The deepest paths of real images have about 40.
_MAX_DEPTH: Final = 500
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITABLE: Final = stat.S_IRWXU


class NotADirectoryHereError(Exception):
    """A component of a path is something else than a directory. ``depth`` says which, counted from 1."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth)
        self.depth = depth


class _Level:
    """A directory on the way; ``mode`` is what it gets when the walk leaves it, if it must get one."""

    __slots__ = ("descriptor", "mode", "mtime_ns", "name")

    def __init__(self, name: bytes, descriptor: int) -> None:
        self.name = name
        self.descriptor = descriptor
        status = os.fstat(descriptor)
        self.mtime_ns = status.st_mtime_ns
        self.mode: int | None = None
        if status.st_mode & _WRITABLE != _WRITABLE and os.geteuid() != 0:
            self.mode = stat.S_IMODE(status.st_mode)
            os.fchmod(descriptor, self.mode | _WRITABLE)

    def leave(self) -> None:
        try:
            if self.mode is not None:
                os.fchmod(self.descriptor, self.mode)
            os.utime(self.descriptor, ns=(self.mtime_ns, self.mtime_ns))
        finally:
            os.close(self.descriptor)


class Walk:
    """The way from the root, whose descriptor the caller keeps, to the directory entered last."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._levels: list[_Level] = []
        self._path: Sequence[bytes] | None = ()  # None while it is not known

    def enter(self, path: Sequence[bytes], *, create: bool = True) -> int:
        """The descriptor of this directory, until the next is entered.

        Missing ones are made. Without ``create`` they are a FileNotFoundError.
        """
        if path == self._path:
            return self._levels[-1].descriptor if self._levels else self._root
        verify_depth(path)
        common = 0
        for level, name in zip(self._levels, path, strict=False):
            if level.name != name:
                break
            common += 1
        self._leave_to(common)
        for depth, name in enumerate(path[common:], common + 1):
            self._levels.append(_Level(name, self._child(name, depth, create=create)))
        self._path = path
        return self._levels[-1].descriptor if self._levels else self._root

    def set_attributes(self, mode: int, mtime_ns: int) -> None:
        """What the directory entered last has when the walk has left it."""
        self._levels[-1].mode = mode
        self._levels[-1].mtime_ns = mtime_ns

    def leave(self) -> None:
        """Return to the root."""
        self._leave_to(0)
        self._path = ()

    def close(self) -> None:
        """Close the descriptors, whatever becomes of the directories."""
        self._path = ()
        while self._levels:
            os.close(self._levels.pop().descriptor)

    def _leave_to(self, depth: int) -> None:
        self._path = None
        while len(self._levels) > depth:
            self._levels.pop().leave()

    def _child(self, name: bytes, depth: int, *, create: bool) -> int:
        parent = self._levels[-1].descriptor if self._levels else self._root
        try:
            return open_directory(parent, name)
        except FileNotFoundError:
            if not create:
                raise
            os.mkdir(name, 0o755, dir_fd=parent)
            child = open_directory(parent, name)
            os.fchmod(child, 0o755)  # whatever the umask is
            return child
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise NotADirectoryHereError(depth) from None
            raise


def verify_depth(path: Sequence[bytes]) -> None:
    """Raise :class:`WrongContentError` for the path of a directory that lies too deep."""
    if len(path) > _MAX_DEPTH:
        raise WrongContentError(f"a path in the image is {len(path)} directories deep; {_MAX_DEPTH} are allowed")


def open_directory(parent: int, name: bytes) -> int:
    """A directory's descriptor; NotADirectoryError or ELOOP if it is something else, such as a link to one."""
    try:
        return os.open(name, _FLAGS, dir_fd=parent)
    except PermissionError:
        # Its owner may not read it, but may allow himself to. O_PATH needs no right to the directory, and /proc leads
        # to the very directory that it opened.
        handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            opened, mode = Path(f"/proc/self/fd/{handle}"), stat.S_IMODE(os.fstat(handle).st_mode)
            opened.chmod(mode | _WRITABLE)
            try:
                return os.open(name, _FLAGS, dir_fd=parent)
            finally:
                opened.chmod(mode)
        finally:
            os.close(handle)


def remove(parent: int, name: bytes) -> None:
    """Remove an entry, with all that is in it if it is a directory; nothing if there is none."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        directory = open_directory(parent, name)
        try:
            empty(directory)
        finally:
            os.close(directory)
        os.rmdir(name, dir_fd=parent)


def empty(directory: int) -> None:
    """Remove all that is in a directory, however deep."""
    levels: list[tuple[bytes, int, list[bytes]]] = [(b"", directory, _names_to_remove(directory))]
    try:
        while True:
            name, descriptor, names = levels[-1]
            if names:
                child = names.pop()
                try:
                    os.unlink(child, dir_fd=descriptor)
                except IsADirectoryError:
                    opened = open_directory(descriptor, child)
                    levels.append((child, opened, []))
                    levels[-1][2].extend(_names_to_remove(opened))
            elif len(levels) > 1:
                os.close(levels.pop()[1])
                os.rmdir(name, dir_fd=levels[-1][1])
            else:
                return
    finally:
        for _, descriptor, _ in levels[1:]:
            os.close(descriptor)


def names_in(directory: int) -> list[bytes]:
    """The names of a directory's entries, as bytes."""
    return [os.fsencode(name) for name in os.listdir(directory)]


def _names_to_remove(directory: int) -> list[bytes]:
    os.fchmod(directory, _WRITABLE)
    return names_in(directory)
