"""The headers of a tar archive: which members it has, and at which offsets their content lies.

The archive is hostile: the number of members, the bytes of headers and the length of names are bounded, each step goes
forward, and only headers are read. ``tarfile`` is not used: it holds extension headers of any size in memory, reads
them by recursion, and what it does with malformed ones depends on the release of Python (contrib/adr/0031).
Must not open files: the caller reads. Spec: POSIX pax interchange format, GNU tar "Basic Tar Format". Where they leave
a choice, it is that of Go's archive/tar, by which podman and skopeo read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from msgspec import Struct

from container_image_proxy.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

BLOCK: Final = 512
MAX_MEMBERS: Final = 65_536
"""Members of an archive. An image has some ten, and a mirror of a thousand images some ten thousand."""
MAX_NAME: Final = 4096
"""Bytes of a member's name or link target: PATH_MAX of Linux."""
MAX_EXTENSION: Final = 1 << 20
"""Bytes of one extension header, as in Go. It is in memory while it is read."""
MAX_HEADERS: Final = 64 << 20
"""Bytes of all headers together: twice what the most members have without extensions."""
MAX_RECORDS: Final = 8 * MAX_MEMBERS
"""Records of all pax headers together, which take a second. A member has some four, more only with its attributes."""

Kind: TypeAlias = Literal["file", "hard link", "symbolic link", "sparse file", "directory", "special file"]

_ZEROS: Final = bytes(BLOCK)
_OCTAL: Final = re.compile(rb"[0-7]+")
_DECIMAL: Final = re.compile(rb"[0-9]{1,20}")
_MAX_SIZE: Final = 2**63 - 1
# NUL is a file of before POSIX.1-1988, and 7 a contiguous file, which is read as any other.
_KINDS: Final[Mapping[bytes, Kind]] = {
    b"0": "file", b"\0": "file", b"7": "file", b"1": "hard link", b"2": "symbolic link", b"5": "directory",
    b"S": "sparse file",
}  # fmt: skip
# Links, devices, directories and FIFOs have no content, whatever size their header says: as in Go.
_WITHOUT_CONTENT: Final = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})
_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK = b"x", b"g", b"L", b"K"
_EXTENSIONS: Final = frozenset({_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK})
_DECISIVE: Final = frozenset({b"path", b"linkpath", b"size"})
_SPARSE: Final = b"GNU.sparse."


class Member(Struct, frozen=True):
    """A member. Its header begins at ``header``, and its content has ``size`` bytes from ``offset`` on.

    ``target`` is where a link leads. Names are as the archive has them, and may be of any form.
    """

    name: bytes
    kind: Kind
    header: int
    offset: int
    size: int
    target: bytes = b""


def read_members(read_at: Callable[[int, int], bytes], size: int, place: str) -> Iterator[Member]:
    """The members of an archive of ``size`` bytes, in their order. ``read_at(offset, count)`` reads it.

    Raises :class:`SourceError`, which names ``place`` and the offset, for anything that is no tar archive, or exceeds
    the limits.
    """
    return _HeaderReader(read_at, size, place).members()


class _Extended(Struct):
    """What the extension headers before a member say about it."""

    records: Mapping[bytes, bytes] = {}
    name: bytes | None = None
    target: bytes | None = None


class _HeaderReader:
    def __init__(self, read_at: Callable[[int, int], bytes], size: int, place: str) -> None:
        self._read_at = read_at
        self._size = size
        self._place = place
        self._offset = 0
        self._last_header = 0
        self._header_bytes = 0
        self._records = 0

    def members(self) -> Iterator[Member]:
        extended, is_extended, count = _Extended(), False, 0
        while (block := self._next_block()) is not None:
            kind = block[156:157]
            try:
                length = _parse_number(block[124:136])
            except ValueError as error:
                raise self._failure(f"a header's size is {error}") from error
            if kind in _EXTENSIONS:
                self._read_extension(kind, length, extended)
                is_extended = True
                continue
            count += 1
            if count > MAX_MEMBERS:
                raise self._failure(f"the archive has more than {MAX_MEMBERS} members")
            yield self._member(block, kind, length, extended)
            extended, is_extended = _Extended(), False
        if is_extended:
            raise self._failure("the archive ends after an extension header, where a member was expected")

    def _next_block(self) -> bytes | None:
        """The next header, its checksum verified; None at the end of the archive."""
        self._last_header = self._offset
        block = self._header(BLOCK, is_first_of_member=True)
        if not block:  # some writers leave the end marker out
            return None
        if block == _ZEROS:
            # A reader that goes on behind one block of zeros would see another archive than one that stops.
            if self._read_at(self._offset, BLOCK) not in (_ZEROS, b""):
                raise self._failure("a block of zeros is followed by other content, where two mark the end")
            return None
        if not _has_checksum(block):
            what = "this is no tar archive" if self._last_header == 0 else "a tar header was expected here"
            raise self._failure(f"{what}: the checksum is wrong")
        return block

    def _header(self, size: int, *, is_first_of_member: bool = False) -> bytes:
        """Read ``size`` bytes of headers. Empty at the end of the file, if a member could begin here."""
        self._header_bytes += size
        if self._header_bytes > MAX_HEADERS:
            raise self._failure(f"the archive has more than {MAX_HEADERS} bytes of headers")
        data = self._read_at(self._offset, size)
        if len(data) != size and (data or not is_first_of_member):
            raise self._failure(f"the archive ends early: {size} bytes of a header were expected, {len(data)} are left")
        self._offset += len(data)
        return data

    def _read_extension(self, kind: bytes, length: int, extended: _Extended) -> None:
        if length > MAX_EXTENSION:
            raise self._failure(f"an extension header has {length} bytes, more than {MAX_EXTENSION}")
        data = self._header(length)
        if kind == _GNU_NAME:
            extended.name = data.partition(b"\0")[0]
        elif kind == _GNU_LINK:
            extended.target = data.partition(b"\0")[0]
        elif kind == _PAX:
            extended.records = self._parse_records(data)
        elif any(key in _DECISIVE or key.startswith(_SPARSE) for key in self._parse_records(data)):
            # Go ignores global headers, GNU tar does not: such an archive has two meanings.
            raise self._failure("a global header gives names or sizes to all members")
        self._skip_padding(length)

    def _parse_records(self, data: bytes) -> Mapping[bytes, bytes]:
        """The ``length key=value`` records of a pax header."""
        records: dict[bytes, bytes] = {}
        position = 0
        while position < len(data):
            space = data.find(b" ", position, position + 21)
            length = int(data[position:space]) if space > 0 and _DECIMAL.fullmatch(data[position:space]) else 0
            record = data[space + 1 : position + length]
            key, equals, value = record[:-1].partition(b"=")
            if position + length > len(data) or record[-1:] != b"\n" or not equals or not key:
                raise self._failure("a pax header is malformed: 'length key=value' was expected")
            records[key] = value  # of one key twice the last one counts, as in Go
            position += length
            self._records += 1
            if self._records > MAX_RECORDS:
                raise self._failure(f"the archive has more than {MAX_RECORDS} records in pax headers")
        return records

    def _member(self, block: bytes, kind: bytes, length: int, extended: _Extended) -> Member:
        header = self._offset - BLOCK
        name, target = self._names(block, extended)
        what = _KINDS.get(kind, "special file")
        if kind == b"\0" and name.endswith(b"/"):  # before POSIX.1-1988 there was no type for directories
            what = "directory"
        if any(key.startswith(_SPARSE) for key in extended.records):
            what, name = "sparse file", extended.records.get(b"GNU.sparse.name") or name
        is_continued = kind == b"S" and block[482]  # the map of an old GNU sparse file, in further blocks
        while is_continued:
            is_continued = self._header(BLOCK)[504]
        if size := extended.records.get(b"size"):  # of files that are too large for the digits of a header
            if not _DECIMAL.fullmatch(size) or int(size) > _MAX_SIZE:
                raise self._failure("a pax header's size is no number of bytes")
            length = int(size)
        if kind in _WITHOUT_CONTENT:
            length = 0
        offset = self._offset
        if offset + length > self._size:
            raise self._failure(
                f"the archive ends early: {length} bytes of the member {shown(name)} were expected,"
                f" {max(0, self._size - offset)} are left"
            )
        self._offset += length
        self._skip_padding(length)
        return Member(name, what, header, offset, length, target)

    def _names(self, block: bytes, extended: _Extended) -> tuple[bytes, bytes]:
        """The member's name, and where it leads if it is a link."""
        name = block[:100].partition(b"\0")[0]
        # GNU tar ("ustar  ") has times where POSIX has the prefix of a name. star has a shorter prefix.
        if block[257:263] == b"ustar\0":
            prefix = block[345:476] if block[508:] == b"tar\0" else block[345:500]
            name = b"/".join(filter(None, (prefix.partition(b"\0")[0], name)))
        name = extended.name or extended.records.get(b"path") or name
        target = extended.target or extended.records.get(b"linkpath") or block[157:257].partition(b"\0")[0]
        if max(len(name), len(target)) > MAX_NAME:
            raise self._failure(f"a member's name has more than {MAX_NAME} bytes")
        if b"\0" in name or b"\0" in target:
            raise self._failure("a member's name has a NUL in it")
        return name, target

    def _skip_padding(self, length: int) -> None:
        self._offset += -length % BLOCK

    def _failure(self, reason: str) -> SourceError:
        return SourceError(f"{self._place}: byte {self._last_header}: {reason}")


def _has_checksum(block: bytes) -> bool:
    """Whether the checksum of a header is right. Some old writers summed signed characters."""
    unsigned = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    try:
        checksum = _parse_number(block[148:156])
    except ValueError:
        return False
    if checksum == unsigned:
        return True
    return checksum == unsigned - 256 * sum(byte > 127 for byte in block[:148] + block[156:])  # noqa: PLR2004


def _parse_number(field: bytes) -> int:
    """A number in octal digits, or in base 256 with the first bit set. Raises ``ValueError``, which says what it is."""
    if field[0] & 0x80:
        number = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40 or number > _MAX_SIZE:
            raise ValueError("negative or too large")
        return number
    digits = field.strip(b" \0")
    if digits and not _OCTAL.fullmatch(digits):
        raise ValueError("no octal number")
    return int(digits or b"0", 8)


def shown(name: bytes) -> str:
    """A member's name for messages: in quotes, printable, and cut where it is long."""
    return repr(name[:120].decode("utf-8", "backslashreplace")) + ("..." if len(name) > 120 else "")  # noqa: PLR2004
