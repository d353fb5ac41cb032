"""The verified stream: whoever holds all of a blob holds the right blob."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import count, repeat
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.core import verified_stream as stream
from container_image_proxy.core.checkpoints import BlobHash
from container_image_proxy.core.verified_stream import VerifiedBlob
from container_image_proxy.errors import DigestMismatchError, Error, IntegrityError, SizeMismatchError
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import Descriptor
from tests.support.readers import ScriptedReader

RING_SIZE = 64
HALF = RING_SIZE // 2
FIRST_SIZE = 10
CONTENT = bytes(range(256)) * 40
WRONG = CONTENT[:-1] + b"!"


@pytest.fixture(autouse=True, scope="module")
def small_ring() -> Iterator[None]:
    """The ring is so small here that ``CONTENT`` goes round many times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "RING_SIZE", RING_SIZE)
        patch.setattr(stream, "FIRST_SIZE", FIRST_SIZE)
        yield


def describe(content: bytes, *, size: int | None = None, algorithm: str = "sha256") -> Descriptor:
    return Descriptor("application/octet-stream", digest_of(content, algorithm), len(content) if size is None else size)


def parts(content: bytes, size: int) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


def drain(script: Iterable[bytes | Error], descriptor: Descriptor) -> tuple[bytes, Error | None]:
    """What a client got, and how it ended."""
    received = b""
    try:
        with closing(VerifiedBlob(ScriptedReader(script), descriptor)) as blob:
            for piece in blob:
                received += piece
    except Error as error:
        return received, error
    return received, None


@pytest.mark.demand("DIG-sha512")
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size", [1, 31, 32, 33, 100, 4096, 20000])
def test_the_right_content_arrives_whole(size: int, algorithm: str) -> None:
    assert drain(parts(CONTENT, size), describe(CONTENT, algorithm=algorithm)) == (CONTENT, None)


def test_an_empty_blob_is_verified_too() -> None:
    assert drain([], describe(b"")) == (b"", None)
    assert isinstance(drain([], Descriptor("", digest_of(b"x"), 0))[1], DigestMismatchError)
    assert isinstance(drain([b"x"], describe(b""))[1], SizeMismatchError)


@pytest.mark.demand("DIG-blob-mismatch")
def test_a_wrong_last_byte_withholds_the_last_piece() -> None:
    received, error = drain(parts(WRONG, 1000), describe(CONTENT))
    assert isinstance(error, DigestMismatchError)
    assert received == CONTENT[: len(received)]
    assert len(CONTENT) - RING_SIZE // 2 <= len(received) < len(CONTENT)


@pytest.mark.demand("mirror-corrupt-blob")
@pytest.mark.parametrize("content", [CONTENT, CONTENT[:RING_SIZE]])
def test_the_reader_learns_that_its_content_was_wrong(content: bytes) -> None:
    for sent, rejections in ((content, 0), (content[:-1] + b"!", 1)):
        reader = ScriptedReader([sent])
        try:
            VerifiedBlob(reader, describe(content)).read_all()
        except DigestMismatchError:
            assert rejections
        assert (reader.rejected, reader.closed > 0) == (rejections, True)


@pytest.mark.demand("DIG-blob-short")
@pytest.mark.parametrize("size", [1, 7, RING_SIZE])
@pytest.mark.parametrize("content", [CONTENT[: RING_SIZE - 1], CONTENT[: RING_SIZE - 1] + b"!"])
def test_of_a_bad_blob_that_fits_the_ring_nothing_leaves_however_it_comes(size: int, content: bytes) -> None:
    reader = ScriptedReader(parts(content, size))
    with pytest.raises(IntegrityError):
        VerifiedBlob(reader, describe(CONTENT[:RING_SIZE]))
    assert reader.closed


def test_a_blob_that_fits_the_ring_is_one_piece_and_a_larger_one_comes_in_several() -> None:
    small, large = CONTENT[:RING_SIZE], CONTENT[: RING_SIZE + 1]
    with closing(VerifiedBlob(ScriptedReader(parts(small, 10)), describe(small))) as blob:
        assert [bytes(piece) for piece in blob] == [small]
    with closing(VerifiedBlob(ScriptedReader(parts(large, 10)), describe(large))) as blob:
        sizes = [len(piece) for piece in blob]
    assert sizes == [FIRST_SIZE, HALF - FIRST_SIZE, HALF, 1]


def test_a_source_that_is_slow_is_passed_on_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = count()
    monkeypatch.setattr(stream, "monotonic", lambda: next(now))
    with closing(VerifiedBlob(ScriptedReader(parts(CONTENT, 10)), describe(CONTENT))) as blob:
        pieces = [bytes(piece) for piece in blob]
    assert max(map(len, pieces)) == 10
    assert b"".join(pieces) == CONTENT


@pytest.mark.demand("DIG-blob-trailing")
@pytest.mark.parametrize("content", [CONTENT, CONTENT[:10]])
def test_a_blob_that_is_too_long_fails_before_its_last_piece_is_passed_on(content: bytes) -> None:
    received, error = drain([content, b"more"], describe(content))
    assert isinstance(error, SizeMismatchError)
    assert len(received) < len(content)


@pytest.mark.demand("DIG-blob-short")
def test_a_blob_that_is_too_short_fails() -> None:
    received, error = drain(parts(CONTENT[:5000], 1000), describe(CONTENT))
    assert isinstance(error, SizeMismatchError)
    assert len(received) < len(CONTENT)


def test_an_endless_source_is_cut_at_the_size_its_descriptor_says() -> None:
    received, error = drain(repeat(b"x" * 1000), describe(CONTENT))
    assert isinstance(error, SizeMismatchError)
    assert len(received) < len(CONTENT)


def test_leaving_early_closes_the_reader_and_ends_the_hashing_thread() -> None:
    before = threading.active_count()
    reader = ScriptedReader(parts(CONTENT, 10))
    blob = VerifiedBlob(reader, describe(CONTENT))
    started = bytes(next(blob)) + bytes(next(blob))
    assert started == CONTENT[: len(started)]
    assert threading.active_count() == before + 1
    blob.close()
    assert reader.closed
    assert threading.active_count() == before


@contextmanager
def many_streams() -> Iterator[None]:
    """More streams than are helped run until the block ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_PROCESSORS", 0)
        yield


@pytest.mark.demand("mem-limit")
def test_one_of_many_streams_hashes_in_its_own_thread_and_fills_its_ring() -> None:
    before = threading.active_count()
    with many_streams():
        with closing(VerifiedBlob(ScriptedReader([CONTENT]), describe(CONTENT))) as blob:
            sizes = [len(next(blob)) for _ in range(3)]
            assert sizes == [FIRST_SIZE, RING_SIZE - FIRST_SIZE, RING_SIZE]
            assert threading.active_count() == before
            assert CONTENT[: sum(sizes)] + blob.read_all() == CONTENT
        assert isinstance(drain([WRONG], describe(CONTENT))[1], DigestMismatchError)


def test_a_stream_is_one_of_many_as_long_as_others_run_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_PROCESSORS", 1)
    before = threading.active_count()
    first = VerifiedBlob(ScriptedReader([CONTENT]), describe(CONTENT))
    received = [bytes(next(first)) for _ in range(3)]
    assert threading.active_count() == before + 1
    with closing(VerifiedBlob(ScriptedReader([CONTENT]), describe(CONTENT))) as second:
        received += [bytes(next(first)) for _ in range(3)]
        assert threading.active_count() == before
        assert len(received[-1]) == RING_SIZE
        assert second.read_all() == CONTENT
    received += [bytes(next(first)) for _ in range(3)]
    assert threading.active_count() == before + 1
    assert len(received[-1]) == HALF
    assert b"".join(received) + first.read_all() == CONTENT
    assert threading.active_count() == before


def test_no_more_pieces_are_hashed_at_once_than_there_are_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, proceed = stream._turns.qsize(), threading.Event()
    hashing: SimpleQueue[None] = SimpleQueue()
    update = BlobHash.update

    def slow_update(blob_hash: BlobHash, piece: memoryview) -> None:
        hashing.put(None)
        proceed.wait()
        update(blob_hash, piece)

    monkeypatch.setattr(BlobHash, "update", slow_update)
    small = CONTENT[:RING_SIZE]
    with ThreadPoolExecutor(turns + 2) as pool:
        drained = [pool.submit(drain, [small], describe(small)) for _ in range(turns + 2)]
        try:
            for _ in range(turns):
                hashing.get()
            assert stream._turns.empty()
            assert hashing.empty()
        finally:
            proceed.set()
        assert [one.result() for one in drained] == [(small, None)] * (turns + 2)
    assert stream._turns.qsize() == turns


def test_a_hash_that_fails_gives_its_turn_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    turns = stream._turns.qsize()
    monkeypatch.setattr(BlobHash, "update", fail)
    with pytest.raises(MemoryError):
        drain([CONTENT[:RING_SIZE]], describe(CONTENT[:RING_SIZE]))
    assert stream._turns.qsize() == turns


@given(st.lists(st.booleans(), min_size=1, max_size=400), st.sampled_from([CONTENT, WRONG]))
def test_helpers_may_come_and_go_at_any_piece(helped: list[bool], content: bytes) -> None:
    received, turns = b"", iter(helped)
    with (
        pytest.MonkeyPatch.context() as patch,
        closing(VerifiedBlob(ScriptedReader([content]), describe(CONTENT))) as blob,
    ):
        try:
            for piece in blob:
                received += piece
                patch.setattr(stream, "_PROCESSORS", 1000 if next(turns, True) else 0)
        except DigestMismatchError:
            assert content == WRONG
            assert len(received) < len(CONTENT)
        else:
            assert received == CONTENT


def test_a_system_without_threads_to_spare_costs_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    assert drain([CONTENT], describe(CONTENT)) == (CONTENT, None)


def test_an_error_of_the_reader_passes_through() -> None:
    received, error = drain([b"x" * FIRST_SIZE, SizeMismatchError("from below")], describe(CONTENT))
    assert (received, str(error)) == (b"x" * FIRST_SIZE, "from below")


@given(sent=st.lists(st.binary(min_size=1, max_size=50), max_size=8), expected=st.binary(max_size=200))
def test_a_complete_stream_is_always_the_expected_content(sent: list[bytes], expected: bytes) -> None:
    received, error = drain(sent, describe(expected))
    assert (error is None) == (b"".join(sent) == expected)
    assert (received == expected) if error is None else (len(received) < len(expected) or not expected)
