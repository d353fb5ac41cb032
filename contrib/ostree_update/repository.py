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

from container_image_client.errors import UnsupportedImageError, WrongContentError
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

# The form of each object of metadata, and what verifies it beyond that, such as names of entries.
_FORMS: Final = {
    COMMIT: ("(a{sv}aya(say)sstayay)", OSTree.validate_structureof_commit),
    DIRECTORY_TREE: ("(a(say)a(sayay))", OSTree.validate_structureof_dirtree),
    DIRECTORY_META: ("(uuua(ayay))", OSTree.validate_structureof_dirmeta),
}
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

    def write_metadata(self, kind: Any, checksum: str, serialized: bytes) -> None:
        """A commit, or an object of a directory, as it is in a repository; it must have this checksum and form."""
        variant = _variant(_FORMS[kind][0], serialized)
        _FORMS[kind][1](variant)
        if kind == COMMIT:
            self._repo.mark_commit_partial(checksum, True)  # noqa: FBT003 - "is partial"
        self._repo.write_metadata(kind, checksum, variant, None)

    def complete(self, commit: str, detached: bytes | None) -> None:
        """Say that all objects of a commit are here, if they are. ``detached`` is its detached metadata."""
        for kind, checksum in self._objects_of(commit):
            if not self.has(kind, checksum):
                raise WrongContentError(f"the image does not have all of the commit {commit}: {checksum} is missing")
        if detached is not None:
            self._repo.write_commit_detached_metadata(commit, _variant("a{sv}", detached), None)
        self._repo.mark_commit_partial(commit, False)  # noqa: FBT003 - "is partial"

    def _objects_of(self, commit: str) -> Iterator[tuple[Any, str]]:
        """The commit's objects, each directory before what is in it."""
        if not self.has(COMMIT, commit):
            raise WrongContentError(f"the image does not have the commit {commit}")
        values = self._repo.load_commit(commit)[1]
        pending = [(_checksum(values, 6), _checksum(values, 7))]
        seen: set[str] = set()
        while pending:
            tree, meta = pending.pop()
            yield DIRECTORY_META, meta
            if tree in seen:
                continue
            seen.add(tree)
            yield DIRECTORY_TREE, tree
            files, directories = map(self._repo.load_variant(DIRECTORY_TREE, tree)[1].get_child_value, (0, 1))
            for number in range(files.n_children()):
                yield FILE, _checksum(files.get_child_value(number), 1)
            for number in range(directories.n_children()):
                entry = directories.get_child_value(number)
                pending.append((_checksum(entry, 1), _checksum(entry, 2)))

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


def parse_xattrs(serialized: bytes) -> Variant:
    """Extended attributes as a repository of mode bare-split-xattrs has them."""
    return _variant("a(ayay)", serialized)


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


def find(root: Tree, path: Iterable[str]) -> Tree | str | None:
    """What stands at a path; no link is followed."""
    found: Tree | str | None = root
    for name in path:
        found = None if found is None or isinstance(found, str) else lookup(found, name)
    return found


def text(name: bytes) -> str:
    """A name or the text of a link, which ostree can have in UTF-8 only."""
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise UnsupportedImageError(
            f"the name {os.fsdecode(name[:200])!r} is not UTF-8, and ostree keeps no other names"
        ) from error


def _variant(form: str, serialized: bytes) -> Variant:
    variant = GLib.Variant.new_from_bytes(GLib.VariantType(form), GLib.Bytes(serialized), False)  # noqa: FBT003 - "trusted"
    if not variant.is_normal_form():
        raise WrongContentError(f"an object of the commit is not of the form {form}")
    return variant


def _checksum(variant: Variant, number: int) -> str:
    return bytes(variant.get_child_value(number).get_data_as_bytes().get_data() or b"").hex()
