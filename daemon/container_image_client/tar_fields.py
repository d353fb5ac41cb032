"""The fields of tar headers: numbers, names, the records of an extended header, the map of a sparse file. Pure.

Each is bounded before it is computed with, because a stranger wrote it.
Spec: POSIX.1-2017 pax(1), "ustar Interchange Format" and "pax Header Block"; GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

from typing import Final

from container_image_client.errors import MalformedArchiveError

MAX_SIZE: Final = (1 << 63) - 1  # what a file system can hold
_MAX_DIGITS: Final = 20  # int() of a long text takes quadratic time; 2**63 has 19 digits


def parse_number(field: bytes, *, signed: bool = False) -> int:
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
    if (value < 0 and not signed) or abs(value) > MAX_SIZE:
        raise MalformedArchiveError(f"a header of the archive has {field!r} where a number should be")
    return value


def parse_decimal(digits: bytes) -> int:
    """A number of an extended header."""
    if not digits.isdigit() or len(digits) > _MAX_DIGITS or (value := int(digits)) > MAX_SIZE:
        raise MalformedArchiveError(f"an extended header has {digits[:40]!r} where a number should be")
    return value


def parse_time(text: bytes) -> int:
    """Seconds since 1970 as a decimal fraction, maybe negative."""
    whole, _, fraction = text.removeprefix(b"-").partition(b".")
    value = parse_decimal(whole) * 1_000_000_000 + parse_decimal((fraction[:9] or b"0").ljust(9, b"0"))
    return -value if text.startswith(b"-") else value


def parse_name(block: bytes) -> bytes:
    """The name in a header; ustar has room for the beginning of a long one. GNU tar keeps something else there."""
    if block[345] and block[257:263] == b"ustar\0":
        return parse_text(block[345:500]) + b"/" + parse_text(block[:100])
    return parse_text(block[:100])


def parse_text(field: bytes) -> bytes:
    """A text of a header, which a NUL ends if it is shorter than its field."""
    return field.partition(b"\0")[0]


def refuse_nul(text: bytes) -> None:
    """Raise if a text of an extended header has what no name can have."""
    if b"\0" in text:
        raise MalformedArchiveError("a name in an extended header has a NUL")


def verify_checksum(block: bytes) -> None:
    """The sum of all bytes, the checksum's own taken as spaces; some writers of old took bytes as signed."""
    wanted = parse_number(block[148:156])
    unsigned = sum(block) - sum(block[148:156]) + 8 * 0x20
    if wanted != unsigned:
        signed = unsigned - 256 * sum(byte > 0x7F for byte in block[:148] + block[156:])  # noqa: PLR2004
        if wanted != signed:
            raise MalformedArchiveError("a header of the archive has a wrong checksum: this is no tar archive")


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """Records of the form "LENGTH KEY=VALUE\\n", where LENGTH counts all of it."""
    records: dict[bytes, bytes] = {}
    pieces: list[bytes] = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + _MAX_DIGITS + 1)
        end = position + parse_decimal(data[position:space]) if space > 0 else 0
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


def parse_map(values: list[int], stored: int, size: int) -> list[tuple[int, int]]:
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
