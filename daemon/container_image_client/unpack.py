"""A root file system from the archives of an image's layers, made beneath one directory's descriptor.

Safe by construction: every name is created by openat(2) and its kin, relative to the descriptor of its parent, which
was opened component by component without following a link. So the text of a symbolic link is free, and nothing is
ever made outside. Whiteouts hide what lower layers have, never what their own layer has.
It must not fetch anything, and the caller keeps other users out of the directory meanwhile.
Spec: OCI image-spec, layer.md; the layers come out as overlayfs shows them.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from container_image_client import tar
from container_image_client.attributes import DEVICES, NOT_HERE, Attributes, time_of
from container_image_client.destination import write_all
from container_image_client.directories import NotADirectoryHereError, Walk, names_in, open_directory, remove
from container_image_client.errors import WrongContentError
from container_image_client.names import hidden_by, is_whiteout, path_of, shown

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from container_image_client.tar import Member, TarReader

_FILE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NODES: Final = {tar.FIFO: stat.S_IFIFO, tar.CHARACTER_DEVICE: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK}


class Unpacker:
    """Applies layers, lowest first, to the directory with this descriptor. ``left_out`` counts what was not kept."""

    def __init__(self, root: int) -> None:
        self._attributes = Attributes()
        self._root = root
        self._walk = Walk(root)
        self._root_attributes = (0o755, os.fstat(root).st_mtime_ns)
        # Paths that the layer at hand has, and the directories on the way to them. The first layer needs none: there is
        # nothing that its whiteouts could hide.
        self._of_this_layer: set[bytes] | None = None
        self._emptied: set[bytes] = set()  # directories of which this layer has hidden all that was there
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

    @property
    def left_out(self) -> Counter[str]:
        """How often each kind of attribute or member was not kept."""
        return self._attributes.left_out

    def apply(self, archive: TarReader) -> None:
        """One layer."""
        self._of_this_layer = set() if self._layers else None
        self._emptied.clear()
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
        self._root_attributes = (self._attributes.set_owner(member, self._root), time_of(member))
        self._attributes.set_xattrs(member, self._root)

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
            if (directory := b"/".join(parents)) not in self._emptied:  # after that there is nothing of lower layers
                self._emptied.add(directory)
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
                for offset, view in archive.placed_content(member):
                    os.lseek(descriptor, offset, os.SEEK_SET)
                    write_all(descriptor, view)
                os.ftruncate(descriptor, member.size)
            self._attributes.set_on_file(member, descriptor)  # last of all: writing takes setuid bits away
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
        self._walk.set_attributes(self._attributes.set_owner(member, descriptor), time_of(member))
        if not is_new:
            self._attributes.remove_xattrs(descriptor)
        self._attributes.set_xattrs(member, descriptor)

    def _make_symlink(self, member: Member, _: TarReader, name: bytes, parent: int) -> None:
        if not member.target:
            raise WrongContentError(f"the symbolic link {shown(member.name)} leads to nothing: its text is empty")
        try:
            os.symlink(member.target, name, dir_fd=parent)
        except FileExistsError:
            remove(parent, name)
            os.symlink(member.target, name, dir_fd=parent)
        self._attributes.set_on_entry(member, parent, name)

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
        remove(parent, name)
        try:
            if member.kind is not tar.FIFO and not self._attributes.is_root:
                raise PermissionError(errno.EPERM, name)
            os.mknod(name, _NODES[member.kind] | 0o600, os.makedev(*member.device), dir_fd=parent)
        except OverflowError:
            raise WrongContentError(f"{shown(member.name)} has a device number that no system can have") from None
        except OSError as error:
            if error.errno not in NOT_HERE:
                raise
            self.left_out[DEVICES] += 1
        else:
            self._attributes.set_on_entry(member, parent, name)


def _is_directory(parent: int, name: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
