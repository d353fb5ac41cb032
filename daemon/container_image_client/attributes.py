"""Owner, mode, extended attributes and time of what was made for a member, as far as this user and file system can.

What cannot be kept is counted, and is no error: only root can give files away, and not every file system has
attributes. It must not open anything by a path from an archive.
Spec: chown(2), "ERRORS" and setuid bits; user_namespaces(7), where root is not every user's root.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from typing import TYPE_CHECKING, Final

from container_image_client import tar
from container_image_client.errors import WrongContentError
from container_image_client.names import shown

if TYPE_CHECKING:
    from container_image_client.tar import Member

OWNERS: Final = "owners"
SETUID: Final = "setuid and setgid bits"
DEVICES: Final = "devices"
XATTRS: Final = "extended attributes"

NOT_HERE: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EINVAL})
"""What says that this user, or this file system, cannot have something; anything else is an error."""
_MAX_TIME: Final = (1 << 63) - 1  # nanoseconds that the kernel can be told
_NO_ID: Final = (1 << 32) - 1  # to chown(2) it means "leave it"
_PRIVILEGES: Final = stat.S_ISUID | stat.S_ISGID


class Attributes:
    """Sets attributes, and counts in ``left_out`` what was not kept."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self.is_root = os.geteuid() == 0
        self._own = (os.geteuid(), os.getegid())

    def set_on_file(self, member: Member, descriptor: int) -> None:
        """All attributes of an open file."""
        # In this order: a change of owner takes setuid bits and capabilities away.
        os.fchmod(descriptor, self.set_owner(member, descriptor))
        self.set_xattrs(member, descriptor)
        time = time_of(member)
        os.utime(descriptor, ns=(time, time))

    def set_on_entry(self, member: Member, parent: int, name: bytes) -> None:
        """All attributes of what is never opened: a link, device or FIFO in the directory ``parent``."""
        mode = self.set_owner(member, parent, name)
        if member.kind is not tar.SYMLINK:  # which has no mode of its own
            # No link is followed: it was just made, where nobody else can write.
            os.chmod(name, mode, dir_fd=parent)
        self.set_xattrs(member, parent, name)
        time = time_of(member)
        os.utime(name, ns=(time, time), dir_fd=parent, follow_symlinks=False)

    def set_owner(self, member: Member, descriptor: int, name: bytes | None = None) -> int:
        """Set the owner of what is open, or of an entry of the directory that is open. Gives the mode to set after it.

        Setuid bits of an owner that is another one here than in the image would be wrong.
        """
        if member.uid >= _NO_ID or member.gid >= _NO_ID:
            raise WrongContentError(f"{shown(member.name)} has an owner that no system can have")
        is_kept = self.is_root
        try:
            if not self.is_root:
                self.left_out[OWNERS] += (member.uid, member.gid) != self._own
            elif name is None:
                os.fchown(descriptor, member.uid, member.gid)
            else:
                os.chown(name, member.uid, member.gid, dir_fd=descriptor, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NOT_HERE:
                raise
            self.left_out[OWNERS] += 1
            is_kept = False
        if is_kept or not member.mode & _PRIVILEGES or member.kind is tar.SYMLINK:
            return member.mode
        self.left_out[SETUID] += 1
        return member.mode & ~_PRIVILEGES

    def set_xattrs(self, member: Member, descriptor: int, name: bytes | None = None) -> None:
        """Set the extended attributes of what is open, or of an entry of the directory that is open."""
        for key, value in member.xattrs.items():
            try:
                if not self.is_root:
                    raise PermissionError(errno.EPERM, key)
                if name is None:
                    os.setxattr(descriptor, key, value)
                else:
                    # There is no setxattrat(2); /proc leads to the very directory that is open.
                    os.setxattr(b"/proc/self/fd/%d/%s" % (descriptor, name), key, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
                self.left_out[XATTRS] += 1

    def remove_xattrs(self, descriptor: int) -> None:
        """Remove those that a directory has from a lower layer; a label of the system's is not the image's."""
        if self.is_root:
            for key in os.listxattr(descriptor):
                if key != "security.selinux":
                    os.removexattr(descriptor, key)


def time_of(member: Member) -> int:
    """The time of the last change that a file system can be told, in nanoseconds."""
    return max(-_MAX_TIME, min(_MAX_TIME, member.mtime_ns))
