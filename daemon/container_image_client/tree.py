"""The flattened image without unpacking it: what paths there are, and the content of one file.

Each layer is read through once for its index, the top one first, and only as far down as a question needs; the layer
that has a wanted file is read once more. Links are resolved within the image, by their text. It must not write files
of the image, but for the one that is asked for. Spec: OCI image-spec, layer.md.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import IO, Final

from container_image_client import tar
from container_image_client.directories import verify_depth
from container_image_client.documents import Layer
from container_image_client.errors import PathInImageError, WrongContentError
from container_image_client.layers import LayerReader
from container_image_client.names import hidden_by, is_whiteout, path_of, shown, verify_length
from container_image_client.tar import Member, TarReader

_MAX_LINKS: Final = 40  # as path_resolution(7) has it
_IN_MEMORY: Final = 1 << 20  # bytes of a file; more goes to an unlinked temporary one

OpenLayer = Callable[[Layer], AbstractContextManager[LayerReader]]


@dataclass(frozen=True, slots=True)
class Entry:
    """A path of the flattened image. A directory is implied if its layer has only members below it."""

    path: bytes
    kind: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    is_implied: bool = False


_ROOT: Final = Entry(b"", tar.DIRECTORY, is_implied=True)


class _Index:
    """What one layer has: its entries, and what of the lower layers it hides."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {b"": _ROOT}
        self._whiteouts: set[bytes] = set()
        self._opaque: set[bytes] = set()

    def add(self, member: Member) -> None:
        """Enter a member, as unpacking applies it."""
        path = path_of(member.name)
        parents = path[:-1]
        verify_length(member.target)
        verify_depth(parents)  # each of them becomes an entry with its whole path
        if path and is_whiteout(path[-1]):
            self._hide(parents, hidden_by(path[-1]))
            return
        self._imply(parents)
        joined = b"/".join(path)
        before = self.entries.get(joined)
        if before and before.kind is tar.DIRECTORY and member.kind is not tar.DIRECTORY:
            for below in [one for one in self.entries if one.startswith(joined + b"/")]:
                del self.entries[below]
        if before and before.kind is not tar.DIRECTORY and member.kind is tar.DIRECTORY:
            self._opaque.add(joined)  # what took the place of a lower directory has hidden all that was in it
        self.entries[joined] = Entry(
            joined,
            member.kind,
            member.mode,
            member.uid,
            member.gid,
            member.size,
            member.mtime_ns,
            member.target,
            member.device,
        )

    def hides(self, path: bytes) -> bool:
        """Whether what lower layers have at this path, which this layer does not have, is hidden."""
        if path in self._whiteouts:
            return True
        while path:
            path = path.rpartition(b"/")[0]
            above = self.entries.get(path)
            if path in self._whiteouts or path in self._opaque or (above and above.kind is not tar.DIRECTORY):
                return True
        return False

    def _hide(self, parents: list[bytes], hidden: bytes | None) -> None:
        if hidden:
            self._whiteouts.add(b"/".join([*parents, hidden]))
        elif hidden is not None:
            self._opaque.add(b"/".join(parents))

    def _imply(self, parents: list[bytes]) -> None:
        for end in range(len(parents), 0, -1):
            path = b"/".join(parents[:end])
            entry = self.entries.get(path)
            if entry is None:
                self.entries[path] = Entry(path, tar.DIRECTORY, is_implied=True)
            elif entry.kind is tar.DIRECTORY:
                return
            else:
                raise WrongContentError(
                    f"a layer has something below {shown(path)}, which is no directory in the same layer"
                )


class Tree:
    """The paths of an image, from its layers, lowest first. ``open_layer`` begins to read one."""

    def __init__(self, layers: Sequence[Layer], open_layer: OpenLayer) -> None:
        self._layers = layers
        self._open_layer = open_layer
        self._indexes: dict[int, _Index] = {}

    def entries(self, directory: bytes = b"", *, recursive: bool = False) -> list[Entry]:
        """What is in a directory, and with ``recursive`` in those below it, sorted by path."""
        found: dict[bytes, Entry] = {}
        prefix = directory + b"/" if directory else b""
        upper: list[_Index] = []
        for number in reversed(range(len(self._layers))):
            index = self._index(number)
            for path, entry in index.entries.items():
                if not path or not path.startswith(prefix) or (not recursive and b"/" in path[len(prefix) :]):
                    continue
                above = found.get(path)
                if (above is not None and not above.is_implied) or any(one.hides(path) for one in upper):
                    continue
                # A directory that is only implied above has the attributes of the one below, but replaces a link.
                found[path] = (
                    entry if above is None or entry.kind is tar.DIRECTORY else replace(above, is_implied=False)
                )
            upper.append(index)
        return sorted(found.values(), key=lambda entry: entry.path.split(b"/"))

    def resolve(self, path: bytes) -> Entry:
        """The entry that a path leads to, links within the image followed by their text."""
        current: list[bytes] = []
        pending = path.split(b"/")[::-1]
        links = 0
        while pending:
            name = pending.pop()
            if name in (b"", b".", b".."):
                current = current[:-1] if name == b".." else current
                continue
            found = self.find(b"/".join([*current, name]))
            if found is None:
                raise PathInImageError(f"there is no {shown(b'/'.join([b'', *current, name]))} in this image")
            if found[0].kind is tar.SYMLINK:
                links += 1
                if links > _MAX_LINKS:
                    raise PathInImageError(f"{shown(path)} leads through more than {_MAX_LINKS} links")
                current = [] if found[0].target.startswith(b"/") else current
                pending += found[0].target.split(b"/")[::-1]
            elif found[0].kind is not tar.DIRECTORY and any(pending):
                raise PathInImageError(f"{shown(found[0].path)} is no directory in this image")
            else:
                current.append(name)
        return (self.find(b"/".join(current)) or (_ROOT, 0))[0]

    def find(self, path: bytes, *, below: int | None = None) -> tuple[Entry, int] | None:
        """The entry at exactly this path, and the number of its layer; as seen below a layer, if one is given."""
        implied = None
        for number in reversed(range(len(self._layers) if below is None else below)):
            index = self._index(number)
            entry = index.entries.get(path)
            if entry is not None and not entry.is_implied:
                return implied if implied and entry.kind is not tar.DIRECTORY else (entry, number)
            if entry is not None:
                implied = implied or (entry, number)
            if index.hides(path):
                break
        return implied

    def read(self, path: bytes, output: IO[bytes]) -> None:
        """Write a file's content, links followed, after the layer that has it was read through and verified."""
        found = self.find(self.resolve(path).path)
        for _ in range(_MAX_LINKS):
            if found is None or found[0].kind is not tar.HARD_LINK:
                break
            target, number = b"/".join(path_of(found[0].target)), found[1]
            # The layer itself may hide what it has linked before.
            found = self.find(target, below=number + 1) or self.find(target, below=number)
        if found is None or found[0].kind is not tar.FILE:
            kind = found[0].kind if found else tar.HARD_LINK + " to nothing"
            raise PathInImageError(f"{shown(path)} is no file in this image, but a {kind}")
        entry, number = found
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as copy:
            with self._open_layer(self._layers[number]) as layer:
                archive = TarReader(layer.read)
                for member in archive:
                    if member.kind is tar.FILE and b"/".join(path_of(member.name)) == entry.path:
                        copy.seek(0)
                        copy.truncate()
                        if member.size > _IN_MEMORY:  # before a hole is written, which would be made in memory
                            copy.rollover()
                        copy_content(member, archive, copy)
            copy.seek(0)
            shutil.copyfileobj(copy, output, _IN_MEMORY)

    def _index(self, number: int) -> _Index:
        if number not in self._indexes:
            index = _Index()
            with self._open_layer(self._layers[number]) as layer:
                for member in TarReader(layer.read):
                    index.add(member)
            self._indexes[number] = index
        return self._indexes[number]


def copy_content(member: Member, archive: TarReader, file: IO[bytes]) -> None:
    """The content of a file; where a sparse one has none, zeros."""
    for offset, view in archive.placed_content(member):
        file.seek(offset)
        file.write(view)
    if file.seek(0, os.SEEK_END) < member.size:
        file.truncate(member.size)
