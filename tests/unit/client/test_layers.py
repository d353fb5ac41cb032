"""Decompression and DiffIDs: every form of a compressed layer, and nothing complete that is wrong."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import zlib

import pytest
import zstandard

from container_image_client.errors import UnsupportedImageError, WrongContentError
from container_image_client.hashes import new_hash
from container_image_client.layers import LayerReader, decompress

CONTENT = b"some text, " * 50_000 + random.Random(3).randbytes(700_000)  # noqa: S311 - no secret
HALF = len(CONTENT) // 2
GZIP = gzip.compress(CONTENT)


def diff_id(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


class Blob(io.BytesIO):
    """Gives a few bytes at a time, as sockets do."""

    def __init__(self, content: bytes, piece: int = 10_000) -> None:
        super().__init__(content)
        self._piece = piece

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(self._piece, size if size and size > 0 else self._piece))


def read(blob: bytes, digest: str = diff_id(CONTENT), piece: int = 10_000) -> bytes:
    with LayerReader(Blob(blob, piece), digest) as layer:
        found = []
        while chunk := layer.read():
            assert len(chunk) <= 1 << 18
            found.append(chunk)
        assert layer.read() == b""
    return b"".join(found)


def skippable(content: bytes, number: int = 0) -> bytes:
    return bytes([0x50 + number]) + b"\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content


FORMS = {
    "plain": CONTENT,
    "gzip": gzip.compress(CONTENT),
    "gzip of many members": b"".join(gzip.compress(CONTENT[at : at + 9999]) for at in range(0, len(CONTENT), 9999)),
    "gzip with a name, filled up": GZIP[:3] + b"\x08" + GZIP[4:10] + b"name\0" + GZIP[10:] + bytes(5000),
    "zstd": zstandard.compress(CONTENT),
    "zstd of two frames": zstandard.compress(CONTENT[:HALF]) + zstandard.compress(CONTENT[HALF:]),
    "zstd:chunked": zstandard.compress(CONTENT) + skippable(b"manifest" * 999, 0) + skippable(b"footer"),
    "zstd behind a skippable frame": skippable(b"", 15) + zstandard.compress(CONTENT),
}


@pytest.mark.parametrize("piece", [1 << 20, 4097, 3])
@pytest.mark.parametrize("form", FORMS)
def test_a_layer_is_decompressed_whatever_its_form(form: str, piece: int) -> None:
    blob = FORMS[form]
    if piece == 3:
        content = CONTENT[:5000]
        blob = {"plain": content, "gzip": gzip.compress(content)}.get(form, zstandard.compress(content))
        assert read(blob, diff_id(content), piece) == content
    else:
        assert read(blob, piece=piece) == CONTENT


def test_an_empty_layer_and_one_of_sha512_are_verified_too() -> None:
    assert read(b"", diff_id(b"")) == b""
    assert read(gzip.compress(CONTENT), diff_id(CONTENT, "sha512")) == CONTENT


@pytest.mark.demand("DIG-blob-mismatch")
@pytest.mark.parametrize(
    "blob",
    [
        pytest.param(CONTENT + b"!", id="more"),
        pytest.param(CONTENT[:-1], id="less"),
        pytest.param(b"", id="nothing"),
        pytest.param(gzip.compress(CONTENT)[:-9], id="gzip that breaks off"),
        pytest.param(gzip.compress(CONTENT)[:-8] + bytes(8), id="gzip with a wrong checksum"),
        pytest.param(gzip.compress(CONTENT) + b"garbage", id="gzip with something behind it"),
        pytest.param(b"\x1f\x8bno gzip at all", id="no gzip"),
        pytest.param(zstandard.compress(CONTENT)[:-9], id="zstd that breaks off"),
        pytest.param(b"\x28\xb5\x2f\xfd" + bytes(50), id="no zstd"),
        pytest.param(zstandard.compress(CONTENT) + zstandard.compress(b"!"), id="zstd with a further frame"),
    ],
)
def test_a_layer_that_is_wrong_has_no_end(blob: bytes) -> None:
    with pytest.raises(WrongContentError):
        read(blob)


def test_a_frame_that_wants_more_memory_than_zstd_itself_takes_is_refused() -> None:
    compressor = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    )
    stream = compressor.compressobj()  # without the size of the content, which would bound the window
    blob = stream.compress(CONTENT) + stream.flush()
    with pytest.raises(WrongContentError, match="decompressed"):
        read(blob)


def test_a_bomb_is_unpacked_piece_by_piece() -> None:
    zeros = bytes(1 << 20)
    stream = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS + 16)
    blob = b"".join(stream.compress(zeros) for _ in range(64)) + stream.flush()
    chunks = decompress(Blob(blob, 1 << 20))
    assert all(len(chunk) <= 1 << 18 for chunk in chunks)


def test_who_stops_reading_leaves_no_thread() -> None:
    with LayerReader(Blob(bytes(50 << 20), 1 << 20), diff_id(b"")) as layer:
        assert layer.read()


def test_an_algorithm_that_nobody_can_verify_is_told() -> None:
    with pytest.raises(UnsupportedImageError, match="md5"):
        new_hash("md5:00")
