"""The files of a layer, by the names that its tar has for them. No name leads out of the layer's directory.

A directory of the layer can be a symbolic link (``lib`` to ``usr/lib``) that the tar's later names go through. It is
followed as by a process that has the layer's directory as its root. Nothing that is opened is a link or anything but a
regular file.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from container_image_proxy.transports.beneath import DIRECTORY, FILE

_MAX_LINKS: Final = 40  # as many as the kernel follows, path_resolution(7)


class LayerFiles:
    """Opens files below ``root``, a descriptor that it owns. Holds the directory of the last file open: tars go through
    one directory after the other.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._names: list[bytes] = []
        self._directory = os.dup(root)

    def open(self, name: bytes) -> int:
        """A descriptor of the regular file ``name``, to be read. Raises ``OSError``."""
        if b"\0" in name:
            raise OSError(errno.EINVAL, "no possible name of a file")
        *names, last = _components(name) or [b"."]
        if names != self._names:
            directory = self._find(names)
            os.close(self._directory)
            self._directory, self._names = directory, names
        number = os.open(last, FILE | os.O_NOFOLLOW, dir_fd=self._directory)
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise OSError(errno.EINVAL, "not a regular file")
        return number

    def close(self) -> None:
        """Close the directories."""
        os.close(self._directory)
        os.close(self._root)

    def _find(self, names: list[bytes]) -> int:
        """A descriptor of the directory."""
        for _ in range(_MAX_LINKS + 1):
            current, passed = os.dup(self._root), 0
            try:
                for name in names:
                    current, above = _step(current, name), current
                    os.close(above)
                    passed += 1
            except _LinkError as link:
                os.close(current)
                names = _resolve(names[:passed], link.target, names[passed + 1 :])
            except BaseException:
                os.close(current)
                raise
            else:
                return current
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


class _LinkError(Exception):
    """A symbolic link where a directory was looked for."""

    def __init__(self, target: bytes) -> None:
        self.target = target


def _step(directory: int, name: bytes) -> int:
    try:
        return os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
            raise
        try:
            target = os.readlink(name, dir_fd=directory)
        except OSError:
            raise error from None  # it is no link
    raise _LinkError(target)


def _resolve(parents: list[bytes], target: bytes, rest: list[bytes]) -> list[bytes]:
    """The path that is meant. ``parents`` are no links, so that ``..`` leads from them to what stands before."""
    start = b"" if target.startswith(b"/") else b"/".join(parents) + b"/"
    return [*_components(start + target), *rest]


def _components(name: bytes) -> list[bytes]:
    """The names of a path below the root, above which ``..`` does not lead."""
    return [one for one in os.path.normpath(b"/" + name).split(b"/") if one]
