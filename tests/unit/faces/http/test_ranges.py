"""Which bytes a Range means, as RFC 9110 section 14 says it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import UnsatisfiableRangeError
from container_image_proxy.faces.http.ranges import content_range, may_resume, parse_range

SIZE = 1000


@pytest.mark.parametrize(
    ("value", "span"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-", (0, 1000)),
        ("bytes=999-", (999, 1000)),
        ("bytes=10-19", (10, 20)),
        ("bytes=10-5000", (10, 1000)),
        ("bytes=-1", (999, 1000)),
        ("bytes=-1000", (0, 1000)),
        ("bytes=-9999", (0, 1000)),
        ("Bytes= 5-6 ", (5, 7)),
        ("bytes=007-8", (7, 9)),
    ],
)
def test_one_range_of_bytes(value: str, span: tuple[int, int]) -> None:
    assert parse_range(value, SIZE) == range(*span)


@pytest.mark.parametrize("value", [None, "", "items=0-5", "0-5", "bytes", "bytes=0-1,5-6", "bytes=,", "bytes=0-1,x"])
def test_what_is_no_single_range_of_bytes_means_the_whole(value: str | None) -> None:
    assert parse_range(value, SIZE) is None


@pytest.mark.parametrize(
    "value",
    [
        "bytes=", "bytes=-", "bytes=x", "bytes=5", "bytes=5-2", "bytes=1-2-3", "bytes=--5", "bytes=+1-2", "bytes=1 -2",
        "bytes=0x1-2", "bytes=\u0663-", "bytes=1000-", "bytes=1000-2000", "bytes=-0", "bytes=99999999999999999999-",
        "bytes=" + "9" * 10_000 + "-", "bytes=1-2\n",
    ],
)  # fmt: skip
def test_a_malformed_range_and_one_of_nothing_are_not_satisfiable(value: str) -> None:
    with pytest.raises(UnsatisfiableRangeError) as caught:
        parse_range(value, SIZE)
    assert caught.value.size == SIZE


@pytest.mark.parametrize("value", ["bytes=0-", "bytes=-5", "bytes=0-0"])
def test_of_an_empty_blob_there_is_no_part(value: str) -> None:
    with pytest.raises(UnsatisfiableRangeError):
        parse_range(value, 0)


@given(st.text(max_size=40), st.integers(0, 2**40))
def test_whatever_a_client_sends_a_span_lies_within_the_blob(value: str, size: int) -> None:
    for text in (value, f"bytes={value}"):
        try:
            span = parse_range(text, size)
        except UnsatisfiableRangeError:
            continue
        assert span is None or 0 <= span.start < span.stop <= size


@given(st.integers(1, 10**6).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1), st.integers(0))))
def test_content_range_tells_what_was_asked_for(case: tuple[int, int, int]) -> None:
    size, first, more = case
    span = parse_range(f"bytes={first}-{first + more}", size)
    assert span is not None
    assert content_range(span, size) == f"bytes {first}-{min(first + more, size - 1)}/{size}"


def test_if_range_lets_a_range_count_for_the_same_content_only() -> None:
    assert may_resume(None, '"a"')
    assert may_resume('"a"', '"a"')
    assert not may_resume('W/"a"', '"a"')
    assert not may_resume('"b"', '"a"')
    assert not may_resume("Thu, 26 Nov 2026 07:00:00 GMT", '"a"')
