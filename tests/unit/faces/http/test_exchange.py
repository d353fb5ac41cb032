from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import h11
import pytest

from container_image_proxy.core.peer import Peer
from container_image_proxy.faces.http.exchange import build_environ, split_target
from container_image_proxy.faces.http.request_head import RefusedRequestError
from tests.support.contexts import CONTEXT
from tests.support.socket_server import read_answer, read_next, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CRLF = b"\r\n"
PEER = Peer(1, 2, frozenset({3}))


def environ_of(target: str, *fields: tuple[str, str], method: str = "GET") -> dict[str, Any]:
    request = h11.Request(method=method, target=target, headers=[("Host", "test"), *fields])
    return build_environ(request, PEER, CONTEXT, {})


def test_the_environ_is_what_pep_3333_says() -> None:
    environ = environ_of("/a%2Fb%C3%A9/c?x=%20&y", ("User-Agent", "curl"))
    assert isinstance(environ["wsgi.input"], io.BytesIO)
    expected: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a/b\xc3\xa9/c",
        "QUERY_STRING": "x=%20&y",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "test",
        "HTTP_USER_AGENT": "curl",
        "wsgi.version": (1, 0),
        "wsgi.errors": sys.stderr,
        "container_image_proxy.raw_path": "/a%2Fb%C3%A9/c",
        "container_image_proxy.peer": PEER,
        "container_image_proxy.context": CONTEXT,
        "container_image_proxy.log": {},
    }
    assert expected.items() <= environ.items()


def test_repeated_headers_are_joined_and_ambiguous_names_left_out() -> None:
    environ = environ_of(
        "/", ("Accept", "a"), ("accept", "b"), ("X_Real", "no"), ("X-Real", "yes"), ("Content-Type", "t")
    )
    assert (environ["HTTP_ACCEPT"], environ["HTTP_X_REAL"], environ["CONTENT_TYPE"]) == ("a,b", "yes", "t")
    assert "HTTP_CONTENT_TYPE" not in environ


@pytest.mark.demand("HTTP-methods")
@pytest.mark.parametrize(
    ("target", "split"),
    [
        (b"/", ("/", "")),
        (b"//a", ("//a", "")),
        (b"/a?", ("/a", "")),
        (b"/a?b?c/d", ("/a", "b?c/d")),
        (b"http://host", ("/", "")),
        (b"http://host?q", ("/", "q")),
        (b"https://user@host:1/a%20b?c", ("/a%20b", "c")),
    ],
)
def test_path_and_query_of_a_target(target: bytes, split: tuple[str, str]) -> None:
    assert split_target(target) == split


@pytest.mark.demand("HTTP-methods")
@pytest.mark.parametrize("target", [b"*", b"host:443", b"?q", b"a/b", b"/a#b", b"http:/a", b"://host/a"])
def test_other_targets_are_refused(target: bytes) -> None:
    with pytest.raises(RefusedRequestError) as caught:
        split_target(target)
    assert caught.value.status == 400


@validator
def conforming(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    body = environ["wsgi.input"].read(-1) + environ["PATH_INFO"].encode("latin-1")
    write = start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(2 * len(body)))])
    write(body)
    return iter([body])


def test_the_reference_validator_finds_nothing_to_complain_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path / "s", conforming) as server, server.connect() as client, client.makefile("rb") as stream:
        client.sendall(b"GET /a%20b?c HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n")
        assert read_next(stream).body == b"/a b/a b"
        client.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_next(stream, head_only=True).status == 200
        client.sendall(b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_next(stream).body == b"//"
    assert not caplog.records


def test_a_started_answer_can_be_replaced_until_it_has_left(tmp_path: Path) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        try:
            environ["missing"]
        except LookupError:
            start_response("404 Not Found", [("Content-Length", "4")], sys.exc_info())
        return [b"gone"]

    with running(tmp_path / "s", application) as server:
        answer = server.ask()
    assert (answer.status, answer.body) == (404, b"gone")


@pytest.mark.parametrize("with_error", [True, False])
def test_an_answer_cannot_be_started_twice(tmp_path: Path, *, with_error: bool) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        write = start_response("200 OK", [("Content-Length", "6")])
        write(b"abc")
        try:
            environ["missing"]
        except LookupError:
            start_response("404 Not Found", [], *([sys.exc_info()] if with_error else []))
        return [b"def"]

    with running(tmp_path / "s", application) as server:
        assert server.ask().body == b"abc"


def test_a_head_request_takes_no_more_of_a_body_than_its_begin(tmp_path: Path) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [])
        while True:
            yield b"endless"

    with running(tmp_path / "s", application) as server, server.connect() as client, client.makefile("rb") as stream:
        for _ in range(2):
            client.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_next(stream, head_only=True).status == 200


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_http_1_0_needs_no_length_where_there_is_no_body(tmp_path: Path, status: str) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response(status, [])
        return []

    with running(tmp_path / "s", application) as server:
        assert f"{server.ask(b'GET / HTTP/1.0' + CRLF * 2).status}" == status[:3]


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_an_answer_without_body_keeps_the_connection(tmp_path: Path, status: str) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response(status, [("ETag", '"a"')])
        return []

    with running(tmp_path / "s", application) as server, server.connect() as client:
        for _ in range(2):
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = read_answer(client, head_only=True)
            assert (f"{answer.status}", answer.headers["etag"]) == (status[:3], '"a"')
            assert "date" in answer.headers
