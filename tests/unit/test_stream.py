"""The verified stream: whoever holds all of a blob holds the right blob."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy import stream
from container_image_proxy.errors import DigestMismatchError, IntegrityError, SizeMismatchError
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import Descriptor
from container_image_proxy.stream import verify_stream

CHUNK_SIZE = 64
CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Iterator[None]:
    """What is held whole is so small here that ``CONTENT`` is not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "CHUNK_SIZE", CHUNK_SIZE)
        yield


def describe(content: bytes, *, size: int | None = None, algorithm: str = "sha256") -> Descriptor:
    return Descriptor("application/octet-stream", digest_of(content, algorithm), len(content) if size is None else size)


def chunks_of(content: bytes, size: int) -> Generator[bytes, None, None]:
    yield from (content[start : start + size] for start in range(0, len(content), size))


def drain(stream: Generator[bytes, None, None]) -> tuple[bytes, IntegrityError | None]:
    """What a client got, and how it ended."""
    received = b""
    try:
        for chunk in stream:
            received += chunk
    except IntegrityError as error:
        return received, error
    return received, None


@pytest.mark.demand("DIG-sha512")
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size", [1, 100, 4096, 20000])
def test_the_right_content_arrives_whole(size: int, algorithm: str) -> None:
    stream = verify_stream(chunks_of(CONTENT, size), describe(CONTENT, algorithm=algorithm))
    assert drain(stream) == (CONTENT, None)


def test_an_empty_blob_is_verified_too() -> None:
    assert drain(verify_stream(chunks_of(b"", 1), describe(b""))) == (b"", None)
    wrong = Descriptor("", digest_of(b"x"), 0)
    assert isinstance(drain(verify_stream(chunks_of(b"", 1), wrong))[1], DigestMismatchError)


@pytest.mark.demand("DIG-blob-mismatch")
def test_a_wrong_last_byte_withholds_the_last_chunk() -> None:
    received, error = drain(verify_stream(chunks_of(CONTENT[:-1] + b"!", 1000), describe(CONTENT)))
    assert isinstance(error, DigestMismatchError)
    assert received == CONTENT[:10000]


@pytest.mark.demand("mirror-corrupt-blob")
@pytest.mark.parametrize("size", [1000, len(CONTENT), 2 * len(CONTENT)])
def test_the_source_learns_that_its_content_was_wrong(size: int) -> None:
    told: list[BaseException] = []

    def source() -> Generator[bytes, None, None]:
        try:
            yield from chunks_of(CONTENT[:-1] + b"!", size)
        except DigestMismatchError as error:
            told.append(error)

    _, error = drain(verify_stream(source(), describe(CONTENT)))
    assert told == [error]


def test_a_wrong_blob_of_one_chunk_yields_nothing() -> None:
    received, error = drain(verify_stream(chunks_of(b"wrong", 100), describe(b"right")))
    assert (received, type(error)) == (b"", DigestMismatchError)


@pytest.mark.demand("DIG-blob-short")
@pytest.mark.parametrize("size", [1, 7, CHUNK_SIZE])
@pytest.mark.parametrize("content", [CONTENT[: CHUNK_SIZE - 1], CONTENT[: CHUNK_SIZE - 1] + b"!"])
def test_a_bad_blob_that_fits_into_a_chunk_yields_nothing_however_it_comes(size: int, content: bytes) -> None:
    received, error = drain(verify_stream(chunks_of(content, size), describe(CONTENT[:CHUNK_SIZE])))
    assert received == b""
    assert isinstance(error, IntegrityError)


def test_a_blob_that_fits_into_a_chunk_is_yielded_in_one_and_any_larger_one_as_it_comes() -> None:
    small, large = CONTENT[:CHUNK_SIZE], CONTENT[: CHUNK_SIZE + 1]
    assert list(verify_stream(chunks_of(small, 10), describe(small))) == [small]
    assert list(verify_stream(chunks_of(large, 10), describe(large))) == list(chunks_of(large, 10))


@pytest.mark.demand("DIG-blob-trailing")
def test_a_blob_that_is_too_long_fails_before_its_surplus_is_yielded() -> None:
    received, error = drain(verify_stream(chunks_of(CONTENT + b"more", 1024), describe(CONTENT)))
    assert isinstance(error, SizeMismatchError)
    assert len(received) < len(CONTENT)


@pytest.mark.demand("DIG-blob-short")
def test_a_blob_that_is_too_short_fails() -> None:
    received, error = drain(verify_stream(chunks_of(CONTENT[:5000], 1000), describe(CONTENT)))
    assert isinstance(error, SizeMismatchError)
    assert len(received) < len(CONTENT)


def test_an_endless_source_is_cut_at_the_size_its_descriptor_says() -> None:
    def endless() -> Generator[bytes, None, None]:
        while True:
            yield b"x" * 1000

    received, error = drain(verify_stream(endless(), describe(CONTENT)))
    assert isinstance(error, SizeMismatchError)
    assert len(received) < len(CONTENT)


def test_leaving_early_closes_the_source_and_ends_the_hashing_thread() -> None:
    closed = threading.Event()

    def source() -> Generator[bytes, None, None]:
        try:
            yield from chunks_of(CONTENT, 10)
        finally:
            closed.set()

    before = threading.active_count()
    content = verify_stream(source(), describe(CONTENT))
    assert [next(content), next(content)] == [CONTENT[:10], CONTENT[10:20]]
    assert threading.active_count() == before + 1
    content.close()
    assert closed.is_set()
    assert threading.active_count() == before


@pytest.fixture
def no_helpers() -> Iterator[None]:
    """Every helping thread is taken by other streams, which end with the test."""
    taken = 0
    while stream._helpers.acquire(blocking=False):
        taken += 1
    yield
    stream._helpers.release(taken)


@pytest.mark.demand("mem-limit")
def test_a_stream_without_a_helper_hashes_in_its_own_thread(no_helpers: None) -> None:
    before = threading.active_count()
    content = verify_stream(chunks_of(CONTENT, 10), describe(CONTENT))
    started = [next(content), next(content)]
    assert threading.active_count() == before
    assert drain(content) == (CONTENT[20:], None)
    assert b"".join(started) == CONTENT[:20]
    assert drain(verify_stream(chunks_of(CONTENT[:-1] + b"!", 10), describe(CONTENT)))[1] is not None


def test_a_helper_that_comes_free_takes_over_in_mid_stream() -> None:
    taken = 0
    while stream._helpers.acquire(blocking=False):
        taken += 1
    content = verify_stream(chunks_of(CONTENT, 10), describe(CONTENT))
    started, before = next(content), threading.active_count()
    stream._helpers.release(taken)
    started += next(content)
    assert threading.active_count() == before + 1
    assert drain(content) == (CONTENT[20:], None)
    assert started == CONTENT[:20]


def test_a_system_without_threads_to_spare_costs_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    for _ in range(100):  # more than there are helpers: none is lost
        assert drain(verify_stream(chunks_of(CONTENT, 4096), describe(CONTENT))) == (CONTENT, None)
    monkeypatch.undo()
    assert stream._helpers.acquire(blocking=False)
    stream._helpers.release()


def test_an_error_of_the_source_passes_through() -> None:
    def source() -> Generator[bytes, None, None]:
        yield b"x"
        raise SizeMismatchError("from below")

    received, error = drain(verify_stream(source(), describe(CONTENT)))
    assert (received, str(error)) == (b"x", "from below")


@given(sent=st.lists(st.binary(min_size=1, max_size=50), max_size=8), expected=st.binary(max_size=200))
def test_a_complete_stream_is_always_the_expected_content(sent: list[bytes], expected: bytes) -> None:
    received, error = drain(verify_stream((chunk for chunk in sent), describe(expected)))
    assert (error is None) == (b"".join(sent) == expected)
    assert (received == expected) if error is None else (len(received) < len(expected) or not expected)
