"""A root file system from the archives of an image's layers, made beneath one directory's descriptor.

Safe by construction: every name is created by openat(2) and its kin, relative to the descriptor of its parent, which
was opened component by component without following a link. So the text of a symbolic link is free, and nothing is
ever made outside. Whiteouts hide what lower layers have, never what their own layer has.
Owners, setuid bits, devices and extended attributes need root; what cannot be kept is counted.
It must not fetch anything, and the caller keeps other users out of the directory meanwhile.
Spec: OCI image-spec, layer.md; the layers come out as overlayfs shows them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from typing import TYPE_CHECKING, Final

from container_image_client import tar
from container_image_client.destination import write_all
from container_image_client.directories import NotADirectoryHereError, Walk, names_in, open_directory, remove
from container_image_client.errors import WrongContentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_client.tar import Member, TarReader

_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_OF_AUFS: Final = b".wh..wh."  # further names that mean nothing to anybody else
_FILE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_TIME: Final = (1 << 63) - 1  # nanoseconds that the kernel can be told
_NO_ID: Final = (1 << 32) - 1  # to chown(2) it means "leave it"
# What says that this user, or this file system, cannot have something; anything else is an error.
_NOT_HERE: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EINVAL})

OWNERS: Final = "owners"
SETUID: Final = "setuid and setgid bits"
DEVICES: Final = "devices"
XATTRS: Final = "extended attributes"


class Unpacker:
    """Applies layers, lowest first, to the directory with this descriptor. ``left_out`` counts what was not kept."""

    def __init__(self, root: int) -> None:
        self.left_out: Counter[str] = Counter()
        self._root = root
        self._walk = Walk(root)
        self._is_root = os.geteuid() == 0
        self._own = (os.geteuid(), os.getegid())
        self._root_attributes = (0o755, os.fstat(root).st_mtime_ns)
        # Paths that the layer at hand has, and the directories on the way to them. The first layer needs none: there is
        # nothing that its whiteouts could hide.
        self._of_this_layer: set[bytes] | None = None
        self._layers = 0
        self._makers: dict[str, Callable[[Member, TarReader, bytes, int], None]] = {
            tar.FILE: self._make_file,
            tar.HARD_LINK: self._make_hard_link,
            tar.SYMLINK: self._make_symlink,
            tar.DIRECTORY: self._make_directory,
            tar.FIFO: self._make_node,
            tar.CHARACTER_DEVICE: self._make_node,
            tar.BLOCK_DEVICE: self._make_node,
        }

    def apply(self, archive: TarReader) -> None:
        """One layer."""
        self._of_this_layer = set() if self._layers else None
        self._layers += 1
        try:
            for member in archive:
                self._apply(member, archive)
            self._walk.leave()
        finally:
            self._walk.close()

    def finish(self) -> None:
        """Give the root directory what the image says of it: until now it was closed to others."""
        mode, mtime_ns = self._root_attributes
        os.fchmod(self._root, mode)
        os.utime(self._root, ns=(mtime_ns, mtime_ns))

    def _apply(self, member: Member, archive: TarReader) -> None:
        path = path_of(member.name)
        if not path:
            self._set_root(member)
            return
        parents, name = path[:-1], path[-1]
        if is_whiteout(name):
            self._hide(parents, hidden_by(name))
            return
        parent = self._enter(parents)
        if self._of_this_layer is not None:
            self._of_this_layer.add(b"/".join(path))
        self._makers[member.kind](member, archive, name, parent)

    def _enter(self, path: list[bytes]) -> int:
        """The descriptor of a directory, which is made if it is missing.

        What a lower layer has in its place, such as a link to a directory, this layer hides.
        """
        while True:
            try:
                descriptor = self._walk.enter(path)
            except NotADirectoryHereError as error:
                obstacle = path[: error.depth]
                if self._of_this_layer is None or b"/".join(obstacle) in self._of_this_layer:
                    raise WrongContentError(
                        f"a layer has something below {shown(b'/'.join(obstacle))}, which is no directory in the same "
                        "layer; no link is followed here"
                    ) from None
                remove(self._walk.enter(obstacle[:-1]), obstacle[-1])
            else:
                self._note(path)
                return descriptor

    def _note(self, path: list[bytes]) -> None:
        """Directories on the way to what a layer has are its own, too."""
        if self._of_this_layer is not None:
            end = len(path)
            while end and (joined := b"/".join(path[:end])) not in self._of_this_layer:
                self._of_this_layer.add(joined)
                end -= 1

    def _set_root(self, member: Member) -> None:
        if member.kind is not tar.DIRECTORY:
            raise WrongContentError(f"a layer has a {member.kind} in place of the root directory")
        self._set_owner(member, self._root)
        self._set_xattrs(member, self._root)
        self._root_attributes = (self._mode_of(member), _time_of(member))

    # --- whiteouts ----------------------------------------------------------------------------------------------------

    def _hide(self, parents: list[bytes], hidden: bytes | None) -> None:
        """Remove what lower layers have and this one hides: an entry, or all of a directory's."""
        if self._of_this_layer is None or hidden is None:
            return
        try:
            parent = self._walk.enter(parents, create=False)
        except (FileNotFoundError, NotADirectoryHereError):
            return  # there is nothing below it
        if not hidden:
            self._hide_lower(parents)
        elif b"/".join([*parents, hidden]) not in self._of_this_layer:
            remove(parent, hidden)
        elif _is_directory(parent, hidden):
            self._hide_lower([*parents, hidden])

    def _hide_lower(self, path: list[bytes]) -> None:
        """Remove what is below a directory and not of this layer."""
        directory = self._walk.enter(path)  # it stays open while the walk is below it
        for name in names_in(directory):
            if b"/".join([*path, name]) not in (self._of_this_layer or ()):
                remove(directory, name)
            elif _is_directory(directory, name):
                self._hide_lower([*path, name])

    # --- kinds of members ---------------------------------------------------------------------------------------------

    def _make_file(self, member: Member, archive: TarReader, name: bytes, parent: int) -> None:
        try:
            descriptor = os.open(name, _FILE_FLAGS, 0o600, dir_fd=parent)
        except FileExistsError:
            remove(parent, name)
            descriptor = os.open(name, _FILE_FLAGS, 0o600, dir_fd=parent)
        try:
            if member.pieces is None:
                for view in archive.content():
                    write_all(descriptor, view)
            else:
                _write_pieces(descriptor, member, archive)
            # In this order: a change of owner takes setuid bits and capabilities away, and so does writing.
            self._set_owner(member, descriptor)
            os.fchmod(descriptor, self._mode_of(member))
            self._set_xattrs(member, descriptor)
            time = _time_of(member)
            os.utime(descriptor, ns=(time, time))
        finally:
            os.close(descriptor)

    def _make_directory(self, member: Member, _: TarReader, name: bytes, parent: int) -> None:
        is_new = True
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            is_new = not _is_directory(parent, name)
            if is_new:
                remove(parent, name)
                os.mkdir(name, 0o700, dir_fd=parent)
        descriptor = self._walk.enter(path_of(member.name))
        self._set_owner(member, descriptor)
        if not is_new:
            self._remove_xattrs(descriptor)
        self._set_xattrs(member, descriptor)
        self._walk.set_attributes(self._mode_of(member), _time_of(member))

    def _make_symlink(self, member: Member, _: TarReader, name: bytes, parent: int) -> None:
        if not member.target:
            raise WrongContentError(f"the symbolic link {shown(member.name)} leads to nothing: its text is empty")
        try:
            os.symlink(member.target, name, dir_fd=parent)
        except FileExistsError:
            remove(parent, name)
            os.symlink(member.target, name, dir_fd=parent)
        self._set_owner(member, parent, name)
        self._set_xattrs(member, parent, name)
        time = _time_of(member)
        os.utime(name, ns=(time, time), dir_fd=parent, follow_symlinks=False)

    def _make_hard_link(self, member: Member, _: TarReader, name: bytes, parent: int) -> None:
        """One more name of what this layer or a lower one has; owner and mode are that one's."""
        target = path_of(member.target)
        if not target:
            raise WrongContentError(f"the hard link {shown(member.name)} leads to the root directory")
        if target == path_of(member.name):
            return
        directory = -1
        try:
            directory = self._open_parent(target)
            try:
                os.link(target[-1], name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
            except FileExistsError:
                remove(parent, name)
                os.link(target[-1], name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EPERM):
                raise
            raise WrongContentError(
                f"the hard link {shown(member.name)} leads to {shown(member.target)}, "
                "which the image does not have as a file"
            ) from error
        finally:
            if directory >= 0:
                os.close(directory)

    def _open_parent(self, path: list[bytes]) -> int:
        """The descriptor of a path's directory; the walk stays where it is."""
        descriptor = os.dup(self._root)
        for name in path[:-1]:
            try:
                below = open_directory(descriptor, name)
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    def _make_node(self, member: Member, _: TarReader, name: bytes, parent: int) -> None:
        """A device or FIFO. Nothing ever opens it."""
        if member.kind is not tar.FIFO and not self._is_root:
            self.left_out[DEVICES] += 1
            remove(parent, name)
            return
        kind = {tar.FIFO: stat.S_IFIFO, tar.CHARACTER_DEVICE: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK}[member.kind]
        remove(parent, name)
        try:
            os.mknod(name, kind | 0o600, os.makedev(*member.device), dir_fd=parent)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            self.left_out[DEVICES] += 1
            return
        self._set_owner(member, parent, name)
        os.chmod(name, self._mode_of(member), dir_fd=parent)  # no link: it was just made, where nobody else can write
        self._set_xattrs(member, parent, name)
        time = _time_of(member)
        os.utime(name, ns=(time, time), dir_fd=parent, follow_symlinks=False)

    # --- attributes ---------------------------------------------------------------------------------------------------

    def _set_owner(self, member: Member, descriptor: int, name: bytes | None = None) -> None:
        """The owner of what is open, or of an entry of the directory that is open."""
        if not self._is_root:
            self.left_out[OWNERS] += (member.uid, member.gid) != self._own
            return
        if member.uid >= _NO_ID or member.gid >= _NO_ID:
            raise WrongContentError(f"{shown(member.name)} has an owner that no system can have")
        try:
            if name is None:
                os.fchown(descriptor, member.uid, member.gid)
            else:
                os.chown(name, member.uid, member.gid, dir_fd=descriptor, follow_symlinks=False)
        except OSError as error:  # as in a user namespace, where root is not every user's root
            if error.errno not in _NOT_HERE:
                raise
            self.left_out[OWNERS] += 1

    def _mode_of(self, member: Member) -> int:
        """The mode to set. Setuid bits of an owner that is another here than in the image would be wrong."""
        if self._is_root or not member.mode & (stat.S_ISUID | stat.S_ISGID):
            return member.mode
        self.left_out[SETUID] += 1
        return member.mode & ~(stat.S_ISUID | stat.S_ISGID)

    def _set_xattrs(self, member: Member, descriptor: int, name: bytes | None = None) -> None:
        for key, value in member.xattrs.items():
            try:
                if not self._is_root:
                    raise PermissionError(errno.EPERM, key)
                if name is None:
                    os.setxattr(descriptor, key, value)
                else:
                    # There is no setxattrat(2); /proc leads to the very directory that is open.
                    os.setxattr(b"/proc/self/fd/%d/%s" % (descriptor, name), key, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                self.left_out[XATTRS] += 1

    def _remove_xattrs(self, descriptor: int) -> None:
        """A directory of this layer has this layer's attributes only; a label of the system's is not the image's."""
        if self._is_root:
            for key in os.listxattr(descriptor):
                if key != "security.selinux":
                    os.removexattr(descriptor, key)


def path_of(name: bytes) -> list[bytes]:
    """A member's path below the root, as podman reads it: a leading slash means the root, and ".." may not lead out."""
    path: list[bytes] = []
    for component in name.split(b"/"):
        if component == b"..":
            if not path:
                raise WrongContentError(f"the name {shown(name)} in a layer leads out of the image")
            path.pop()
        elif component and component != b".":
            path.append(component)
    return path


def is_whiteout(name: bytes) -> bool:
    """Whether a member of this name hides something, instead of being something."""
    return name.startswith(_WHITEOUT)


def hidden_by(whiteout: bytes) -> bytes | None:
    """The name that a whiteout hides in its directory: empty for all of them, None if it means nothing."""
    if whiteout == _OPAQUE:
        return b""
    if whiteout.startswith(_OF_AUFS):
        return None
    hidden = whiteout.removeprefix(_WHITEOUT)
    if hidden in (b"", b".", b".."):
        raise WrongContentError(
            f"a layer has a whiteout named {shown(whiteout)}, which names nothing that it could hide"
        )
    return hidden


def shown(name: bytes) -> str:
    """A name for a message, whatever bytes it has."""
    return repr(os.fsdecode(name[:200]))


def _is_directory(parent: int, name: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _write_pieces(descriptor: int, member: Member, archive: TarReader) -> None:
    """A sparse file: what is stored goes where the map says, and the rest stays a hole."""
    pieces = iter(member.pieces or ())
    left = 0
    for stored in archive.content():
        view = stored
        while view:
            if not left:
                offset, left = next(pieces)
                os.lseek(descriptor, offset, os.SEEK_SET)
            part = view[:left]
            write_all(descriptor, part)
            left -= len(part)
            view = view[len(part) :]
    os.ftruncate(descriptor, member.size)


def _time_of(member: Member) -> int:
    return max(-_MAX_TIME, min(_MAX_TIME, member.mtime_ns))
