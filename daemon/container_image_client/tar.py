"""Tar archives as a stream of members: a parser of headers, bounded in size and time, that never seeks.

The forms are those that layers have: ustar and old tar, pax, GNU's long names, numbers in base 256, and sparse files.
tarfile of the standard library takes three times as long for each member, and its extended headers have no bound.
It must not touch a file system: what a member's name leads to is unpack's matter.
Spec: POSIX.1-2017 pax(1), "ustar Interchange Format" and "pax Header Block"; GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from container_image_client.errors import WrongContentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK: Final = 512
# What one extended header may have. Go's archive/tar, which podman and skopeo read layers with, has the same bound.
_MAX_EXTENDED: Final = 1 << 20
# A member has at most one of each kind before it: x, L, K, and g, of which some writers repeat one.
_MAX_EXTENDED_IN_A_ROW: Final = 8
_MAX_DIGITS: Final = 20  # int() of a long text takes quadratic time; 2**63 has 19 digits
_MAX_PIECES: Final = 100_000  # of a sparse file; each costs memory
_MAX_MAP: Final = 4 << 20  # bytes of text that so many pieces have
_MAX_SIZE: Final = (1 << 63) - 1  # what a file system can hold

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


class MalformedArchiveError(WrongContentError):
    """What should be a tar archive is none, or breaks off."""


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
                extended |= _parse_pax(self._extended(block))
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
        _verify_checksum(block)
        return block

    def _drain(self) -> None:
        """What follows the end of an archive belongs to the layer, whose digest covers it."""
        for _ in self._stream.pieces(_MAX_SIZE):
            pass

    def _extended(self, block: bytes) -> bytes:
        size = _number(block[124:136])
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
            name=_name(block),
            kind=kind,
            mode=_number(block[100:108]) & 0o7777,
            uid=_number(block[108:116]),
            gid=_number(block[116:124]),
            size=_number(block[124:136]),
            mtime_ns=_number(block[136:148], signed=True) * 1_000_000_000,
        )
        if kind is HARD_LINK or kind is SYMLINK:
            member.target = _text(block[157:257])
        elif kind is CHARACTER_DEVICE or kind is BLOCK_DEVICE:
            member.device = (_number(block[329:337]), _number(block[337:345]))
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
        member.size = _number(block[483:495])
        has_more = block[482]
        while has_more:
            block = self._stream.take(BLOCK)
            if len(block) < BLOCK or len(numbers) > 2 * _MAX_PIECES:
                raise MalformedArchiveError("the map of a sparse file breaks off, or is too long")
            numbers += [block[at : at + 12] for at in range(0, 504, 12)]
            has_more = block[504]
        values = [_number(number) for number in numbers if number.strip(b" \0")]
        member.pieces = _pieces(values, self._stored, member.size)

    def _read_pax_map(self, member: Member, extended: dict[bytes, bytes]) -> None:
        """A sparse file as pax has it: the map is in the extended header (0.0, 0.1) or before the content (1.0)."""
        size = extended.get(b"GNU.sparse.realsize") or extended.get(b"GNU.sparse.size")
        if size is None:
            return
        if (extended.get(b"GNU.sparse.major"), extended.get(b"GNU.sparse.minor")) == (b"1", b"0"):
            values = self._read_map_before_content()
        else:
            values = [_decimal(number) for number in extended.get(b"GNU.sparse.map", b"").split(b",") if number]
        member.size = _decimal(size)
        member.name = extended.get(b"GNU.sparse.name") or member.name
        _refuse_nul(member.name)
        member.pieces = _pieces(values, self._stored, member.size)

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
                wanted = 1 + 2 * _decimal(bytes(text.partition(b"\n")[0]))
        return [_decimal(bytes(number)) for number in text.split(b"\n")[1:wanted]]


def _pieces(values: list[int], stored: int, size: int) -> list[tuple[int, int]]:
    """The map of a sparse file, whose pieces rise, lie within the file, and are all that is stored."""
    pieces = list(zip(values[::2], values[1::2], strict=False))
    end = 0
    for offset, length in pieces:
        if offset < end:
            raise MalformedArchiveError("the pieces of a sparse file overlap")
        end = offset + length
    if end > size or len(values) % 2 or sum(length for _, length in pieces) != stored:
        raise MalformedArchiveError("the map of a sparse file does not fit its content")
    return pieces


def _apply(member: Member, extended: dict[bytes, bytes]) -> None:
    """What an extended header says, in place of what the header says; an empty value says nothing."""
    member.name = extended.get(b"path") or member.name
    member.target = extended.get(b"linkpath") or member.target
    _refuse_nul(member.name + member.target)
    if size := extended.get(b"size"):
        member.size = _decimal(size)
    if uid := extended.get(b"uid"):
        member.uid = _decimal(uid)
    if gid := extended.get(b"gid"):
        member.gid = _decimal(gid)
    if mtime := extended.get(b"mtime"):
        member.mtime_ns = _nanoseconds(mtime)
    for key, value in extended.items():
        if key.startswith(_XATTR):
            _refuse_nul(key)
            member.xattrs[key[len(_XATTR) :].decode(errors="surrogateescape")] = value


def _parse_pax(data: bytes) -> dict[bytes, bytes]:
    """Records of the form "LENGTH KEY=VALUE\\n", where LENGTH counts all of it."""
    records: dict[bytes, bytes] = {}
    pieces: list[bytes] = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + _MAX_DIGITS + 1)
        end = position + _decimal(data[position:space]) if space > 0 else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end <= space or data[end - 1 : end] != b"\n" or not (key and equals):
            raise MalformedArchiveError("an extended header has a record that is not LENGTH KEY=VALUE")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):  # version 0.0 repeats them for each piece
            pieces.append(value)
        else:
            records[key] = value
        position = end
    if pieces:
        records[b"GNU.sparse.map"] = b",".join(pieces)
    return records


def _verify_checksum(block: bytes) -> None:
    """The sum of all bytes, the checksum's own taken as spaces; some writers of old took bytes as signed."""
    wanted = _number(block[148:156])
    unsigned = sum(block) - sum(block[148:156]) + 8 * 0x20
    if wanted != unsigned:
        signed = unsigned - 256 * sum(byte > 0x7F for byte in block[:148] + block[156:])  # noqa: PLR2004
        if wanted != signed:
            raise MalformedArchiveError("a header of the archive has a wrong checksum: this is no tar archive")


def _number(field: bytes, *, signed: bool = False) -> int:
    """A number of a header: octal digits, or in base 256 if the first bit is set."""
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field) & ((1 << bits) - 1)
        if value >> (bits - 1):
            value -= 1 << bits
    else:
        digits = field.strip(b" \0").partition(b"\0")[0]
        if not digits:
            return 0
        try:
            value = int(digits, 8) if digits.isdigit() else -1
        except ValueError:
            value = -1
    if (value < 0 and not signed) or abs(value) > _MAX_SIZE:
        raise MalformedArchiveError(f"a header of the archive has {field!r} where a number should be")
    return value


def _decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > _MAX_DIGITS or (value := int(digits)) > _MAX_SIZE:
        raise MalformedArchiveError(f"an extended header has {digits[:40]!r} where a number should be")
    return value


def _nanoseconds(text: bytes) -> int:
    """Seconds since 1970 as a decimal fraction, maybe negative."""
    whole, _, fraction = text.removeprefix(b"-").partition(b".")
    value = _decimal(whole) * 1_000_000_000 + _decimal((fraction[:9] or b"0").ljust(9, b"0"))
    return -value if text.startswith(b"-") else value


def _name(block: bytes) -> bytes:
    """The name in a header; ustar has room for the beginning of a long one. GNU tar keeps something else there."""
    if block[345] and block[257:263] == b"ustar\0":
        return _text(block[345:500]) + b"/" + _text(block[:100])
    return _text(block[:100])


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _refuse_nul(text: bytes) -> None:
    if b"\0" in text:
        raise MalformedArchiveError("a name in an extended header has a NUL")
