"""An ostree commit that came in an image: layers that have the objects of a repository, as ostree-rs-ext writes them.

The configuration's labels name the commit, and the DiffID of the last layer that has objects; layers above that one are
derived, and mean what layers always do. In an object layer the objects lie as in a repository of mode
bare-split-xattrs: the extended attributes of a file are a file of their own, which a hard link in the file's name leads
to. Beside them each file has a hard link where it stands in the tree, which says nothing new.
Each object is written under the checksum that it is to have, and libostree refuses another. What is missing shows when
the commit is complete. It must not fetch anything.
Spec: docs.rs, ostree_ext::tar and ostree_ext::container; ostree's manual, "Repository types".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from container_image_client import tar
from container_image_client.errors import UnsupportedImageError, WrongContentError
from container_image_client.names import path_of, shown
from ostree_update.flatten import content_of
from ostree_update.repository import (
    COMMIT,
    DIRECTORY_META,
    DIRECTORY_TREE,
    FILE,
    Repository,
    Variant,
    parse_xattrs,
    text,
    xattrs_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from container_image_client.documents import Layer
    from container_image_client.tar import Member, TarReader

_COMMIT_LABEL: Final = "ostree.commit"
_LAST_LABEL: Final = "ostree.final-diffid"
_OBJECT: Final = re.compile(rb"sysroot/ostree/repo/objects/([0-9a-f]{2})/([0-9a-f]{62})\.([a-z.-]+)")
# Before version 1 of the layout they had a directory of their own.
_FORMER_XATTRS: Final = re.compile(rb"sysroot/ostree/repo/xattrs/[0-9a-f]{64}")
_CHECKSUM: Final = re.compile(r"[0-9a-f]{64}")
_METADATA: Final = {b"commit": COMMIT, b"dirtree": DIRECTORY_TREE, b"dirmeta": DIRECTORY_META}
_DETACHED: Final = b"commitmeta"
_XATTRS: Final = b"file-xattrs"
_XATTRS_LINKS: Final = (b"file-xattrs-link", b"file.xattrs")
_MAX_METADATA: Final = 128 << 20  # as libostree itself takes it
_MAX_XATTRS: Final = 1 << 20  # of one file; Linux has less
_MAX_KINDS_OF_XATTRS: Final = 100_000  # different sets in one layer, which are kept in memory until its end


def commit_of(labels: Mapping[str, str]) -> str | None:
    """The commit that the image is made of; None for one that is no more than a file system."""
    commit = labels.get(_COMMIT_LABEL)
    if commit is not None and not _CHECKSUM.fullmatch(commit):
        raise UnsupportedImageError(f"the label {_COMMIT_LABEL} is {commit[:100]!r}, which is no checksum of a commit")
    return commit


def count_object_layers(layers: Sequence[Layer], labels: Mapping[str, str]) -> int:
    """How many of the lowest layers have objects."""
    last = labels.get(_LAST_LABEL)
    diff_ids = [layer.diff_id for layer in layers]
    if last is None and len(layers) == 1:
        return 1
    if last not in diff_ids:
        raise UnsupportedImageError(
            f"the image has the label {_COMMIT_LABEL}, and {_LAST_LABEL} does not say which layer is the commit's last"
        )
    return diff_ids.index(last) + 1


class ObjectLayer:
    """Reads the objects of one layer into the repository, within a transaction.

    ``files`` has the checksums of the files, and ``detached`` what else is known of the commit, such as signatures.
    """

    def __init__(self, repository: Repository, commit: str) -> None:
        self.files: list[str] = []
        self.detached: bytes | None = None
        self._repository = repository
        self._commit = commit
        self._xattrs: dict[bytes, Variant] = {}  # by the path of the file that has them
        self._xattrs_of: dict[str, Variant] = {}  # by the checksum of the file that they are of

    def apply(self, archive: TarReader) -> None:
        """All members."""
        for member in archive:
            path = b"/".join(path_of(member.name))
            if found := _OBJECT.fullmatch(path):
                self._take((found[1] + found[2]).decode(), found[3], path, member, archive)
            elif _FORMER_XATTRS.fullmatch(path) and member.kind is tar.FILE:
                self._keep_xattrs(path, member, archive)

    def _take(self, checksum: str, kind: bytes, path: bytes, member: Member, archive: TarReader) -> None:
        if kind == b"file":
            self._write_file(checksum, member, archive)
        elif kind in _XATTRS_LINKS and member.kind is tar.HARD_LINK:
            target = b"/".join(path_of(member.target))
            if target not in self._xattrs:
                raise WrongContentError(f"{shown(path)} leads to {shown(target)}, which no member before it is")
            self._xattrs_of[checksum] = self._xattrs[target]
        elif member.kind is not tar.FILE:
            raise WrongContentError(f"the object {shown(path)} is a {member.kind}")
        elif kind in _XATTRS_LINKS:  # in place of a link, where its target could have no more of them
            self._xattrs_of[checksum] = parse_xattrs(_read(member, archive, _MAX_XATTRS))
        elif kind == _XATTRS:
            self._keep_xattrs(path, member, archive)
        else:
            self._write_metadata(checksum, kind, path, _read(member, archive, _MAX_METADATA))

    def _write_metadata(self, checksum: str, kind: bytes, path: bytes, content: bytes) -> None:
        if kind in (b"commit", _DETACHED) and checksum != self._commit:
            raise WrongContentError(f"the image has the commit {checksum}, and its label says {self._commit}")
        if kind == _DETACHED:
            self.detached = content
        elif kind in _METADATA:
            self._repository.write_metadata(_METADATA[kind], checksum, content)
        else:
            raise UnsupportedImageError(f"the object {shown(path)} is of a kind that commits in images do not have")

    def _write_file(self, checksum: str, member: Member, archive: TarReader) -> None:
        xattrs = self._xattrs_of.pop(checksum, None) or xattrs_of({})
        self.files.append(checksum)
        if self._repository.has(FILE, checksum):
            return
        owner = (member.uid, member.gid)
        if member.kind is tar.FILE:
            self._repository.write_file(
                content_of(member, archive),
                member.size,
                owner=owner,
                mode=member.mode,
                xattrs=xattrs,
                expected=checksum,
            )
        elif member.kind is tar.SYMLINK:
            self._repository.write_symlink(text(member.target), owner=owner, xattrs=xattrs, expected=checksum)
        else:
            raise WrongContentError(f"the object {checksum}.file is a {member.kind}")

    def _keep_xattrs(self, path: bytes, member: Member, archive: TarReader) -> None:
        if len(self._xattrs) >= _MAX_KINDS_OF_XATTRS:
            raise WrongContentError(
                f"a layer has more than {_MAX_KINDS_OF_XATTRS} different sets of extended attributes"
            )
        self._xattrs[path] = parse_xattrs(_read(member, archive, _MAX_XATTRS))


def _read(member: Member, archive: TarReader, limit: int) -> bytes:
    if member.size > limit:
        raise WrongContentError(f"{shown(member.name)} has {member.size} bytes; {limit} are allowed")
    return b"".join(content_of(member, archive))
