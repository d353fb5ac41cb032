"""Raw bytes against a real server: what a request may look like, what comes back, and what ends the connection."""

from __future__ import annotations

import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from container_image_proxy.errors import IntegrityError
from container_image_proxy.faces.http.limits import ServerLimits
from tests.support.socket_server import (
    GET,
    PATIENCE,
    Running,
    hello,
    read_all,
    read_answer,
    read_next,
    running,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ACCESS_LOG = "container_image_proxy.faces.http.access_log"
MIB = bytes(1 << 20)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "s", limits=ServerLimits(linger_seconds=0.01)) as up:
        yield up


def answers_to(server: Running, request: bytes) -> bytes:
    """Everything that comes back when the client sends ``request`` and then nothing more."""
    with server.connect() as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        return read_all(client)


def get(path: str, *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/{version}", "Host: test", *fields, "", "")).encode()


# --- requests -----------------------------------------------------------------------------------------------


def test_a_connection_serves_one_request_after_the_other(server: Running) -> None:
    with server.connect() as client:
        for path in ("/a", "/b"):
            client.sendall(get(path))
            assert read_answer(client).body == path.encode()


def test_pipelined_requests_are_answered_in_order(server: Running) -> None:
    with server.connect() as client, client.makefile("rb") as stream:
        client.sendall(b"".join(get(f"/{number}") for number in range(50)))
        assert [read_next(stream).body for _ in range(50)] == [f"/{number}".encode() for number in range(50)]


def test_a_client_that_half_closes_gets_its_answer(server: Running) -> None:
    assert answers_to(server, GET).endswith(b"\r\n\r\n/hello")


@pytest.mark.parametrize("request_", [get("/", "Connection: close"), get("/", version="1.0")])
def test_the_connection_ends_with_the_answer_if_the_client_wants_it(
    server: Running, request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with server.connect() as client:
        client.sendall(request_ + GET)
        answers = read_all(client)
    assert answers.count(b"HTTP/1.1 200") == 1
    assert b"\r\nConnection: close\r\n" in answers
    assert not caplog.records


@pytest.mark.demand("HTTP-methods")
def test_head_has_the_headers_of_get_and_no_body(server: Running) -> None:
    with server.connect() as client, client.makefile("rb") as stream:
        client.sendall(get("/abc", method="HEAD") + get("/next"))
        head = read_next(stream, head_only=True)
        assert (head.status, head.headers["content-length"]) == (200, "4")
        assert read_next(stream).body == b"/next"


@pytest.mark.demand("HTTP-methods")
def test_an_absolute_target_means_its_path(server: Running) -> None:
    assert server.ask(get("http://elsewhere:80/a/b?c")).body == b"/a/b"
    assert server.ask(get("http://elsewhere")).body == b"/"


@pytest.mark.demand("HTTP-methods")
@pytest.mark.parametrize(
    "request_",
    [
        b"GET /\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        get("*", method="OPTIONS"),
        get("elsewhere:443", method="CONNECT"),
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    ],
)
def test_what_is_no_request_for_a_path_is_answered_400_and_closed(server: Running, request_: bytes) -> None:
    with server.connect() as client:
        client.sendall(request_)
        answer = read_answer(client)
        assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
        assert read_all(client) == b""


@pytest.mark.demand("HTTP-smuggling")
@pytest.mark.parametrize(
    "fields",
    [
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding : chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: +5",
        "X: a\n\nGET /b HTTP/1.1",
        "X: a\r\n b",
        "X: \0",
    ],
)
def test_never_two_requests_out_of_one(server: Running, fields: str) -> None:
    answers = answers_to(server, get("/a", fields) + b"0;ext=1\r\n\r\n" + get("/smuggled"))
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1 ") == 1


@pytest.mark.demand("HTTP-body")
@pytest.mark.parametrize("fields", [(), ("Expect: 100-continue",)])
def test_a_body_is_refused_unread(server: Running, fields: tuple[str, ...]) -> None:
    with server.connect() as client:
        client.sendall(get("/", "Content-Length: 10737418240", *fields))
        answer = read_answer(client)
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert read_all(client) == b""


@pytest.mark.demand("HTTP-body")
def test_a_client_that_sends_its_body_all_the_same_is_cut_off(tmp_path: Path) -> None:
    with running(tmp_path / "s", limits=ServerLimits(linger_seconds=PATIENCE)) as server, server.connect() as client:
        client.sendall(get("/", "Content-Length: 10737418240"))
        with pytest.raises(OSError, match=r"Broken pipe|reset"):  # noqa: PT012
            for _ in range(10 * 1024):
                client.sendall(MIB)


@pytest.mark.parametrize("field", ["Content-Length: 0", "Expect: 100-continue"])
def test_an_empty_body_is_fine(server: Running, field: str) -> None:
    with server.connect() as client:
        for _ in range(2):
            client.sendall(get("/ok", field))
            assert read_answer(client).body == b"/ok"


@pytest.mark.demand("LIM-headers")
@pytest.mark.parametrize("piece", [b"X: " + b"a" * 1000 + b"\r\n", b"a" * 1000])
def test_headers_without_end_are_refused(server: Running, piece: bytes) -> None:
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\n" + piece * 66)
        assert read_answer(client).status == 431


@pytest.mark.demand("client-slowloris")
def test_a_head_that_does_not_end_in_time_is_cut_off(tmp_path: Path) -> None:
    with running(tmp_path / "s", limits=ServerLimits(head_seconds=0.05)) as server, server.connect() as client:
        client.sendall(GET[:-2])
        assert read_answer(client).status == 408
        assert read_all(client) == b""


@pytest.mark.demand("client-slowloris")
def test_each_byte_does_not_buy_new_time(tmp_path: Path) -> None:
    with running(tmp_path / "s", limits=ServerLimits(head_seconds=0.05)) as server, server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nX: ")
        client.settimeout(0.01)
        received = b""
        while not received:  # ends because the server does not wait for the end of this
            try:
                received = client.recv(1000)
            except TimeoutError:
                client.send(b"a")
        assert received.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("first", [b"", GET])
def test_a_silent_connection_is_closed_without_a_word(tmp_path: Path, first: bytes) -> None:
    limits = ServerLimits(head_seconds=3600 if first else 0.05, keep_alive_seconds=0.05)
    with running(tmp_path / "s", limits=limits) as server, server.connect() as client:
        client.sendall(first)
        assert read_all(client).count(b"HTTP/1.1") == (1 if first else 0)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from(
                [GET, b"\r\n", b"\r\n\r\n", b"GET / HTTP/1.1\r\n", b"Host: x\r\n", b"Content-Length: 3\r\n"]
            ),
        ),
        max_size=8,
    ).map(b"".join)
)
@example(data=GET + b"\x00")
def test_whatever_is_sent_there_is_one_answer_a_head_at_most_and_the_server_lives(server: Running, data: bytes) -> None:
    answers = answers_to(server, data)
    assert answers.count(b"HTTP/1.1 ") <= data.count(b"\r\n\r\n") + 1
    assert answers.count(b"HTTP/1.1 200 ") <= data.count(b" HTTP/1.")
    assert server.ask().status == 200


# --- answers ------------------------------------------------------------------------------------------------


def serving(tmp_path: Path, application: Callable[..., Any], **limits: Any) -> Any:
    return running(tmp_path / "s", application, ServerLimits(**limits))


def respond(start_response: Callable[..., Any], *headers: tuple[str, str], status: str = "200 OK") -> None:
    start_response(status, [("Content-Type", "application/octet-stream"), *headers])


def test_an_answer_of_unknown_length_is_chunked(tmp_path: Path) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        respond(start_response)
        yield b"abc"
        yield b""
        yield b"defg"

    with serving(tmp_path, application) as server, server.connect() as client:
        client.sendall(get("/", "Connection: close"))
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert body == b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"


def test_an_answer_of_unknown_length_is_refused_to_http_1_0_which_could_not_tell_its_end(tmp_path: Path) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        respond(start_response)
        return [b"abc"]

    with serving(tmp_path, application) as server:
        assert server.ask(get("/", version="1.0")).status == 505


def test_a_large_body_arrives_whole(tmp_path: Path) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        respond(start_response, ("Content-Length", str(5 << 20)))
        return iter([MIB[:-1] + bytes([number]) for number in range(5)])

    with serving(tmp_path, application) as server:
        body = server.ask().body
    assert body == b"".join(MIB[:-1] + bytes([number]) for number in range(5))


def test_the_head_waits_for_the_first_bytes(tmp_path: Path) -> None:
    """So that an application that fails before them is answered by a status."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        respond(start_response, ("Content-Length", "3"))
        yield b""
        raise IntegrityError("not what was asked for")

    with serving(tmp_path, application) as server:
        assert server.ask().status == 500


class Body:
    """A body that notes its close."""

    def __init__(self, *chunks: bytes, error: Exception | None = None) -> None:
        self._chunks = iter(chunks)
        self._error = error
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.closed.set()


@pytest.mark.demand("DIG-blob-mismatch")
@pytest.mark.parametrize(
    ("body", "length"),
    [
        (Body(b"abc", error=IntegrityError("wrong digest")), "6"),
        (Body(b"abc", error=ZeroDivisionError()), "6"),
        (Body(b"abc"), "6"),
        (Body(b"abc", b"defg"), "6"),
        (Body(b"abc", error=IntegrityError("wrong digest")), None),
    ],
)
def test_a_body_that_goes_wrong_after_the_head_is_cut(tmp_path: Path, body: Body, length: str | None) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Body:
        respond(start_response, *((("Content-Length", length),) if length else ()))
        return body

    with serving(tmp_path, application) as server, server.connect() as client:
        client.sendall(get("/"))
        head, _, sent = read_all(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert sent == (b"abc" if length else b"3\r\nabc\r\n")
    assert body.closed.is_set()


def test_over_tcp_a_cut_is_a_reset(tmp_path: Path) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Body:
        respond(start_response, ("Content-Length", "6"))
        return Body(b"abc", error=IntegrityError("wrong digest"))

    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    with running(tmp_path, application, listener=listener), socket.create_connection(address) as client:
        client.settimeout(PATIENCE)
        client.sendall(get("/"))
        with pytest.raises(ConnectionResetError):  # noqa: PT012
            while client.recv(1000):
                pass


@pytest.mark.parametrize("body", [Body(b"abcd"), Body(error=ZeroDivisionError("inner secret")), Body()])
def test_a_body_that_goes_wrong_before_the_head_is_an_opaque_500(tmp_path: Path, body: Body) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Body:
        respond(start_response, ("Content-Length", "3"))
        return body

    with serving(tmp_path, application) as server:
        answer = server.ask()
    assert (answer.status, answer.headers["content-type"]) == (500, "application/problem+json")
    assert b"secret" not in answer.body
    assert body.closed.is_set()


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200 OK", [("X", "a\r\nSet-Cookie: b")]),
        ("200 OK", [("X\r\nY", "a")]),
        ("200 OK\r\nX: a", []),
        ("200 OK", [("X", "a\0b")]),
        ("200 OK", [("X", "\N{SNOWMAN}")]),
        ("20 OK", []),
    ],
)
@pytest.mark.demand("HTTP-response-split")
def test_a_header_that_would_split_the_answer_is_not_sent(
    tmp_path: Path, status: str, headers: list[tuple[str, str]]
) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response(status, headers)
        return []

    with serving(tmp_path, application) as server, server.connect() as client:
        client.sendall(get("/"))
        assert read_answer(client).status == 500
        assert read_all(client) == b""


def test_an_application_that_never_starts_its_answer_is_a_500(tmp_path: Path) -> None:
    with serving(tmp_path, lambda _environ, _start_response: [b"abc"]) as server:
        assert server.ask().status == 500


def test_a_failed_head_request_has_no_body(tmp_path: Path) -> None:
    with serving(tmp_path, lambda _environ, _start_response: 1 // 0) as server, server.connect() as client:
        client.sendall(get("/", method="HEAD"))
        assert read_all(client).endswith(b"\r\n\r\n")


# --- clients that leave or stall ----------------------------------------------------------------------------


class Endless(Body):
    """A body without end that counts what was taken from it."""

    taken = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.taken += 1
            yield MIB


def endless_application(body: Body) -> Callable[..., Any]:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Body:
        respond(start_response)
        return body

    return application


@pytest.mark.demand("client-disconnect")
def test_a_client_that_leaves_in_mid_transfer_frees_everything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = Endless()
    with caplog.at_level(logging.INFO, ACCESS_LOG), serving(tmp_path, endless_application(body)) as server:
        with server.connect() as client:
            client.sendall(get("/"))
            client.recv(1000)
        assert body.closed.wait(PATIENCE)
    assert caplog.records[-1].fields["OUTCOME"] == "disconnected"  # type: ignore[attr-defined]


@pytest.mark.demand("client-stall")
def test_a_client_that_stops_reading_is_cut_off_and_little_is_buffered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = Endless()
    with (
        caplog.at_level(logging.INFO, ACCESS_LOG),
        serving(tmp_path, endless_application(body), send_seconds=0.05) as server,
        server.connect() as client,
    ):
        client.sendall(get("/"))
        assert body.closed.wait(PATIENCE)
    assert caplog.records[-1].fields["OUTCOME"] == "stalled"  # type: ignore[attr-defined]
    assert body.taken == 1  # the kernel's buffer is below 1 MiB


# --- the access log -----------------------------------------------------------------------------------------


def test_each_request_is_one_record_with_what_the_application_adds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        environ["container_image_proxy.log"]["IMAGE"] = "os"
        return hello(environ, start_response)

    with caplog.at_level(logging.INFO, ACCESS_LOG), serving(tmp_path, application) as server:
        server.ask(get("/a?b"))
    (record,) = caplog.records
    fields = dict(record.fields)  # type: ignore[attr-defined]
    duration = fields.pop("DURATION_USEC")
    peer = {name: fields.pop(name) for name in ("PEER_UID", "PEER_PID")}
    assert fields == {
        "REQUEST_METHOD": "GET",
        "REQUEST_PATH": "/a?b",
        "STATUS": 200,
        "BYTES": 2,
        "OUTCOME": "complete",
        "IMAGE": "os",
    }
    assert duration >= 0
    assert all(isinstance(number, int) for number in peer.values())
    assert record.getMessage().startswith("GET /a?b 200 2 bytes in 0.")


@pytest.mark.parametrize(
    ("request_", "outcome", "status"),
    [(b"x\r\n", "refused", 400), (get("*"), "refused", 400), (get("/fail"), "failed", 500)],
)
def test_refused_and_failed_requests_are_records_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, request_: bytes, outcome: str, status: int
) -> None:
    with caplog.at_level(logging.INFO, ACCESS_LOG), serving(tmp_path, lambda *_: 1 // 0) as server:
        answer = server.ask(request_)
    assert answer.status == status
    fields = caplog.records[-1].fields  # type: ignore[attr-defined]
    assert (fields["OUTCOME"], fields["STATUS"], fields["BYTES"]) == (outcome, status, len(answer.body))


def test_only_a_defect_has_its_traceback_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    errors: list[Exception] = [IntegrityError("wrong digest"), ZeroDivisionError("defect")]

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        raise errors.pop(0)

    with serving(tmp_path, application) as server:
        server.ask()
        server.ask()
    records = [record for record in caplog.records if record.levelno == logging.ERROR]  # of two threads
    (traceback,) = (record for record in records if record.exc_info)
    assert traceback.exc_info
    assert traceback.exc_info[0] is ZeroDivisionError
    reasons = {record.getMessage().rpartition(", failed: ")[2] for record in records if record is not traceback}
    assert reasons == {"wrong digest", "ZeroDivisionError: defect"}


@pytest.mark.parametrize(
    ("status", "level"), [(200, "INFO"), (404, "INFO"), (500, "ERROR"), (502, "WARNING"), (503, "WARNING")]
)
def test_the_record_of_a_failure_says_why_and_as_loud_as_it_matters(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int, level: str
) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        environ["container_image_proxy.log"]["ERROR"] = "the registry is on fire"
        respond(start_response, ("Content-Length", "0"), status=f"{status} Status")
        return []

    with caplog.at_level(logging.INFO, ACCESS_LOG), serving(tmp_path, application) as server:
        server.ask(get("/manifest"))
    (record,) = caplog.records
    assert record.levelname == level
    assert record.getMessage().endswith("s: the registry is on fire")


def test_a_request_is_logged_though_its_client_left_before_the_refusal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked, left = threading.Event(), threading.Event()

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        asked.set()
        assert left.wait(PATIENCE)
        raise IntegrityError("wrong digest")

    with caplog.at_level(logging.INFO, ACCESS_LOG), serving(tmp_path, application) as server:
        with server.connect() as client:
            client.sendall(get("/"))
            assert asked.wait(PATIENCE)
        left.set()
    assert caplog.records[-1].getMessage().endswith(", failed: wrong digest")


def test_an_answer_that_turned_out_wrong_is_a_warning_that_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        respond(start_response, ("Content-Length", "10"))
        yield b"begun"
        raise IntegrityError("wrong digest")

    with (
        caplog.at_level(logging.INFO, ACCESS_LOG),
        serving(tmp_path, application) as server,
        server.connect() as client,
    ):
        client.sendall(get("/"))
        assert read_all(client).endswith(b"begun")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().endswith(", cut: wrong digest")


def test_what_is_wrong_is_logged_though_nothing_else_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, ACCESS_LOG), serving(tmp_path, lambda *_: 1 // 0) as server:
        server.ask()
    assert "500" in caplog.records[-1].getMessage()
