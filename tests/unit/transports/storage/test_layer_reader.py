"""A layer put together again: the very tar, from any offset, and an end as soon as a file is not what it was."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import IntegrityError, SourceError
from container_image_proxy.transports.storage.layer_files import LayerFiles
from container_image_proxy.transports.storage.layer_reader import LayerReader
from tests.support.stores import tar_split, unpack


def tar_of(*members: tuple[str, bytes, str]) -> bytes:
    """A tar of (name, type, content or link)."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, text in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            content = text.encode() if kind == tarfile.REGTYPE else b""
            member.size = len(content)
            member.linkname = "" if kind == tarfile.REGTYPE else text
            archive.addfile(member, io.BytesIO(content))
    return raw.getvalue()


LAYER = tar_of(
    ("usr", tarfile.DIRTYPE, ""),
    ("usr/lib", tarfile.DIRTYPE, ""),
    ("lib", tarfile.SYMTYPE, "usr/lib"),
    ("lib/through-a-link", tarfile.REGTYPE, "a" * 700),
    ("absolute", tarfile.SYMTYPE, "/usr/lib"),
    ("absolute/through-it", tarfile.REGTYPE, "b" * 3),
    ("./etc/passwd", tarfile.REGTYPE, "root"),
    ("etc/hard", tarfile.LNKTYPE, "./etc/passwd"),
    ("etc/empty", tarfile.REGTYPE, ""),
    ("n" * 200 + "/" + "m" * 150, tarfile.REGTYPE, "long"),
    ("etc/\udce9", tarfile.REGTYPE, "not UTF-8"),
    ("etc/.wh.gone", tarfile.REGTYPE, ""),
    ("large", tarfile.REGTYPE, "c" * 100_000),
)


def reader_of(tar: bytes, place: Path, offset: int = 0) -> LayerReader:
    if not place.exists():
        unpack(tar, place)
    files = LayerFiles(os.open(place, os.O_PATH | os.O_DIRECTORY))
    return LayerReader(io.BytesIO(tar_split(tar)), files, "layer x", offset)


def read_all(reader: LayerReader, size: int = 1 << 16) -> bytes:
    buffer, pieces = memoryview(bytearray(size)), []
    try:
        while count := reader.readinto(buffer):
            pieces.append(bytes(buffer[:count]))
    finally:
        reader.close()
    return b"".join(pieces)


@pytest.mark.parametrize("size", [1 << 20, 4096, 511, 7])
def test_a_layer_is_the_tar_that_it_was(tmp_path: Path, size: int) -> None:
    assert read_all(reader_of(LAYER, tmp_path / "layer"), size) == LAYER


def test_a_buffer_is_filled_as_far_as_the_layer_goes(tmp_path: Path) -> None:
    reader = reader_of(LAYER, tmp_path / "layer")
    assert reader.readinto(memoryview(bytearray(100_000))) == 100_000
    assert reader.offset == 100_000
    reader.close()


@given(st.integers(0, len(LAYER)))
def test_a_reader_can_begin_anywhere(tmp_path_factory: pytest.TempPathFactory, offset: int) -> None:
    place = tmp_path_factory.getbasetemp() / "anywhere"
    reader = reader_of(LAYER, place, offset)
    assert reader.offset == offset
    assert read_all(reader) == LAYER[offset:]


@given(st.dictionaries(st.text("abc", min_size=1, max_size=9), st.binary(max_size=2000), max_size=12), st.data())
def test_any_tar_comes_back_from_any_offset(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, bytes], data: st.DataObject
) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, one in content.items():
            member = tarfile.TarInfo(f"{name}.d/{name}")
            member.size = len(one)
            archive.addfile(member, io.BytesIO(one))
    tar = raw.getvalue() + data.draw(st.binary(max_size=600))  # what follows the end belongs to the layer, too
    offset = data.draw(st.integers(0, len(tar)))
    assert read_all(reader_of(tar, tmp_path_factory.mktemp("any") / "layer", offset)) == tar[offset:]


@pytest.mark.parametrize("content", [b"", b"roo", b"root\n"])
def test_a_file_of_another_size_ends_the_transfer(tmp_path: Path, content: bytes) -> None:
    reader = reader_of(LAYER, tmp_path / "layer")
    (tmp_path / "layer/etc/passwd").write_bytes(content)
    with pytest.raises(IntegrityError, match=f"layer x: './etc/passwd' has {len(content)} bytes, and had 4"):
        read_all(reader)


def test_a_file_that_is_gone_ends_the_transfer(tmp_path: Path) -> None:
    reader = reader_of(LAYER, tmp_path / "layer")
    (tmp_path / "layer/large").unlink()
    with pytest.raises(SourceError, match="layer x: 'large': No such file or directory"):
        read_all(reader)


def test_what_passes_is_not_the_layers_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reader_of(LAYER, tmp_path / "layer")

    def failing(_: bytes) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(reader._files, "open", failing)
    with pytest.raises(SourceError, match=os.strerror(errno.EMFILE)) as caught:
        read_all(reader)
    assert caught.value.retryable


def test_a_file_that_becomes_shorter_meanwhile_ends_the_transfer(tmp_path: Path) -> None:
    reader = reader_of(LAYER, tmp_path / "layer")
    reader.readinto(memoryview(bytearray(len(LAYER) - 60_000)))
    os.truncate(tmp_path / "layer/large", 10)
    with pytest.raises(IntegrityError, match="layer x: 'large' became shorter"):
        read_all(reader)


def test_a_reader_may_be_closed_again_and_in_the_middle(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    reader = reader_of(LAYER, tmp_path / "layer")
    reader.readinto(memoryview(bytearray(len(LAYER) - 60_000)))
    reader.reject()
    reader.close()
    reader.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
