"""Tar archives as a stream of members: a parser of headers, bounded in size and time, that never seeks.

The forms are those that layers have: ustar and old tar, pax, GNU's long names, numbers in base 256, and sparse files.
tarfile of the standard library takes three times as long for each member, and its extended headers have no bound.
It must not touch a file system: what a member's name leads to is unpack's matter.
Spec: POSIX.1-2017 pax(1), "ustar Interchange Format" and "pax Header Block"; GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from container_image_client.errors import MalformedArchiveError
from container_image_client.tar_fields import (
    MAX_SIZE,
    parse_decimal,
    parse_map,
    parse_name,
    parse_number,
    parse_pax,
    parse_text,
    parse_time,
    refuse_nul,
    verify_checksum,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK: Final = 512
# What one extended header may have. Go's archive/tar, which podman and skopeo read layers with, has the same bound.
_MAX_EXTENDED: Final = 1 << 20
# A member has at most one of each kind before it: x, L, K, and g, of which some writers repeat one.
_MAX_EXTENDED_IN_A_ROW: Final = 8
_MAX_PIECES: Final = 100_000  # of a sparse file; each costs memory
_MAX_MAP: Final = 4 << 20  # bytes of text that so many pieces have

FILE: Final = "file"
HARD_LINK: Final = "hard link"
SYMLINK: Final = "symbolic link"
CHARACTER_DEVICE: Final = "character device"
BLOCK_DEVICE: Final = "block device"
DIRECTORY: Final = "directory"
FIFO: Final = "fifo"

_KINDS: Final = {
    b"0": FILE,
    b"\0": FILE,
    b"7": FILE,  # contiguous, a property of file systems of old
    b"S": FILE,  # GNU's sparse file
    b"1": HARD_LINK,
    b"2": SYMLINK,
    b"3": CHARACTER_DEVICE,
    b"4": BLOCK_DEVICE,
    b"5": DIRECTORY,
    b"6": FIFO,
}
_ZEROS: Final = bytes(BLOCK)
_XATTR: Final = b"SCHILY.xattr."


@dataclass(slots=True)
class Member:
    """One entry of an archive, names as they stand there. ``size`` is that of the file that it makes."""

    name: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)
    # Where a sparse file has content, as (offset, length) in rising order; None for every other one.
    pieces: list[tuple[int, int]] | None = None


class _Stream:
    """Chunks of any size, read as exact lengths."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._chunk = b""
        self._position = 0

    def take(self, length: int) -> bytes:
        """So many bytes, fewer only at the end of the stream; for headers, which are small."""
        start = self._position
        end = start + length
        if end <= len(self._chunk):
            self._position = end
            return self._chunk[start:end]
        return b"".join(map(bytes, self.pieces(length)))

    def pieces(self, length: int) -> Iterator[memoryview]:
        """So many bytes in pieces, fewer only at the end of the stream."""
        while length:
            if self._position == len(self._chunk):
                self._chunk, self._position = self._read(), 0
                if not self._chunk:
                    return
            piece = memoryview(self._chunk)[self._position : self._position + length]
            self._position += len(piece)
            length -= len(piece)
            yield piece


class TarReader:
    """Members one after another; the content of each is there until the next is asked for.

    ``read`` gives the next chunk of the archive, and an empty one at its end.
    """

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._stream = _Stream(read)
        self._stored = 0  # bytes of the member's content that nobody has read
        self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        """All members, in order."""
        while (member := self.next()) is not None:
            yield member

    def next(self) -> Member | None:
        """The next member, or None at the archive's end, whose remainder has then been read, too."""
        self._skip_content()
        extended: dict[bytes, bytes] = {}
        for _ in range(_MAX_EXTENDED_IN_A_ROW):
            block = self._header_block()
            if block is None:
                if extended:
                    raise MalformedArchiveError("the archive ends with an extended header that belongs to no member")
                self._drain()
                return None
            kind = block[156:157]
            if kind == b"x":
                extended |= parse_pax(self._extended(block))
            elif kind == b"g":
                self._extended(block)  # podman ignores it, and so it means nothing in an image
            elif kind == b"L":
                extended[b"path"] = self._extended(block).rstrip(b"\0")
            elif kind == b"K":
                extended[b"linkpath"] = self._extended(block).rstrip(b"\0")
            else:
                return self._member(block, extended)
        raise MalformedArchiveError(f"more than {_MAX_EXTENDED_IN_A_ROW} extended headers stand before one member")

    def content(self) -> Iterator[memoryview]:
        """The member's content as it is stored, of a sparse file its pieces one after another.

        Each view is good until the next one is asked for.
        """
        for view in self._stream.pieces(self._stored):
            self._stored -= len(view)
            yield view
        if self._stored:
            raise MalformedArchiveError("the archive breaks off within a member")

    def placed_content(self, member: Member) -> Iterator[tuple[int, memoryview]]:
        """The same with the offset in the file at which each view begins: between them a sparse file has holes."""
        pieces = iter(member.pieces if member.pieces is not None else [(0, member.size)])
        offset = left = 0
        for stored in self.content():
            view = stored
            while view:
                while not left:
                    offset, left = next(pieces)
                part = view[:left]
                yield offset, part
                offset += len(part)
                left -= len(part)
                view = view[len(part) :]

    def _skip_content(self) -> None:
        left = self._stored + self._padding
        for view in self._stream.pieces(left):
            left -= len(view)
        if left > self._padding:  # the padding of the last member may be missing
            raise MalformedArchiveError("the archive breaks off within a member")
        self._stored = self._padding = 0

    def _header_block(self) -> bytes | None:
        block = self._stream.take(BLOCK)
        if block in (b"", _ZEROS):
            return None  # the second block of zeros is not always there
        if len(block) < BLOCK:
            raise MalformedArchiveError("the archive breaks off within a header")
        verify_checksum(block)
        return block

    def _drain(self) -> None:
        """What follows the end of an archive belongs to the layer, whose digest covers it."""
        for _ in self._stream.pieces(MAX_SIZE):
            pass

    def _extended(self, block: bytes) -> bytes:
        size = parse_number(block[124:136])
        if size > _MAX_EXTENDED:
            raise MalformedArchiveError(f"an extended header has {size} bytes; {_MAX_EXTENDED} are allowed")
        padded = size + -size % BLOCK
        data = self._stream.take(padded)
        if len(data) < padded:
            raise MalformedArchiveError("the archive breaks off within an extended header")
        return data[:size]

    def _member(self, block: bytes, extended: dict[bytes, bytes]) -> Member:
        type_flag = block[156:157]
        kind = _KINDS.get(type_flag)
        if kind is None:
            raise MalformedArchiveError(f"a member has the type {type_flag!r}, which layers do not have")
        member = Member(
            name=parse_name(block),
            kind=kind,
            mode=parse_number(block[100:108]) & 0o7777,
            uid=parse_number(block[108:116]),
            gid=parse_number(block[116:124]),
            size=parse_number(block[124:136]),
            mtime_ns=parse_number(block[136:148], signed=True) * 1_000_000_000,
        )
        if kind is HARD_LINK or kind is SYMLINK:
            member.target = parse_text(block[157:257])
        elif kind is CHARACTER_DEVICE or kind is BLOCK_DEVICE:
            member.device = (parse_number(block[329:337]), parse_number(block[337:345]))
        if extended:
            _apply(member, extended)
        if member.kind is FILE and member.name.endswith(b"/"):
            member.kind = DIRECTORY  # as old tar wrote it
        if member.kind is not FILE:
            member.size = 0  # some writers leave one with links and directories; no content follows
        self._stored, self._padding = member.size, -member.size % BLOCK
        if type_flag == b"S":
            self._read_gnu_map(member, block)
        elif extended and member.kind is FILE:
            self._read_pax_map(member, extended)
        return member

    def _read_gnu_map(self, member: Member, block: bytes) -> None:
        """A sparse file of GNU tar: four pieces in the header, and 21 in each block behind it that has more."""
        numbers = [block[at : at + 12] for at in range(386, 482, 12)]
        member.size = parse_number(block[483:495])
        has_more = block[482]
        while has_more:
            block = self._stream.take(BLOCK)
            if len(block) < BLOCK or len(numbers) > 2 * _MAX_PIECES:
                raise MalformedArchiveError("the map of a sparse file breaks off, or is too long")
            numbers += [block[at : at + 12] for at in range(0, 504, 12)]
            has_more = block[504]
        values = [parse_number(number) for number in numbers if number.strip(b" \0")]
        member.pieces = parse_map(values, self._stored, member.size)

    def _read_pax_map(self, member: Member, extended: dict[bytes, bytes]) -> None:
        """A sparse file as pax has it: the map is in the extended header (0.0, 0.1) or before the content (1.0)."""
        size = extended.get(b"GNU.sparse.realsize") or extended.get(b"GNU.sparse.size")
        if size is None:
            return
        if (extended.get(b"GNU.sparse.major"), extended.get(b"GNU.sparse.minor")) == (b"1", b"0"):
            values = self._read_map_before_content()
        else:
            values = [parse_decimal(number) for number in extended.get(b"GNU.sparse.map", b"").split(b",") if number]
        member.size = parse_decimal(size)
        member.name = extended.get(b"GNU.sparse.name") or member.name
        refuse_nul(member.name)
        member.pieces = parse_map(values, self._stored, member.size)

    def _read_map_before_content(self) -> list[int]:
        """Decimal numbers in lines, the first of which says how many pairs follow; padded to whole blocks."""
        text, lines, wanted = bytearray(), 0, 1
        while lines < wanted:
            block = self._stream.take(BLOCK)
            self._stored -= len(block)
            if len(block) < BLOCK or self._stored < 0 or wanted > 2 * _MAX_PIECES or len(text) > _MAX_MAP:
                raise MalformedArchiveError("the map of a sparse file breaks off, or is too long")
            text += block
            lines += block.count(b"\n")
            if wanted == 1 and lines:
                wanted = 1 + 2 * parse_decimal(bytes(text.partition(b"\n")[0]))
        return [parse_decimal(bytes(number)) for number in text.split(b"\n")[1:wanted]]


def _apply(member: Member, extended: dict[bytes, bytes]) -> None:
    """What an extended header says, in place of what the header says; an empty value says nothing."""
    member.name = extended.get(b"path") or member.name
    member.target = extended.get(b"linkpath") or member.target
    refuse_nul(member.name + member.target)
    if size := extended.get(b"size"):
        member.size = parse_decimal(size)
    if uid := extended.get(b"uid"):
        member.uid = parse_decimal(uid)
    if gid := extended.get(b"gid"):
        member.gid = parse_decimal(gid)
    if mtime := extended.get(b"mtime"):
        member.mtime_ns = parse_time(mtime)
    for key, value in extended.items():
        if key.startswith(_XATTR):
            refuse_nul(key)
            member.xattrs[key[len(_XATTR) :].decode(errors="surrogateescape")] = value
