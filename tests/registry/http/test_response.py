"""Where the head of an answer ends, what it says, and how the body ends: as Go's client reads it."""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.registry.http.response import (
    MAX_HEAD_SIZE,
    MAX_INTERIM_ANSWERS,
    FramedResponse,
    FramingError,
    is_chunked,
    parse_content_length,
    parse_head,
    read_head,
)

BEGIN = b"HTTP/1.1 200 OK\r\n"


def head_of(raw: bytes) -> dict[str, str]:
    """The fields of a head that is complete but for its empty line."""
    return dict(read_head(io.BytesIO(raw + b"\r\n")).fields)


@pytest.mark.parametrize(
    ("line", "version", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", (1, 1), 200, "OK"),
        (b"HTTP/1.0 404 Not Found here", (1, 0), 404, "Not Found here"),
        (b"HTTP/1.1 200", (1, 1), 200, ""),
        (b"HTTP/1.1 200 ", (1, 1), 200, ""),
        (b"HTTP/1.1  200   OK ", (1, 1), 200, "OK"),
        (b"HTTP/2.0 200 OK", (2, 0), 200, "OK"),
        (b"HTTP/0.9 200 OK", (0, 9), 200, "OK"),
        (b"HTTP/1.1 999 \xc3\xbc\x01", (1, 1), 999, "\u00c3\u00bc\x01"),
    ],
)
def test_status_lines(line: bytes, version: tuple[int, int], status: int, reason: str) -> None:
    head = parse_head([line + b"\r\n"])
    assert (head.version, head.status, head.reason) == (version, status, reason)
    assert parse_head([line + b"\n"]) == head


@pytest.mark.parametrize(
    "line",
    [b"", b"HTTP/1.1", b"HTTP/1.1 OK", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 +20 OK", b"HTTP/2 200 OK",
     b"HTTP/1.10 200 OK", b"http/1.1 200 OK", b"HTTP/1.1\t200 OK", b" HTTP/1.1 200 OK", b"ICY 200 OK", b"SSH-2.0-x",
     b"HTTP/1.1 200\tOK", b"HTTP/1.1 \xb2\xb2\xb2 OK"],
)  # fmt: skip
def test_what_is_no_status_line_is_refused(line: bytes) -> None:
    with pytest.raises(FramingError, match="does not begin as HTTP/1 does"):
        parse_head([line + b"\r\n"])


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        (b"X:a\r\n", "a"),
        (b"X: \t a b \t\r\n", "a b"),
        (b"X:\r\n", ""),
        (b"X: a:b\n", "a:b"),
        (b"X: \xfc\tz\r\n", "\u00fc\tz"),
        (b"X: a\r\n b\r\n\t c \r\n", "a b c"),
        (b"X:\n  b\n", " b"),
    ],
)
def test_fields(lines: bytes, value: str) -> None:
    assert head_of(BEGIN + lines)["X"].strip() == value.strip()


def test_a_field_whose_name_has_a_space_is_nobodys() -> None:
    assert head_of(BEGIN + b"Content-Length : 5\r\nX Y: a\r\nZ: b\r\n") == {"Z": "b"}


@pytest.mark.parametrize(
    "line",
    [b"no colon", b": no name", b"X(A): a", b"X-\xc3\xbc: a", b"X: a\x01b", b"X: a\x00", b"X: a\x7f",
     b"X: a\rb", b"X\tY: a"],
)  # fmt: skip
def test_what_is_no_field_is_refused(line: bytes) -> None:
    with pytest.raises(FramingError, match="header line of its answer is malformed"):
        head_of(BEGIN + b"A: b\r\n" + line + b"\r\nContent-Length: 5\r\n")


def test_no_field_can_be_continued_before_the_first() -> None:
    with pytest.raises(FramingError, match="header line of its answer is malformed"):
        head_of(BEGIN + b" x: y\r\n")


# --- interim answers and bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [100, 102, 103, 199])
def test_interim_answers_are_passed_over(status: int) -> None:
    interim = f"HTTP/1.1 {status} Wait\r\nLink: </style.css>\r\nContent-Length: 7\r\n\r\n".encode()
    head = read_head(io.BytesIO(interim * 5 + BEGIN + b"A: b\r\n\r\nbody"))
    assert (head.status, head.fields) == (200, (("A", "b"),))


def test_a_change_of_protocols_is_a_final_answer() -> None:
    assert read_head(io.BytesIO(b"HTTP/1.1 101 Switching\r\n\r\n" + BEGIN + b"\r\n")).status == 101


@pytest.mark.demand("LIM-headers")
def test_interim_answers_are_counted() -> None:
    interim = b"HTTP/1.1 103 x\n\n"
    assert read_head(io.BytesIO(interim * MAX_INTERIM_ANSWERS + BEGIN + b"\n")).status == 200
    with pytest.raises(FramingError, match="more than 1024 interim answers"):
        read_head(io.BytesIO(interim * (MAX_INTERIM_ANSWERS + 1) + BEGIN + b"\n"))


def lines_of(kind: str, size: int) -> bytes:
    """So many bytes of a head, with its status line and its end."""
    rest = size - len(BEGIN) - len(b"\r\n")
    if kind == "one line":
        return BEGIN + b"X: " + b"x" * (rest - 5) + b"\r\n\r\n"
    if kind == "many lines":
        return BEGIN + b"A:" + b"b" * (rest % 4) + b"\n" + b"A:b\n" * ((rest - 3) // 4) + b"\r\n"
    return BEGIN + b"A:" + b"b" * (rest % 4) + b"\n" + b" ab\n" * ((rest - 3) // 4) + b"\r\n"


@pytest.mark.demand("LIM-headers")
@pytest.mark.parametrize("kind", ["one line", "many lines", "folded lines"])
def test_a_head_may_be_large_in_any_number_of_lines_and_no_larger(kind: str) -> None:
    raw = lines_of(kind, MAX_HEAD_SIZE)
    assert MAX_HEAD_SIZE - 4 < len(raw) <= MAX_HEAD_SIZE
    assert read_head(io.BytesIO(raw)).status == 200
    with pytest.raises(FramingError, match="larger than 1048576 bytes"):
        read_head(io.BytesIO(lines_of(kind, MAX_HEAD_SIZE + 5)))


@pytest.mark.demand("LIM-headers")
def test_interim_answers_count_against_the_size() -> None:
    interim = b"HTTP/1.1 103 x\r\nX: " + b"x" * (MAX_HEAD_SIZE // 2) + b"\r\n\r\n"
    with pytest.raises(FramingError, match="larger than"):
        read_head(io.BytesIO(interim * 2 + BEGIN + b"\r\n"))


@pytest.mark.parametrize("raw", [b"\0\0\0\4\0", b"SSH-2.0", b"HTTp", b"\r\n"])
def test_what_never_was_http_is_none_though_it_was_cut(raw: bytes) -> None:
    with pytest.raises(FramingError, match="does not begin as HTTP/1 does"):
        read_head(io.BytesIO(raw))


@pytest.mark.parametrize("raw", [b"", b"HT", b"HTTP/1.1 200", BEGIN, BEGIN + b"A: b", BEGIN + b"A: b\r\n"])
def test_a_head_that_is_cut_is_a_lost_connection(raw: bytes) -> None:
    with pytest.raises(http.client.IncompleteRead):
        read_head(io.BytesIO(raw))


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_head_or_an_error(raw: bytes, begin: bool) -> None:  # noqa: FBT001 - hypothesis gives it
    try:
        head = read_head(io.BytesIO((BEGIN if begin else b"") + raw + b"\r\n\r\n"))
    except (FramingError, http.client.IncompleteRead):
        return
    assert all(name and not set(name + value) & set("\r\n\0") for name, value in head.fields)


# --- lengths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "length"),
    [
        ([], None),
        ([""], None),
        (["0"], 0),
        (["0042"], 42),
        (["42", "42"], 42),
        (["42, 42"], 42),
        (["9" * 10_000], 10**20 - 1),
    ],
)
def test_content_lengths(values: list[str], length: int | None) -> None:
    assert parse_content_length(values) == length


@pytest.mark.parametrize(
    "values", [["1", "2"], ["1, 2"], ["1", ""], ["-1"], ["+1"], ["1_0"], ["0x1"], ["1.0"], ["\u0661"]]
)
def test_a_length_that_cannot_be_told_is_refused(values: list[str]) -> None:
    with pytest.raises(FramingError, match="malformed or contradicts itself"):
        parse_content_length(values)


def test_only_chunks_are_a_transfer_coding() -> None:
    assert not is_chunked([])
    assert is_chunked(["Chunked"])
    for values in (["gzip, chunked"], ["identity"], ["chunked", "chunked"], [""], ["chunked;x=y"]):
        with pytest.raises(FramingError, match="transfer coding"):
            is_chunked(values)


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def received(wire: tuple[socket.socket, socket.socket], raw: bytes, *, close: bool = False) -> FramedResponse:
    here, there = wire
    there.sendall(raw)
    if close:
        there.close()
    response = FramedResponse(here, method="GET")
    response.begin()
    return response


@pytest.mark.parametrize(
    ("head", "body", "closes"),
    [
        (b"HTTP/1.1 200\r\nContent-Length: 4\r\n\r\n", b"abcd", False),
        (b"HTTP/1.1 200\r\nContent-Length: 4\r\ncontent-length: 4\r\n\r\n", b"abcd", False),
        (b"HTTP/1.1 200\r\nContent-Length: 4\r\nConnection: x, Close\r\n\r\n", b"abcd", True),
        (b"HTTP/1.0 200\r\nContent-Length: 4\r\n\r\n", b"abcd", True),
        (b"HTTP/1.0 200\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\r\n", b"abcd", False),
        (b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", b"4\r\nabcd\r\n0\r\n\r\n", False),
        (b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", b"4\r\nabcd\r\n0\r\n\r\n", False),
        (b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", b'04 ;a="b"\r\nabcd\r\n0;c\r\nT: t\r\n\r\n', False),
    ],
)  # fmt: skip
def test_a_body_ends_as_its_head_says(
    wire: tuple[socket.socket, socket.socket], head: bytes, body: bytes, *, closes: bool
) -> None:
    response = received(wire, head + body)
    assert response.will_close is closes
    assert response.read() == b"abcd"


def test_without_a_length_the_end_of_the_connection_is_the_end(wire: tuple[socket.socket, socket.socket]) -> None:
    response = received(wire, b"HTTP/1.1 200\r\n\r\nabcd", close=True)
    assert response.will_close
    assert response.read() == b"abcd"


@pytest.mark.parametrize("status", [101, 204, 304])
def test_some_answers_have_no_body(wire: tuple[socket.socket, socket.socket], status: int) -> None:
    assert received(wire, f"HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\n".encode()).read() == b""


@pytest.mark.parametrize("size", [b"-4", b"+4", b" 4", b"0x4", b"0_4", b"", b"g", b"4" * 17, b"4;" + b"x" * 65536])
def test_what_is_no_size_of_a_chunk_is_refused(wire: tuple[socket.socket, socket.socket], size: bytes) -> None:
    response = received(wire, b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\nabcd\r\n0\r\n\r\n")
    with pytest.raises(FramingError, match="a chunk of its answer is malformed"):
        response.read()


@pytest.mark.parametrize("body", [b"", b"4", b"4\r\nab", b"4\r\nabcd\r\n"])
def test_a_body_that_is_cut_is_a_lost_connection(wire: tuple[socket.socket, socket.socket], body: bytes) -> None:
    response = received(wire, b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n" + body, close=True)
    with pytest.raises(http.client.IncompleteRead):
        response.read()
