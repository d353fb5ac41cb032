"""The gate and h11 behind it: what becomes a request, and what neither lets pass."""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.faces.http.request_head import HeadBuffer, RefusedRequestError, parse_head

FIRST = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
SECOND = b"HEAD /b?c HTTP/1.0\r\nX-Long: \t some value\r\nContent-Length: 0\r\n\r\n"


def take_all(*pieces: bytes, limit: int = 64 * 1024) -> list[bytes]:
    buffer = HeadBuffer(limit)
    heads = []
    for piece in pieces:
        buffer.feed(piece)
        while (head := buffer.take()) is not None:
            heads.append(head)
    return heads


def refusal_of(*pieces: bytes, limit: int = 64 * 1024) -> int:
    """The status by which the gate refuses it, or else h11."""
    with pytest.raises(RefusedRequestError) as caught:
        parse_all(*pieces, limit=limit)
    return caught.value.status


def parse_all(*pieces: bytes, limit: int) -> None:
    for head in take_all(*pieces, limit=limit):
        parse_head(h11.Connection(h11.SERVER), head)


@pytest.mark.demand("HTTP-smuggling")
@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x01b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: \x7f\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0, 0\r\n\r\n",
    ],
)
def test_the_gate_refuses_nothing_that_the_parser_refuses_itself(head: bytes) -> None:
    """If this fails h11 has become stricter, and a check of the gate can go."""
    assert isinstance(parse_head_without_gate(head), h11.Request)
    assert refusal_of(head) == 400


def parse_head_without_gate(head: bytes) -> object:
    protocol = h11.Connection(h11.SERVER)
    protocol.receive_data(head)
    return protocol.next_event()


@given(st.lists(st.integers(1, len(FIRST + SECOND) - 1), max_size=20))
def test_heads_come_out_the_same_however_the_bytes_arrive(cuts: list[int]) -> None:
    data = FIRST + SECOND
    edges = [0, *sorted(set(cuts)), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    assert take_all(*pieces) == [FIRST, SECOND]


def test_an_incomplete_head_stays_until_its_rest_arrives() -> None:
    buffer = HeadBuffer(1000)
    buffer.feed(FIRST[:-1])
    assert buffer.take() is None
    assert buffer
    buffer.feed(FIRST[-1:])
    assert buffer.take() == FIRST
    assert not buffer


@pytest.mark.demand("HTTP-smuggling")
@pytest.mark.parametrize(
    "fields",
    [
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: identity",
        b"TRANSFER-ENCODING:chunked",
        b"Content-Length: 0\r\nContent-Length: 0",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 0, 0",
        b"Content-Length: +5",
        b"Content-Length: -0",
        b"Content-Length: 0x0",
        b"Content-Length: 0_0",
        b"Content-Length:",
        b"Content-Length: " + b"0" * 21,
        b"X: a\n b",
        b"X: a\nY: b",
        b"X: a\r\n b",
        b"X: a\r\n\tb",
        b"X: a\rY: b",
        b"X: a\0b",
        b"X: a\x0bb",
        b"X: \x7f",
    ],
)
def test_what_another_parser_might_read_differently_is_refused(fields: bytes) -> None:
    assert refusal_of(b"GET / HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n\r\n") == 400


@pytest.mark.demand("HTTP-smuggling")
@pytest.mark.parametrize("piece", [b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nX: a\n", b"GET /\0", b"\x16\x03\x01"])
def test_a_head_that_cannot_become_legal_is_refused_before_it_ends(piece: bytes) -> None:
    assert refusal_of(piece) == 400


def test_an_illegal_byte_is_found_across_the_border_of_two_pieces() -> None:
    assert refusal_of(b"GET / HTTP/1.1\r\nX: a\r", b"Y: b") == 400
    assert refusal_of(b"GET / HTTP/1.1\r\nX: a", b"\nY: b") == 400


@pytest.mark.demand("HTTP-methods")
@pytest.mark.parametrize(
    "line",
    [
        b"GET /",
        b"GET / HTTP/0.9",
        b"GET / HTTP/2.0",
        b"GET / HTTP/1.2",
        b"GET / HTTP/1.1 ",
        b"",
    ],
)
def test_what_is_no_http_1_is_refused_by_its_first_line(line: bytes) -> None:
    assert refusal_of(line + b"\r\n") == 400


@pytest.mark.demand("HTTP-methods")
@pytest.mark.parametrize("line", [b"GET  / HTTP/1.1", b" GET / HTTP/1.1", b"GET /a b HTTP/1.1", b"GE(T / HTTP/1.1"])
def test_only_a_well_formed_request_line_is_accepted(line: bytes) -> None:
    assert refusal_of(line + b"\r\nHost: x\r\n\r\n") == 400


def test_each_head_must_have_its_own_request_line() -> None:
    assert refusal_of(FIRST + b"GET /\r\n") == 400


@pytest.mark.demand("HTTP-body")
def test_a_body_is_refused_by_its_announcement() -> None:
    assert refusal_of(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10737418240\r\n\r\n") == 413


@pytest.mark.demand("LIM-headers")
def test_a_head_has_a_limit_whether_it_ends_or_not() -> None:
    head = b"GET / HTTP/1.1\r\nX: " + b"a" * 100 + b"\r\n\r\n"
    assert take_all(head, limit=len(head)) == [head]
    assert refusal_of(head, limit=len(head) - 1) == 431
    assert refusal_of(head[:-4] + b"a" * 100, limit=len(head)) == 431


_MANY = 1 << 20


@pytest.mark.demand("LIM-headers")
@pytest.mark.timeout(30)  # what grows with the square of the size takes an hour
@pytest.mark.parametrize(
    "field",
    [
        b"Content-Length: 0" + b" " * _MANY + b"x",
        b"Content-Length:" + b" " * _MANY + b"x",
        b"Content-Length:" + b" 0" * (_MANY // 2),
        b"Content-Length:" + b"0" * _MANY,
        b"Content-Length:\r\n" * (_MANY // 17) + b"X: y",
        b"X:" + b" \t" * (_MANY // 2) + b"\x7f",
    ],
)
def test_the_time_for_a_head_grows_with_its_size_and_no_faster(field: bytes) -> None:
    assert refusal_of(b"GET / HTTP/1.1\r\nHost: x\r\n" + field + b"\r\n\r\n", limit=2 * _MANY) == 400


@given(st.binary(max_size=300))
def test_any_bytes_give_heads_or_a_refusal(data: bytes) -> None:
    try:
        heads = take_all(data)
    except RefusedRequestError:
        return
    assert b"".join(heads) == data[: sum(map(len, heads))]
