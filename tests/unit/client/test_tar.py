"""The tar parser: every form that layers have, read in any chunks, and nothing that makes it slow or large."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_client.errors import MalformedArchiveError
from container_image_client.tar import Member, TarReader

BLOCK = 512


def header(name: bytes = b"file", **fields: bytes) -> bytes:
    """A ustar header with a right checksum; fields by the names of POSIX."""
    places = {
        "mode": (100, 8),
        "uid": (108, 8),
        "gid": (116, 8),
        "size": (124, 12),
        "mtime": (136, 12),
        "typeflag": (156, 1),
        "linkname": (157, 100),
        "devmajor": (329, 8),
        "prefix": (345, 155),
    }
    block = bytearray(BLOCK)
    block[: len(name)] = name
    block[257:265] = b"ustar\x0000"
    values = {"mode": b"0000644", "uid": b"0000000", "gid": b"0000000", "size": b"0", "mtime": b"0", "typeflag": b"0"}
    for field, value in (values | fields).items():
        start, length = places[field]
        assert len(value) <= length
        block[start : start + len(value)] = value
    return with_checksum(block)


def with_checksum(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    lines = []
    for key, value in records:
        length = len(key) + len(value) + 3
        while len(b"%d" % length) + len(key) + len(value) + 3 != length:
            length += 1
        lines.append(b"%d %s=%s\n" % (length, key, value))
    body = b"".join(lines)
    return header(b"pax", typeflag=kind, size=b"%o" % len(body)) + padded(body)


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
    while True:
        yield b""


def read(data: bytes, size: int = 1 << 16) -> list[tuple[Member, bytes]]:
    archive = TarReader(chunks(data, size).__next__)
    return [(member, b"".join(map(bytes, archive.content()))) for member in archive]


def made(*infos: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for info, content in infos:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def info(name: str, kind: bytes = tarfile.REGTYPE, **attributes: object) -> tarfile.TarInfo:
    one = tarfile.TarInfo(name)
    one.type = kind
    for key, value in attributes.items():
        setattr(one, key, value)
    return one


EVERYTHING = [
    (info("dir", tarfile.DIRTYPE, mode=0o755, mtime=5), b""),
    (info("dir/" + "long" * 60, mode=0o4755, uid=3_000_000, gid=7), b"content" * 100),
    (info("link", tarfile.SYMTYPE, linkname="/x" * 90), b""),
    (info("hard", tarfile.LNKTYPE, linkname="dir/" + "long" * 60), b""),
    (info("tty", tarfile.CHRTYPE, devmajor=5, devminor=1), b""),
    (info("pipe", tarfile.FIFOTYPE), b""),
    (info("empty"), b""),
    (info("ü-\udcff"), b"x"),
]


@pytest.mark.parametrize("size", [1, 7, 512, 513, 1 << 20])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_what_tarfile_writes_is_read_whatever_the_chunks(form: int, size: int) -> None:
    found = read(made(*EVERYTHING, form=form), size)
    expected = [
        (one.name.encode("utf-8", "surrogateescape"), one.mode, one.uid, one.gid, one.mtime * 10**9, content)
        for one, content in EVERYTHING
    ]
    assert [(m.name.rstrip(b"/"), m.mode, m.uid, m.gid, m.mtime_ns, content) for m, content in found] == expected
    assert [m.kind for m, _ in found] == [
        *("directory", "file", "symbolic link", "hard link", "character device", "fifo", "file", "file"),
    ]
    assert [m.target for m, _ in found][2:4] == [b"/x" * 90, b"dir/" + b"long" * 60]
    assert found[4][0].device == (5, 1)


def test_content_that_nobody_reads_is_passed_over() -> None:
    archive = TarReader(chunks(made((info("a"), b"x" * 5000), (info("b"), b"y")), 700).__next__)
    assert [member.name for member in archive] == [b"a", b"b"]


def test_times_and_attributes_of_extended_headers_hold() -> None:
    records = [(b"mtime", b"12.000000345"), (b"SCHILY.xattr.user.a", b"one\n=two"), (b"uid", b"4000000000")]
    ((member, _),) = read(pax(*records) + header())
    assert (member.mtime_ns, member.uid) == (12_000_000_345, 4_000_000_000)
    assert member.xattrs == {"user.a": b"one\n=two"}


def test_a_time_before_1970_is_one() -> None:
    ((member, _),) = read(pax((b"mtime", b"-1.5")) + header())
    assert member.mtime_ns == -1_500_000_000


def test_global_headers_mean_nothing_as_for_podman() -> None:
    ((member, _),) = read(pax((b"path", b"other"), kind=b"g") + header(b"mine"))
    assert member.name == b"mine"


def test_the_prefix_of_ustar_comes_before_the_name() -> None:
    ((member, _),) = read(header(b"name", prefix=b"dir/ectory"))
    assert member.name == b"dir/ectory/name"


def test_an_archive_may_end_without_blocks_of_zeros_or_padding() -> None:
    assert read(header(size=b"3") + b"abc")[0][1] == b"abc"


def test_what_follows_the_end_is_read_too_since_the_digest_covers_it() -> None:
    source = chunks(header() + bytes(2 * BLOCK) + b"more" * 5000, 100)
    assert len(list(TarReader(source.__next__))) == 1
    assert next(source) == b""


# --- sparse files -----------------------------------------------------------------------------------------------------

SPARSE = b"GNU.sparse."


def sparse_1_0() -> bytes:
    content = padded(b"2\n100\n3\n2000\n2\n") + b"abcde"
    records = [
        (SPARSE + b"major", b"1"),
        (SPARSE + b"minor", b"0"),
        (SPARSE + b"name", b"s"),
        (SPARSE + b"realsize", b"3000"),
    ]
    return pax(*records) + header(b"GNUSparseFile.0/s", size=b"%o" % len(content)) + padded(content)


def sparse_0_1() -> bytes:
    records = [(SPARSE + b"map", b"100,3,2000,2"), (SPARSE + b"size", b"3000"), (SPARSE + b"name", b"s")]
    return pax(*records) + header(b"x", size=b"5") + padded(b"abcde")


def sparse_0_0() -> bytes:
    pieces = [
        (SPARSE + key, value)
        for pair in ((b"100", b"3"), (b"2000", b"2"))
        for key, value in zip((b"offset", b"numbytes"), pair, strict=True)
    ]
    return pax((SPARSE + b"size", b"3000"), *pieces) + header(b"s", size=b"5") + padded(b"abcde")


def sparse_of_old() -> bytes:
    block = bytearray(header(b"s", typeflag=b"S", size=b"5"))
    block[257:265] = b"ustar  \0"
    for at, value in zip((386, 398, 410, 422), (100, 3, 2000, 2), strict=True):
        block[at : at + 12] = b"%011o\0" % value
    block[483:495] = b"%011o\0" % 3000
    return with_checksum(block) + padded(b"abcde")


@pytest.mark.parametrize("make", [sparse_1_0, sparse_0_1, sparse_0_0, sparse_of_old])
def test_sparse_files_have_their_map(make: object) -> None:
    ((member, content),) = read(make())  # type: ignore[operator]
    assert (member.name, member.size, member.pieces, content) == (b"s", 3000, [(100, 3), (2000, 2)], b"abcde")


@pytest.mark.demand("TAR-loop")
@pytest.mark.parametrize("text", [b"9" * 20, b"-1", b"1_0", b"100,9999", b"5,3,1,2", b"1,4"])
def test_a_map_that_does_not_fit_the_content_is_an_error(text: bytes) -> None:
    records = [(SPARSE + b"map", text), (SPARSE + b"size", b"3000")]
    with pytest.raises(MalformedArchiveError):
        read(pax(*records) + header(size=b"5") + padded(b"abcde"))


# --- what is wrong, or meant to harm ----------------------------------------------------------------------------------


def gnu_number(value: int, length: int) -> bytes:
    return (value & ((1 << 8 * length) - 1) | (0x80 << 8 * (length - 1))).to_bytes(length)


@pytest.mark.demand("TAR-loop")
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(header(size=gnu_number(-1, 12)), id="negative size"),
        pytest.param(header(size=gnu_number(1 << 80, 12)), id="size beyond all file systems"),
        pytest.param(header(size=b"-1"), id="size with a sign"),
        pytest.param(header(size=b"12_3"), id="underscore"),
        pytest.param(header(size=b"00000000789"), id="no octal digits"),
        pytest.param(header(size=b"77777777777"), id="size beyond the end"),
        pytest.param(pax((b"size", b"-5")) + header(), id="negative size in an extended header"),
        pytest.param(pax((b"size", b"9" * 5000)) + header(), id="5000 digits"),
        pytest.param(pax((b"mtime", b"1e5")) + header(), id="exponent"),
        pytest.param(pax((b"path", b"a\0b")) + header(), id="NUL in a name"),
        pytest.param(pax() * 9 + header(), id="extended headers without end"),
        pytest.param(header(b"pax", typeflag=b"x", size=b"7777777777") + bytes(BLOCK), id="large extended header"),
        pytest.param(header(b"l", typeflag=b"L", size=b"7777777777") + bytes(BLOCK), id="large name"),
        pytest.param(header(b"pax", typeflag=b"x", size=b"10") + padded(b"0 a=b\n\n\n"), id="record of length 0"),
        pytest.param(header(b"pax", typeflag=b"x", size=b"10") + padded(b"99 a=b\n\n"), id="record beyond the end"),
        pytest.param(header(b"pax", typeflag=b"x", size=b"10") + padded(b"-8 a=b\n\n"), id="record of negative length"),
        pytest.param(pax((b"path", b"x")), id="extended header of no member"),
        pytest.param(header(typeflag=b"V"), id="unknown type"),
        pytest.param(header()[:300], id="half a header"),
        pytest.param(b"x" * BLOCK, id="no header"),
    ],
)
def test_what_is_malformed_is_an_error(data: bytes) -> None:
    with pytest.raises(MalformedArchiveError):
        read(data)


@pytest.mark.demand("TAR-loop")
def test_an_extended_header_that_is_there_but_too_large_is_an_error() -> None:
    size = (1 << 20) + 1
    with pytest.raises(MalformedArchiveError, match="are allowed"):
        read(header(b"name", typeflag=b"L", size=b"%o" % size) + padded(b"n" * size) + header())


def test_content_that_breaks_off_is_an_error_also_if_nobody_reads_it() -> None:
    archive = TarReader(chunks(header(size=b"2000") + bytes(BLOCK), 100).__next__)
    assert archive.next() is not None
    with pytest.raises(MalformedArchiveError, match="breaks off"):
        archive.next()


@pytest.mark.demand("TAR-loop")
def test_a_full_extended_header_is_read_in_linear_time() -> None:
    """26,000 records of one key, which version 0.0 of sparse files repeats: each must not copy those before it."""
    pairs = [(b"%d" % (2 * number), b"1") for number in range(13_000)]
    pieces = [
        (SPARSE + key, value) for pair in pairs for key, value in zip((b"offset", b"numbytes"), pair, strict=True)
    ]
    archive = pax((SPARSE + b"size", b"26000"), *pieces) + header(size=b"%o" % len(pairs)) + padded(bytes(len(pairs)))
    ((member, _),) = read(archive)
    assert len(member.pieces or ()) == len(pairs)


@given(st.binary(max_size=3000), st.integers(1, 600))
def test_whatever_the_bytes_nothing_but_the_one_error_comes_of_them(data: bytes, size: int) -> None:
    with contextlib.suppress(MalformedArchiveError):
        read(data, size)


@given(st.data())
def test_whatever_is_changed_in_an_archive_nothing_but_the_one_error_comes_of_it(data: st.DataObject) -> None:
    whole = bytearray(made(*EVERYTHING[:4], form=data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(whole) // BLOCK - 1)) * BLOCK
        block = whole[start : start + BLOCK]
        block[data.draw(st.integers(0, BLOCK - 1))] = data.draw(st.integers(0, 255))
        whole[start : start + BLOCK] = with_checksum(block) if data.draw(st.booleans()) else block
    with contextlib.suppress(MalformedArchiveError):
        read(bytes(whole))
