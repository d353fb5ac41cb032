"""Headers of tar archives, against what ``tarfile`` writes, what GNU tar writes, and what nobody should."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import SourceError
from container_image_proxy.transports.archives import headers
from container_image_proxy.transports.archives.headers import BLOCK, Member, read_members
from container_image_proxy.transports.archives.index import TarIndex, normalise

LONG = "a-directory/" * 20 + "file"
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def reader(archive: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, count: archive[offset : offset + count]


def members(archive: bytes) -> list[Member]:
    return list(read_members(reader(archive), len(archive), "/x.tar"))


def index(archive: bytes, *, first_counts: bool = False) -> TarIndex:
    return TarIndex(reader(archive), len(archive), "/x.tar", first_counts=first_counts)


def content(archive: bytes, name: str, *, first_counts: bool = False) -> bytes | None:
    member = index(archive, first_counts=first_counts).find(name)
    return None if member is None else archive[member.offset : member.offset + member.size]


def tar(*entries: tuple[str, bytes] | tarfile.TarInfo, form: str = "gnu") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[form]) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def header(
    name: bytes = b"f", *, size: bytes = b"00000000001\0", kind: bytes = b"0", magic: bytes = b"ustar\x0000"
) -> bytes:
    """A header of exactly these fields, with its right checksum."""
    block = bytearray(BLOCK)
    block[: len(name)] = name
    block[124:136] = size
    block[156:157] = kind
    block[257 : 257 + len(magic)] = magic
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return header(b"pax", size=b"%011o\0" % len(records), kind=kind) + padded(records)


END = bytes(2 * BLOCK)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["short", "d/" * 40 + "longer-than-a-field"], ids=["short", "long"])
def test_members_have_the_names_and_offsets_that_every_format_gives(form: str, name: str) -> None:
    archive = tar((name, b"one"), ("empty", b""), ("last", b"x" * 700), form=form)
    assert content(archive, name) == b"one"
    assert content(archive, "empty") == b""
    assert content(archive, "last") == b"x" * 700
    assert content(archive, "absent") is None


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_names_of_any_length_and_letters_are_read(form: str) -> None:
    archive = tar((LONG, b"deep"), ("ü" * 80, b"umlauts"), link("l" * 150, LONG), form=form)
    assert content(archive, LONG) == b"deep"
    assert content(archive, "ü" * 80) == b"umlauts"
    assert content(archive, "l" * 150) == b"deep"


@pytest.mark.parametrize(
    "options", [["--format=v7"], ["--format=ustar"], ["--format=gnu"], ["--format=posix"], ["--format=oldgnu"]]
)
def test_what_gnu_tar_writes_is_read(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "in/d").mkdir(parents=True)
    (tmp_path / "in/d/file").write_bytes(b"content")
    (tmp_path / "in/d/hard").hardlink_to(tmp_path / "in/d/file")
    (tmp_path / "in/soft").symlink_to("d/file")
    subprocess.run(["tar", *options, "-C", tmp_path / "in", "-cf", tmp_path / "x.tar", "."], check=True)
    archive = (tmp_path / "x.tar").read_bytes()
    assert [content(archive, name) for name in ("d/file", "./d/hard", "soft")] == [b"content"] * 3


def test_a_size_beyond_octal_is_read_from_each_format_that_has_it() -> None:
    size = 9 * 1024**3
    for archive in (
        header(size=b"\x80" + size.to_bytes(11, "big")),
        pax(b"19 size=%d\n" % size) + header(size=b"00000000000\0"),
    ):
        (member,) = read_members(reader(archive), size + 5 * BLOCK, "/x.tar")
        assert member.size == size


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=posix", "--sparse-version=0.0"], ["--format=posix"]])
def test_sparse_members_are_passed_over_and_refused_when_they_are_asked_for(tmp_path: Path, options: list[str]) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        for position in range(0, 60 << 20, 2 << 20):  # more pieces than the first header holds
            file.seek(position)
            file.write(b"data")
    (tmp_path / "plain").write_bytes(b"behind it")
    subprocess.run(["tar", "-S", *options, "-C", tmp_path, "-cf", tmp_path / "x.tar", "sparse", "plain"], check=True)
    archive = (tmp_path / "x.tar").read_bytes()
    assert content(archive, "plain") == b"behind it"
    with pytest.raises(SourceError, match="'sparse' is a sparse file, where a regular file was expected"):
        content(archive, "sparse")


def test_of_two_members_with_one_name_the_last_counts_or_the_first_where_that_is_asked_for() -> None:
    archive = tar(("./f", b"first"), ("d/../f", b"last"))
    assert content(archive, "f") == b"last"
    assert content(archive, "f", first_counts=True) == b"first"


# --- links ------------------------------------------------------------------------------------------------------------


def test_links_are_resolved_as_an_extracted_archive_would_have_them() -> None:
    archive = tar(
        ("blobs/real", b"x"), link("same", "blobs/real", tarfile.LNKTYPE), link("a/b/up", "../../blobs"),
        link("chain", "a/b/up/real"), link("of-a-link", "chain", tarfile.LNKTYPE),
    )  # fmt: skip
    for name in ("same", "a/b/up/real", "chain", "of-a-link", "a/../chain"):
        assert content(archive, name) == b"x", name


@pytest.mark.demand("TAR-traversal")
@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (link("f", "/etc/passwd"), "leads out of the archive, to '/etc/passwd'"),
        (link("f", "../../etc/passwd"), "leads out of the archive"),
        (link("d/f", "../../x"), "leads out of the archive"),
        (link("f", "../../etc/passwd", tarfile.LNKTYPE), "leads out of the archive"),
        (link("f", "/etc/passwd", tarfile.LNKTYPE), "is a link to something that is not in the archive"),
        (link("f", "", tarfile.FIFOTYPE), "is a special file"),
        (link("f", "", tarfile.CHRTYPE), "is a special file"),
        (link("f", "", tarfile.BLKTYPE), "is a special file"),
    ],
    ids=lambda value: value.linkname + value.type.decode() if isinstance(value, tarfile.TarInfo) else "",
)
def test_what_is_no_file_of_the_archive_is_refused(entry: tarfile.TarInfo, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        index(tar(entry)).find(entry.name)


@pytest.mark.demand("TAR-traversal")
def test_a_member_whose_name_leads_out_of_the_archive_has_no_name() -> None:
    archive = tar(("../x", b"1"), ("a/../../x", b"2"), ("/etc/passwd", b"3"))
    assert len(index(archive)) == 1
    assert content(archive, "etc/passwd") == b"3"  # where tar(1) would extract it
    with pytest.raises(SourceError, match="leads out of the archive"):
        content(archive, "../x")


@pytest.mark.demand("TAR-loop")
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE], ids=["symbolic", "hard"])
def test_links_in_a_circle_are_an_error(kind: bytes) -> None:
    archive = tar(link("f", "g", kind), link("g", "f", kind), link("self", "self/self", kind))
    for name in ("f", "g", "self"):
        with pytest.raises(SourceError, match="a chain of more than 40 links"):
            content(archive, name)


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.demand("TAR-loop")
@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (b"", None),
        (b"no tar at all", "ends early: 512 bytes of a header were expected, 13 are left"),
        (b"x" * BLOCK, "byte 0: this is no tar archive: the checksum is wrong"),
        (bytes(148) + b"0000000\0" + b"x" * 356, "byte 0: this is no tar archive: the checksum is wrong"),
        (header() + padded(b"1") + b"y" * BLOCK, "byte 1024: a tar header was expected here"),
        (header(size=b"\xff" * 12), "a header's size is negative or too large"),
        (header(size=b"\x80" + b"\xff" * 11), "a header's size is negative or too large"),
        (header(size=b"-0000000001\0"), "a header's size is no octal number"),
        (header(size=b"00000009\0\0\0\0"), "a header's size is no octal number"),
        (header() + padded(b"1") + bytes(BLOCK) + header(), "a block of zeros is followed by other content"),
        (header(size=b"00000000010\0") + b"1234567", "8 bytes of the member 'f' were expected, 7 are left"),
        (pax(b"13 size=-512\n") + header(), "a pax header's size is no number of bytes"),
        (pax(b"30 size=99999999999999999999\n") + header(), "a pax header"),
        (pax(b"0 path=x\n") + header(), "a pax header is malformed"),
        (pax(b"99 path=x\n") + header(), "a pax header is malformed"),
        (pax(b"-9 path=x\n") + header(), "a pax header is malformed"),
        (pax(b"9999999999999999999999999 path=x\n") + header(), "a pax header is malformed"),
        (pax(b"9 path=xy") + header(), "a pax header is malformed"),
        (pax(b"7 path\n") + header(), "a pax header is malformed"),
        (pax(b"12 path=a\0b\n") + header(), "a member's name has a NUL in it"),
        (pax(b"9 size=1\n", b"g") + header(), "a global header gives names or sizes to all members"),
        (pax(b"10 path=x\n"), "the archive ends after an extension header"),
        (header(kind=b"L", size=b"00010000000\0"), "an extension header has 2097152 bytes, more than 1048576"),
        (header(kind=b"L", size=b"00000001000\0") + b"x", "the archive ends early: 512 bytes of a header"),
        (header(kind=b"L", size=b"00000010001\0") + padded(b"n" * 4097) + header(), "name has more than 4096 bytes"),
    ],
)  # fmt: skip
def test_a_malformed_header_is_an_error_that_says_where_and_what(archive: bytes, reason: str | None) -> None:
    if reason is None:
        assert members(archive) == []
        return
    with pytest.raises(SourceError, match=reason) as caught:
        members(archive)
    assert not caught.value.retryable
    assert "/x.tar" in str(caught.value)


@pytest.mark.demand("BOMB-archive")
def test_a_million_members_are_refused_after_as_many_as_are_allowed() -> None:
    read = 0
    block = header(size=b"00000000000\0")

    def read_at(offset: int, count: int) -> bytes:
        nonlocal read
        read += 1
        return block[:count]

    with pytest.raises(SourceError, match="more than 65536 members"):
        TarIndex(read_at, 1 << 40, "/x.tar")
    assert read == headers.MAX_MEMBERS + 1


@pytest.mark.demand("BOMB-archive")
def test_extension_headers_without_end_are_refused() -> None:
    extension = pax(b"1048575 comment=" + b"x" * (1048575 - 17) + b"\n")

    def read_at(offset: int, count: int) -> bytes:
        start = offset % len(extension)
        return (extension * 2)[start : start + count]

    with pytest.raises(SourceError, match=f"more than {headers.MAX_HEADERS} bytes of headers"):
        TarIndex(read_at, 1 << 40, "/x.tar")


@pytest.mark.demand("TAR-loop")
def test_records_of_extension_headers_are_bounded() -> None:
    extension = pax(b"5 a=\n" * (headers.MAX_RECORDS // 64 + 1))
    with pytest.raises(SourceError, match=f"more than {headers.MAX_RECORDS} records in pax headers"):
        index((extension + header(size=b"00000000000\0")) * 64)


@pytest.mark.demand("BOMB-archive")
def test_names_together_are_bounded() -> None:
    entries = b"".join(
        header(b"L", kind=b"L", size=b"%011o\0" % 4096) + b"%04096d" % number + header(size=b"00000000000\0")
        for number in range(4097)
    )
    with pytest.raises(SourceError, match="the members' names have more than 16777216 bytes"):
        index(entries + END)


@given(st.binary(max_size=4 * BLOCK))
def test_no_bytes_make_anything_but_members_or_an_error(data: bytes) -> None:
    try:
        found = members(data)
    except SourceError:
        return
    assert all(0 <= one.offset <= one.offset + one.size <= len(data) for one in found)


@given(
    st.lists(st.tuples(st.text("ab./", min_size=1, max_size=12), st.binary(max_size=1200)), max_size=6),
    st.sampled_from(sorted(FORMATS)),
)
def test_what_tarfile_wrote_is_found_again(entries: list[tuple[str, bytes]], form: str) -> None:
    entries = [(name, data) for name, data in entries if not name.endswith("/") and normalise(name.encode())]
    archive = tar(*entries, form=form)
    wanted = {normalise(name.encode()): data for name, data in entries}
    for name, data in wanted.items():
        assert content(archive, name.decode()) == data
