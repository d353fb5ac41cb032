"""How much is read at once, as a function of how fast the last pieces went all the way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy import pace
from container_image_proxy.config.limits import CHUNK_SIZE, KIB
from container_image_proxy.pace import Pace

BIG = 1 << 30
SMALLEST = 64 * KIB


def sizes(seconds: list[float], size: int = BIG) -> Iterator[int]:
    """What is read when the pieces take so long, one after the other."""
    now = 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "monotonic", lambda: now)
        stream = Pace(size)
        yield stream.next()
        for each in seconds:
            now += each
            yield stream.next()


def test_a_fast_stream_comes_to_read_whole_chunks() -> None:
    first, *_, last = sizes([0.001] * 20)
    assert (first, last) == (SMALLEST, CHUNK_SIZE)


def test_a_stream_that_shares_the_machine_keeps_its_pieces_small() -> None:
    assert set(sizes([0.005] * 100)) == {SMALLEST}


@pytest.mark.demand("client-stall")
def test_a_stream_that_becomes_slow_comes_to_small_pieces_again() -> None:
    assert list(sizes([0.001] * 20 + [0.1] * 20))[-1] == SMALLEST


@pytest.mark.parametrize(("size", "first"), [(1, CHUNK_SIZE), (CHUNK_SIZE, CHUNK_SIZE), (CHUNK_SIZE + 1, SMALLEST)])
def test_a_stream_that_fits_into_one_chunk_is_one(size: int, first: int) -> None:
    assert next(sizes([], size)) == first


@given(st.lists(st.floats(min_value=0, max_value=10)))
def test_no_piece_is_larger_than_a_chunk(seconds: list[float]) -> None:
    assert all(SMALLEST <= size <= CHUNK_SIZE for size in sizes(seconds))
