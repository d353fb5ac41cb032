"""How much a registry may send: manifests, error bodies, heads, redirects."""

from __future__ import annotations

from http.cookiejar import CookieJar

import pytest

from container_image_proxy.config.limits import MIB
from container_image_proxy.errors import Error, InvalidManifestError, RegistryError, UpstreamError
from container_image_proxy.image.reference import Reference, parse_reference
from tests.support.contexts import CONTEXT
from tests.support.registry_client import FakeClock, registry_client
from tests.support.upstream import (
    Connection,
    Handler,
    ReceivedRequest,
    Upstream,
    answering,
    content,
    in_order,
    sending,
)

SOCKET_BUFFERS = 12 * MIB


def reference_at(upstream: Upstream) -> Reference:
    return parse_reference(f"{upstream.authority}/some/image:latest")


def endless(status: int, headers: dict[str, str], piece: bytes) -> Handler:
    def handle(_: ReceivedRequest, connection: Connection) -> None:
        connection.head(status, headers)
        while True:
            connection.send(piece)

    return handle


def refusal(handler: Handler) -> tuple[Error, int]:
    """The error for a manifest, and how much the upstream could send at most on one connection."""
    with Upstream(handler) as upstream:
        with registry_client(clock=FakeClock()) as client, pytest.raises(Error) as caught:
            client.fetch_manifest(CONTEXT, reference_at(upstream))
        return caught.value, max(connection.sent for connection in upstream.connections)


@pytest.mark.demand("LIM-manifest")
def test_a_manifest_of_exactly_the_limit_is_read() -> None:
    with Upstream(answering(200, b"x" * (4 * MIB))) as upstream, registry_client() as client:
        manifest = client.fetch_manifest(CONTEXT, reference_at(upstream))
        assert manifest is not None
        assert len(manifest.raw) == 4 * MIB


@pytest.mark.demand("LIM-manifest")
@pytest.mark.parametrize(
    "handler",
    [
        answering(200, b"x" * (4 * MIB + 1)),
        endless(200, {}, b"x" * 65536),
        endless(200, {"Transfer-Encoding": "chunked"}, b"10000\r\n" + b"x" * 65536 + b"\r\n"),
        endless(200, {"Content-Length": "1000000000"}, b"x" * 65536),
        endless(200, {"Content-Length": "9" * 30}, b"x" * 65536),
    ],
    ids=["one-more", "endless", "chunked", "announced", "absurd"],
)
def test_a_larger_manifest_is_refused(handler: Handler) -> None:
    error, sent = refusal(handler)
    assert isinstance(error, InvalidManifestError)
    assert sent < 4 * MIB + SOCKET_BUFFERS


@pytest.mark.demand("LIM-errorbody")
@pytest.mark.parametrize("headers", [{}, {"Transfer-Encoding": "chunked"}, {"Content-Length": "1000000000"}])
def test_an_endless_error_is_told_and_not_read(headers: dict[str, str]) -> None:
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    error, sent = refusal(endless(400, headers, piece))
    assert isinstance(error, RegistryError)
    assert error.upstream_status == 400
    assert sent < SOCKET_BUFFERS


@pytest.mark.demand("LIM-headers")
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * (10 * MIB) + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 400_000 + b"\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100_000,
        b"HTTP/1.1 200 " + b"x" * (10 * MIB),
        b"x" * (10 * MIB),
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
    ],
    ids=["long", "many", "interim", "endless-line", "no-line", "ssh", "status", "no-status"],
)
def test_a_head_beyond_all_measure_is_an_error(head: bytes) -> None:
    error, _ = refusal(sending(head))
    assert isinstance(error, UpstreamError)
    assert "x" * 100 not in str(error)


BEGIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"


@pytest.mark.demand("LIM-headers")
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" + BEGIN + b"\r\n{}",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n" * 3 + BEGIN + b"\r\n{}",
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100\r\n\r\n" + BEGIN + b"\r\n{}",
        BEGIN + b"".join(b"X-Edge-%d: v\r\n" % number for number in range(5000)) + b"\r\n{}",
        BEGIN + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n{}",
        BEGIN + b"A:b\n" * 250_000 + b"\n{}",
        BEGIN + b"X-Folded: a\r\n\tb\r\nX-Bytes: \xc3\xbc\xfc\r\n\r\n{}",
        b"HTTP/1.1 200\nContent-Length:2\n\n{}",
        b"HTTP/1.0 200 OK\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 7\r\n\r\n02;a=b\r\n{}\r\n0\r\nT: t\r\n\r\n",
    ],
    ids=["100", "103", "102-and-100", "lines", "long-line", "tiny-lines", "folded", "line-feeds", "http-1.0",
         "same-length-twice", "chunked-and-length"],
)  # fmt: skip
def test_a_head_that_others_accept_is_accepted(answer: bytes) -> None:
    with Upstream(sending(answer)) as upstream, registry_client() as client:
        manifest = client.fetch_manifest(CONTEXT, reference_at(upstream))
        assert manifest is not None
        assert manifest.raw == b"{}"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not begin as HTTP/1 does"),
        (BEGIN + b"no colon\r\n\r\n{}", "a header line of its answer is malformed"),
        (BEGIN + b"Content-Length: 3\r\n\r\n{}", "the Content-Length of its answer is malformed or contradicts itself"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "transfer coding other than chunked"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}", "a chunk of its answer is malformed"),
        (BEGIN + b"X: " + b"x" * (2 * MIB) + b"\r\n\r\n{}", "its head is larger than 1048576 bytes"),
    ],
)  # fmt: skip
def test_an_answer_that_is_no_http_is_told_as_what_it_is_and_not_tried_again(answer: bytes, reason: str) -> None:
    with Upstream(sending(answer)) as upstream, registry_client(clock=FakeClock()) as client:
        with pytest.raises(RegistryError, match=reason) as caught:
            client.fetch_manifest(CONTEXT, reference_at(upstream))
        assert not caught.value.retryable
        assert len(upstream.requests) == 1


@pytest.mark.demand("LIM-headers")
def test_cookies_are_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's reader takes seconds for as many as fit into a head."""

    def read(*_: object) -> None:
        pytest.fail("cookies were read")

    monkeypatch.setattr(CookieJar, "extract_cookies", read)
    cookies = "Set-Cookie: a=b\r\n" + f"Set-Cookie2: {'a;' * 32_000}\r\n" * 15
    head = f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{cookies}\r\n{{}}"
    with Upstream(sending(head.encode())) as upstream, registry_client() as client:
        assert client.fetch_manifest(CONTEXT, reference_at(upstream)) is not None


def test_an_endless_redirect_body_is_not_read() -> None:
    forever = endless(307, {"Location": "/next"}, b"x" * 65536)
    with Upstream(in_order(forever, content(b"{}"))) as upstream, registry_client() as client:
        assert client.fetch_manifest(CONTEXT, reference_at(upstream)) is not None
