"""The files of a layer, opened by the names that its tar has for them. No name leads out of the layer's directory.

A tar may make ``lib`` a symbolic link to ``usr/lib``, and then name files in ``lib``. Such a link in the place of a
directory is followed as by a process that has the layer's directory as its root. The last component is never followed,
and must be a regular file.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import Final

from container_image_proxy.transports.beneath import DIRECTORY, FILE

_MAX_LINKS: Final = 40  # as many as the kernel follows, path_resolution(7)


class LayerFiles:
    """The files below ``root``, a descriptor that it owns. One thread uses it.

    The directory of the last file stays open, because the next file in a tar is mostly in the same one.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._names: list[bytes] = []
        self._directory = os.dup(root)

    def open(self, name: bytes) -> int:
        """A descriptor of the regular file ``name``, to be read. Raises ``OSError``."""
        if b"\0" in name:
            raise OSError(errno.EINVAL, "no possible name of a file")
        *names, last = _components(name) or [b"."]  # the root itself, which is no regular file
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
        """A descriptor of the directory. Each link is replaced by its target, and the search begins anew."""
        # openat2(2) with RESOLVE_IN_ROOT does this in one call, which Python has no access to.
        for _ in range(_MAX_LINKS + 1):
            current = os.dup(self._root)
            for position, name in enumerate(names):
                above = current
                try:
                    current = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
                except OSError:
                    target = _read_link(name, above)
                    if target is None:
                        raise
                    # What was passed has no links, so that ".." in the target leads to what stands before it.
                    passed = b"" if target.startswith(b"/") else b"/".join(names[:position]) + b"/"
                    names = [*_components(passed + target), *names[position + 1 :]]
                    break
                finally:
                    os.close(above)
            else:
                return current
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _read_link(name: bytes, directory: int) -> bytes | None:
    """Where a link leads; None for anything else."""
    with suppress(OSError):
        return os.readlink(name, dir_fd=directory)
    return None


def _components(name: bytes) -> list[bytes]:
    """The names of a path below the root, above which ``..`` does not lead."""
    return [one for one in os.path.normpath(b"/" + name).split(b"/") if one]
