"""Content codings: their names, and a gzip undone within its bounds."""

from __future__ import annotations

import gzip
import random
import zlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.registry.http.coding import (
    DamagedGzipError,
    Gunzipped,
    Replayed,
    gunzip,
    may_be_gzip,
    parse_codings,
    told,
)

CONTENT = bytes(range(256)) * 40


class Dripping:
    """A source that gives ``step`` bytes at a time, and counts them; ``endless`` begins anew at its end."""

    def __init__(self, data: bytes, step: int = 7, *, endless: bool = False) -> None:
        self._data, self._step, self._endless = data, step, endless
        self._position = 0
        self.given = 0

    def readinto(self, buffer: memoryview) -> int:
        if self._endless and self._position >= len(self._data):
            self._position = 0
        piece = self._data[self._position :][: min(self._step, len(buffer))]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        self.given += len(piece)
        return len(piece)


def read(source: Gunzipped, piece: int = 1000, most: int = 1 << 20) -> bytes:
    buffer, content = memoryview(bytearray(piece)), bytearray()
    while len(content) < most and (count := source.readinto(buffer)):
        content += buffer[:count]
    return bytes(content)


@pytest.mark.parametrize(
    ("values", "codings", "is_gzip"),
    [
        ([], (), False),
        (["identity"], ("identity",), False),
        (["X-GZIP"], ("x-gzip",), True),
        (["aws-chunked, gzip"], ("aws-chunked", "gzip"), True),
        (["aws-chunked", " gzip ,"], ("aws-chunked", "gzip"), True),
        (["utf-8"], ("utf-8",), False),
        (["gzipped"], ("gzipped",), False),
    ],
)
def test_labels(values: list[str], codings: tuple[str, ...], *, is_gzip: bool) -> None:
    assert parse_codings(values) == codings
    assert may_be_gzip(codings) is is_gzip


def test_only_known_codings_are_repeated() -> None:
    assert told(["br", "<script>", "gzip"]) == " (labelled Content-Encoding: br, gzip, though identity was asked for)"
    assert told(["utf-8", "aws-chunked", "identity"]) == ""


@pytest.mark.parametrize("step", [1, 7, 100_000])
@pytest.mark.parametrize("piece", [1, 1000, 100_000])
def test_a_gzip_is_undone_however_it_comes(step: int, piece: int) -> None:
    assert read(Gunzipped(Dripping(gzip.compress(CONTENT), step), len(CONTENT)), piece) == CONTENT


@given(st.binary(max_size=2000), st.integers(0, 9), st.integers(1, 3))
def test_what_was_compressed_comes_back(content: bytes, level: int, members: int) -> None:
    encoded = gzip.compress(content, level) * members
    assert gunzip(encoded, len(content) * members) == content * members
    if content:
        assert gunzip(encoded, len(content) * members - 1) is None


def test_what_follows_a_gzip_is_no_part_of_it() -> None:
    assert gunzip(gzip.compress(CONTENT) + b"\0" * 512, len(CONTENT)) == CONTENT
    assert gunzip(gzip.compress(CONTENT) + b"\x1f", len(CONTENT)) == CONTENT


@pytest.mark.parametrize(
    "data",
    [b"", b"\x1f", b"\x1f\x8b", CONTENT, zlib.compress(CONTENT), gzip.compress(CONTENT)[:-1],
     gzip.compress(CONTENT)[:20], gzip.compress(CONTENT)[:-8] + bytes(8), gzip.compress(CONTENT) + b"\x1f\x8b\x08junk"],
    ids=["nothing", "one", "magic", "plain", "zlib", "cut", "head", "checksum", "second"],
)  # fmt: skip
def test_what_is_no_whole_gzip_is_damaged(data: bytes) -> None:
    with pytest.raises(DamagedGzipError):
        gunzip(data, len(CONTENT))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_gzip_or_damaged(data: bytes) -> None:
    try:
        content = gunzip(gzip.compress(b"x")[:10] + data, 1000)
    except DamagedGzipError:
        return
    assert content is None or len(content) <= 1000


@pytest.mark.demand("BOMB-content-encoding")
def test_a_bomb_is_read_no_further_than_asked() -> None:
    source = Dripping(gzip.compress(bytes(64 << 20)), 4096)
    assert read(Gunzipped(source, 1000), piece=1000, most=1000) == bytes(1000)
    assert source.given < 20_000
    assert gunzip(gzip.compress(bytes(64 << 20)), 1000) is None


@pytest.mark.demand("BOMB-content-encoding")
def test_an_endless_gzip_of_nothing_ends() -> None:
    nothing = gzip.compress(b"")
    with pytest.raises(DamagedGzipError):
        read(Gunzipped(Dripping(nothing, 10_000, endless=True), 1 << 40))
    flushed = zlib.compressobj(wbits=31)
    endless = flushed.compress(b"") + flushed.flush(zlib.Z_SYNC_FLUSH)
    source = Dripping(b"\0\0\0\xff\xff" * 1000, 5000, endless=True)
    with pytest.raises(DamagedGzipError):
        read(Gunzipped(Replayed(endless, source), 1000))
    assert source.given < 100_000


def test_what_was_seen_is_read_again_before_the_rest() -> None:
    source = Replayed(b"abc", Dripping(b"defgh", 2))
    buffer, pieces = memoryview(bytearray(2)), []
    while count := source.readinto(buffer):
        pieces.append(bytes(buffer[:count]))
    assert pieces == [b"ab", b"c", b"de", b"fg", b"h"]
    assert Replayed(b"", BytesIO()).readinto(buffer) == 0


def test_noise_that_does_not_compress_fits_its_bound() -> None:
    noise = random.Random(1).randbytes(1 << 18)  # noqa: S311 - no secret
    encoder = zlib.compressobj(level=0, wbits=31)
    encoded = b"".join(
        encoder.compress(noise[start : start + 64]) + encoder.flush(zlib.Z_FULL_FLUSH)
        for start in range(0, len(noise), 64)
    )
    assert gunzip(encoded + encoder.flush(), len(noise)) == noise
