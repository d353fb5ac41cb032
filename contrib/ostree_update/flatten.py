"""The flattened file system of an image as a tree of an ostree repository: ostree applies no whiteouts, so this does.

Layers are applied lowest first. A file goes into the repository while its layer is read; where it stands is kept in a
tree in memory, which becomes a commit. Whiteouts hide what lower layers have, never what their own layer has, as in
``container_image_client.unpack``, which does the same in a directory.
It must not fetch anything. Spec: OCI image-spec, layer.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from container_image_client import tar
from container_image_client.errors import UnsupportedImageError, WrongContentError
from container_image_client.names import hidden_by, is_whiteout, path_of, shown
from ostree_update.repository import Repository, Tree, find, lookup, text, xattrs_of

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    from container_image_client.tar import Member, TarReader

_ZEROS: Final = bytes(1 << 20)


class Flattener:
    """Applies one layer to a tree, within a transaction. ``left_out`` counts what ostree cannot keep."""

    def __init__(self, repository: Repository, root: Tree, left_out: Counter[str]) -> None:
        self._repository = repository
        self._root = root
        self._left_out = left_out
        self._of_this_layer: set[bytes] = set()

    def apply(self, archive: TarReader) -> None:
        """All members."""
        for member in archive:
            path = path_of(member.name)
            if not path:
                self._set_root(member)
            elif is_whiteout(path[-1]):
                self._hide(path[:-1], hidden_by(path[-1]))
            else:
                parent = self._enter(path[:-1])
                self._of_this_layer.add(b"/".join(path))
                self._make(member, archive, parent, text(path[-1]))

    def _set_root(self, member: Member) -> None:
        if member.kind is not tar.DIRECTORY:
            raise WrongContentError(f"a layer has a {member.kind} in place of the root directory")
        self._root.set_metadata_checksum(self._directory_of(member))

    def _make(self, member: Member, archive: TarReader, parent: Tree, name: str) -> None:
        if member.kind is tar.DIRECTORY:
            if isinstance(lookup(parent, name), str):
                parent.remove(name, False)
            parent.ensure_dir(name)[1].set_metadata_checksum(self._directory_of(member))
            return
        if member.kind is tar.FILE:
            checksum = self._repository.write_file(
                content_of(member, archive),
                member.size,
                owner=(member.uid, member.gid),
                mode=member.mode,
                xattrs=xattrs_of(member.xattrs),
            )
        elif member.kind is tar.SYMLINK:
            checksum = self._repository.write_symlink(
                text(member.target), owner=(member.uid, member.gid), xattrs=xattrs_of(member.xattrs)
            )
        elif member.kind is tar.HARD_LINK:
            checksum = self._linked(member)
        else:
            self._left_out[member.kind] += 1
            parent.remove(name, True)
            return
        if not isinstance(lookup(parent, name), str):
            parent.remove(name, True)
        parent.replace_file(name, checksum)

    def _directory_of(self, member: Member) -> str:
        return self._repository.write_directory(
            owner=(member.uid, member.gid), mode=member.mode, xattrs=xattrs_of(member.xattrs)
        )

    def _linked(self, member: Member) -> str:
        """The file that a hard link leads to: in ostree both names have the same object."""
        found = find(self._root, map(text, path_of(member.target)))
        if not isinstance(found, str):
            raise WrongContentError(
                f"the hard link {shown(member.name)} leads to {shown(member.target)}, "
                "which the image does not have as a file"
            )
        return found

    def _enter(self, path: list[bytes]) -> Tree:
        """A directory, made if it is missing. What a lower layer has in its place, this layer hides."""
        tree = self._root
        for depth, component in enumerate(path, 1):
            name, joined = text(component), b"/".join(path[:depth])
            found = lookup(tree, name)
            if isinstance(found, str):
                if joined in self._of_this_layer:
                    raise WrongContentError(
                        f"a layer has something below {shown(joined)}, which is no directory in the same layer; "
                        "no link is followed here"
                    )
                tree.remove(name, False)
                found = None
            if found is None:
                found = tree.ensure_dir(name)[1]
                found.set_metadata_checksum(self._repository.write_directory())
            self._of_this_layer.add(joined)
            tree = found
        return tree

    def _hide(self, parents: list[bytes], hidden: bytes | None) -> None:
        """Remove what lower layers have and this one hides: an entry, or all of a directory's."""
        if hidden is None:
            return
        parent = find(self._root, map(text, parents))
        if parent is None or isinstance(parent, str):
            return
        if not hidden:
            self._hide_lower(parent, parents)
        else:
            self._hide_one(parent, [*parents, hidden])

    def _hide_lower(self, directory: Tree, path: list[bytes]) -> None:
        """Remove what is below a directory and not of this layer."""
        for name in [*directory.get_files(), *directory.get_subdirs()]:
            self._hide_one(directory, [*path, name.encode()])

    def _hide_one(self, parent: Tree, path: list[bytes]) -> None:
        name = text(path[-1])
        if b"/".join(path) not in self._of_this_layer:
            parent.remove(name, True)
        elif (found := lookup(parent, name)) is not None and not isinstance(found, str):
            self._hide_lower(found, path)


def content_of(member: Member, archive: TarReader) -> Iterator[bytes]:
    """The content of a file, of a sparse one with the zeros that are not stored."""
    if member.pieces is None:
        yield from map(bytes, archive.content())
        return
    stored = archive.content()
    view = memoryview(b"")
    position = 0
    for offset, length in member.pieces:
        yield from _zeros(offset - position)
        position, left = offset + length, length
        while left:
            view = view or next(stored)
            yield bytes(view[:left])
            left, view = left - len(view[:left]), view[left:]
    yield from _zeros(member.size - position)


def _zeros(count: int) -> Iterator[bytes]:
    while count:
        yield _ZEROS[:count]
        count -= min(count, len(_ZEROS))


def move_etc(repository: Repository, root: Tree, *, to_usr: bool) -> None:
    """Move /etc to /usr/etc, where ostree has what each deployment's /etc is made of; or back."""
    repository.write_tree(root)
    usr = lookup(root, "usr")
    if usr is None or isinstance(usr, str):
        raise UnsupportedImageError("the image has no directory /usr: it is no root file system of a host")
    source, target = (root, usr) if to_usr else (usr, root)
    etc = lookup(source, "etc")
    if etc is None:
        return
    there = lookup(target, "etc")
    if isinstance(etc, str) or there is not None:
        raise UnsupportedImageError(
            "the image has /etc and /usr/etc, or an /etc that is no directory; ostree makes /etc out of one of them",
            remedy="move what is in /usr/etc to /etc when the image is built",
        )
    repository.graft(etc, target.ensure_dir("etc")[1])
    source.remove("etc", False)
