"""An ostree repository, written object by object through libostree: files, links, directories, commits and refs.

Nothing that is in a layer is written anywhere else. What a transaction wrote counts when it ends; what is left of one
that never ended, libostree clears away. It must not fetch anything, and knows no images.
Spec: ostree's manual, "Anatomy of an OSTree repository"; OstreeRepo(3).
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from container_image_client.errors import UnsupportedImageError
from ostree_update.libostree import Gio, GLib, OSTree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

# These libraries ship no types.
Tree: TypeAlias = Any  # OSTree.MutableTree
Variant: TypeAlias = Any  # GLib.Variant

Error: Final = GLib.Error
COMMIT: Final = OSTree.ObjectType.COMMIT
DIRECTORY_TREE: Final = OSTree.ObjectType.DIR_TREE
DIRECTORY_META: Final = OSTree.ObjectType.DIR_META
FILE: Final = OSTree.ObjectType.FILE

_INLINE: Final = 64 * 1024  # bytes of a file that are handed over at once


class Repository:
    """The repository of a sysroot; its refs are local ones."""

    def __init__(self, path: Path) -> None:
        self._repo = OSTree.Repo.new(Gio.File.new_for_path(str(path)))
        self._repo.open(None)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """What is written within it counts when it ends without an error."""
        self._repo.prepare_transaction(None)
        try:
            yield
        except BaseException:
            self._repo.abort_transaction(None)
            raise
        self._repo.commit_transaction(None)

    # --- objects ------------------------------------------------------------------------------------------------------

    def has(self, kind: Any, checksum: str) -> bool:
        """Whether there is this object."""
        return bool(self._repo.has_object(kind, checksum, None)[1])

    def write_file(
        self,
        pieces: Iterable[bytes],
        size: int,
        *,
        owner: tuple[int, int],
        mode: int,
        xattrs: Variant,
        expected: str | None = None,
    ) -> str:
        """A regular file; returns its checksum, which must be the expected one if that is given."""
        uid, gid = owner
        if size <= _INLINE:
            content = b"".join(pieces)
            return str(self._repo.write_regfile_inline(expected, uid, gid, stat.S_IFREG | mode, xattrs, content, None))
        writer = self._repo.write_regfile(expected, uid, gid, stat.S_IFREG | mode, size, xattrs)
        for piece in pieces:
            writer.write_all(piece, None)
        return str(writer.finish(None))

    def write_symlink(
        self, target: str, *, owner: tuple[int, int], xattrs: Variant, expected: str | None = None
    ) -> str:
        """A symbolic link; returns its checksum."""
        return str(self._repo.write_symlink(expected, *owner, xattrs, target, None))

    def write_directory(self, *, owner: tuple[int, int] = (0, 0), mode: int = 0o755, xattrs: Variant = None) -> str:
        """What a directory has beside its entries; returns the checksum."""
        info = Gio.FileInfo.new()
        info.set_attribute_uint32("unix::uid", owner[0])
        info.set_attribute_uint32("unix::gid", owner[1])
        info.set_attribute_uint32("unix::mode", stat.S_IFDIR | mode)
        meta = OSTree.create_directory_metadata(info, xattrs if xattrs is not None else xattrs_of({}))
        return bytes(self._repo.write_metadata(DIRECTORY_META, None, meta, None)[1]).hex()

    # --- trees and commits --------------------------------------------------------------------------------------------

    def tree(self, commit: str | None = None) -> Tree:
        """The tree of a commit, to be changed; without one, a new one with nothing but its root."""
        if commit is not None:
            return OSTree.MutableTree.new_from_commit(self._repo, commit)
        tree = OSTree.MutableTree.new()
        tree.set_metadata_checksum(self.write_directory())
        return tree

    def write_tree(self, tree: Tree) -> Any:
        """Write what changed of a tree; afterwards each directory in it knows its checksums."""
        return self._repo.write_mtree(tree, None)[1]

    def commit(self, tree: Tree, subject: str, metadata: Mapping[str, str] | None = None) -> str:
        """A commit of the tree."""
        values = {key: GLib.Variant("s", value) for key, value in (metadata or {}).items()}
        root = self.write_tree(tree)
        return str(self._repo.write_commit(None, subject, None, GLib.Variant("a{sv}", values), root, None)[1])

    def graft(self, source: Tree, target: Tree) -> None:
        """Give an empty directory what another, which was written, has."""
        target.fill_empty_from_dirtree(self._repo, source.get_contents_checksum(), source.get_metadata_checksum())

    def metadata(self, commit: str, key: str) -> str | None:
        """A text in a commit's metadata."""
        values = self._repo.load_commit(commit)[1].get_child_value(0)
        found = values.lookup_value(key, GLib.VariantType("s"))
        return None if found is None else str(found.get_string())

    # --- refs ---------------------------------------------------------------------------------------------------------

    def resolve(self, ref: str) -> str | None:
        """The commit of a ref."""
        found = self._repo.resolve_rev(ref, True)[1]  # noqa: FBT003 - "allow none"
        return None if found is None else str(found)

    def set_ref(self, ref: str, commit: str | None) -> None:
        """Move a ref; within a transaction, when that ends. Without a commit the ref is removed, at once."""
        if commit is None:
            self._repo.set_ref_immediate(None, ref, None, None)
        else:
            self._repo.transaction_set_ref(None, ref, commit)

    def refs_below(self, prefix: str) -> list[str]:
        """The refs whose names begin with these components."""
        return sorted(self._repo.list_refs(prefix, None)[1])


def xattrs_of(xattrs: Mapping[str, bytes]) -> Variant:
    """Extended attributes as ostree has them: sorted, each name with a NUL behind it."""
    pairs = sorted((os.fsencode(key) + b"\0", value) for key, value in xattrs.items())
    return GLib.Variant("a(ayay)", pairs)


def lookup(tree: Tree, name: str) -> Tree | str | None:
    """What a directory has by that name: a directory, the checksum of a file or link, or nothing."""
    try:
        _, checksum, below = tree.lookup(name)
    except GLib.Error as error:
        if not error.matches(Gio.io_error_quark(), Gio.IOErrorEnum.NOT_FOUND):
            raise
        return None
    return below if below is not None else str(checksum)


def text(name: bytes) -> str:
    """A name or the text of a link, which ostree can have in UTF-8 only."""
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise UnsupportedImageError(
            f"the name {os.fsdecode(name[:200])!r} is not UTF-8, and ostree keeps no other names"
        ) from error
