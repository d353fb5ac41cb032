"""``Content-Encoding``: what the digest names decides, not the label (contrib/adr/0021)."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import zlib
from collections.abc import Callable

import pytest

from container_image_proxy.config.limits import MIB
from container_image_proxy.errors import (
    DigestMismatchError,
    Error,
    RateLimitedError,
    RegistryError,
    SizeMismatchError,
    UpstreamError,
)
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import Descriptor
from container_image_proxy.image.reference import Reference, parse_reference
from tests.support.contexts import CONTEXT
from tests.support.readers import pieces, read_all
from tests.support.registry_client import FakeClock, registry_client
from tests.support.upstream import (
    Connection,
    Handler,
    ReceivedRequest,
    Upstream,
    answering,
    breaking,
    by_path,
    chunked,
    content,
    in_order,
    sending,
)

TEXT = json.dumps({"text": "some words " * 3000}).encode()
NOISE = random.Random(7).randbytes(3 * MIB)  # noqa: S311 - no secret
PLAIN = {"small": TEXT, "large": b"".join(NOISE[start : start + 64] * 2 for start in range(0, len(NOISE), 128))}
ITSELF_A_GZIP = {kind: gzip.compress(plain, 6, mtime=0) for kind, plain in PLAIN.items()}
ITSELF_A_GZIP["noise"] = gzip.compress(NOISE, 6, mtime=0)
BLOBS = {f"{kind}-plain": blob for kind, blob in PLAIN.items()} | {
    f"{kind}-gzip": blob for kind, blob in ITSELF_A_GZIP.items()
}
GZIP_LABELS = ["gzip", "x-gzip", "GZIP", "aws-chunked,gzip", "gzip, aws-chunked", "gzip, gzip", "utf-8, x-gzip"]
OTHER_LABELS = ["aws-chunked", "utf-8", "binary", "identity", "", "br", "deflate", "zstd", "x-unknown, identity"]


def reference_at(upstream: Upstream) -> Reference:
    return parse_reference(f"{upstream.authority}/some/image:latest")


def described(blob: bytes) -> Descriptor:
    return Descriptor("", digest_of(blob), len(blob))


def download(handler: Handler, blob: bytes) -> tuple[bytes, Upstream]:
    with Upstream(handler) as upstream, registry_client(clock=FakeClock()) as client:
        return read_all(client.open_blob(CONTEXT, reference_at(upstream), described(blob))), upstream


def close_delimited(body: bytes, headers: dict[str, str]) -> Handler:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return sending(f"HTTP/1.1 200 OK\r\nConnection: close\r\n{lines}\r\n".encode() + body)


FRAMINGS: dict[str, Callable[[bytes, dict[str, str]], Handler]] = {
    "length": lambda body, headers: answering(200, body, headers),
    "chunked": lambda body, headers: chunked(body, headers=headers),
    "close": close_delimited,
}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("kind", BLOBS)
@pytest.mark.parametrize("label", [*GZIP_LABELS[:2], "aws-chunked, gzip", *OTHER_LABELS[:2]])
def test_a_blob_that_is_sent_as_it_is_is_taken_as_it_is(framing: str, kind: str, label: str) -> None:
    received, upstream = download(FRAMINGS[framing](BLOBS[kind], {"Content-Encoding": label}), BLOBS[kind])
    assert received == BLOBS[kind]
    assert {request.headers["accept-encoding"] for request in upstream.requests} == {"identity"}


@pytest.mark.parametrize("label", GZIP_LABELS + OTHER_LABELS)
def test_whatever_its_label(label: str) -> None:
    blob = ITSELF_A_GZIP["small"]
    assert download(answering(200, blob, {"Content-Encoding": label}), blob)[0] == blob


def test_whatever_its_labels() -> None:
    blob = ITSELF_A_GZIP["small"]
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Encoding: aws-chunked\r\nContent-Encoding: gzip\r\nContent-Length: {len(blob)}\r\n"
    )
    assert download(sending(head.encode() + b"\r\n" + blob), blob)[0] == blob


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("kind", BLOBS)
@pytest.mark.parametrize("label", ["gzip", "x-gzip"])
def test_a_gzip_that_was_applied_on_the_way_is_undone(framing: str, kind: str, label: str) -> None:
    encoded = gzip.compress(BLOBS[kind], 1)
    assert download(FRAMINGS[framing](encoded, {"Content-Encoding": label}), BLOBS[kind])[0] == BLOBS[kind]


@pytest.mark.parametrize("label", GZIP_LABELS)
def test_whatever_it_is_called(label: str) -> None:
    assert download(answering(200, gzip.compress(TEXT), {"Content-Encoding": label}), TEXT)[0] == TEXT


def same_length_either_way() -> bytes:
    """A text that is as long as its gzip."""
    for size in itertools.count(20):
        text = bytes(random.Random(size).choices(b"abcdefgh", k=size))  # noqa: S311 - no secret
        if len(gzip.compress(text, mtime=0)) == size:
            return text
    raise AssertionError


def test_where_the_size_is_the_same_either_way_the_digest_decides() -> None:
    text = same_length_either_way()
    encoded = gzip.compress(text, mtime=0)
    headers = {"Content-Encoding": "gzip"}
    assert download(answering(200, encoded, headers), text)[0] == text
    assert download(answering(200, encoded, headers), encoded)[0] == encoded


def test_a_blob_of_unknown_length_is_asked_for_twice_at_most() -> None:
    blob = BLOBS["large-gzip"]
    assert len(blob) > MIB
    for body in (blob, gzip.compress(blob, 1)):
        received, upstream = download(chunked(body, headers={"Content-Encoding": "gzip"}), blob)
        assert received == blob
        assert len(upstream.requests) == 2


# --- resumed ---------------------------------------------------------------------------------------------------------


def encoding(blob: bytes, *, breaks_after: int, times: int = 1, label: str = "gzip") -> Handler:
    """A server that encodes what it sends, ranges of that included, and whose connections break at first."""
    encoded = gzip.compress(blob, 1)
    left = [times]

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        wanted = request.range(len(encoded))
        first, last = wanted or (0, len(encoded) - 1)
        headers = {"Content-Encoding": label, "Content-Length": str(last + 1 - first)}
        if wanted:
            headers["Content-Range"] = f"bytes {first}-{last}/{len(encoded)}"
        connection.head(206 if wanted else 200, headers)
        if left[0]:
            left[0] -= 1
            connection.send(encoded[first : last + 1][:breaks_after])
            connection.reset()
        else:
            connection.send(encoded[first : last + 1])

    return handle


def test_the_transfer_of_what_is_encoded_is_resumed_by_beginning_anew() -> None:
    blob = PLAIN["large"]
    received, upstream = download(encoding(blob, breaks_after=300_000, times=2), blob)
    assert received == blob
    assert [request.headers.get("range") for request in upstream.requests] == [None] * 3


def test_the_transfer_of_what_is_only_labelled_is_resumed_where_it_broke() -> None:
    blob = ITSELF_A_GZIP["noise"]
    resumed = breaking(blob, 1 << 20, times=1)

    def labelled(request: ReceivedRequest, connection: Connection) -> None:
        head = connection.head
        connection.head = lambda status, headers: head(status, {**headers, "Content-Encoding": "gzip"})  # type: ignore[method-assign]
        resumed(request, connection)

    received, upstream = download(labelled, blob)
    assert received == blob
    assert [request.headers.get("range", "")[:8] for request in upstream.requests] == ["", "bytes=10"]


def test_another_endpoint_that_encodes_goes_on_from_the_beginning() -> None:
    blob = PLAIN["large"]
    second = encoding(blob, breaks_after=0, times=0)
    received, upstream = download(in_order(breaking(blob, 1 << 20, times=1), second), blob)
    assert received == blob
    ranges = [request.headers.get("range", "")[:8] for request in upstream.requests]
    assert ranges == ["", "bytes=10", ""], "a part of what was encoded is of no use"


# --- wrong -----------------------------------------------------------------------------------------------------------


def failure(handler: Handler, blob: bytes) -> tuple[Error, list[bytes]]:
    received: list[bytes] = []
    with Upstream(handler) as upstream, registry_client(clock=FakeClock()) as client:
        with pytest.raises(Error) as caught:
            received.extend(pieces(client.open_blob(CONTEXT, reference_at(upstream), described(blob)), 65536))
        return caught.value, received


@pytest.mark.demand("BOMB-content-encoding")
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("kind", ["small-plain", "large-plain", "small-gzip"])
def test_a_bomb_makes_no_more_than_the_blobs_size(framing: str, kind: str) -> None:
    blob = BLOBS[kind]
    bomb = gzip.compress(blob + bytes(64 * MIB))
    error, received = failure(FRAMINGS[framing](bomb, {"Content-Encoding": "gzip"}), blob)
    assert isinstance(error, SizeMismatchError)
    assert sum(map(len, received)) < len(blob)


@pytest.mark.parametrize(
    ("body", "label", "expected", "words"),
    [
        (gzip.compress(TEXT[:-1]), "gzip", SizeMismatchError, "sent a gzip of less than the blob's"),
        (gzip.compress(TEXT + b"x"), "gzip", SizeMismatchError, "has more than the"),
        (gzip.compress(TEXT[:-1] + b"x"), "gzip", DigestMismatchError, "sent other content"),
        (gzip.compress(TEXT)[:-20], "gzip", SizeMismatchError, "no gzip of it"),
        (TEXT[:-1], "gzip", SizeMismatchError, "no gzip of it .labelled Content-Encoding: gzip"),
        (zlib.compress(TEXT), "deflate", SizeMismatchError, "labelled Content-Encoding: deflate, though identity"),
        (TEXT[:-1] + b"x", "br", DigestMismatchError, "labelled Content-Encoding: br, though identity"),
        (gzip.compress(TEXT), "identity", SizeMismatchError, f"bytes for a blob of {len(TEXT)}$"),
        (gzip.compress(gzip.compress(TEXT)), "gzip, gzip", SizeMismatchError, "gzip of less than"),
    ],
)
def test_what_is_wrong_with_an_encoded_blob_is_told(body: bytes, label: str, expected: type[Error], words: str) -> None:
    with pytest.raises(expected, match=words):
        download(answering(200, body, {"Content-Encoding": label}), TEXT)


# --- documents -------------------------------------------------------------------------------------------------------

MANIFEST = b'{"schemaVersion": 2}'


@pytest.mark.parametrize("label", GZIP_LABELS)
def test_a_manifest_that_was_compressed_on_the_way_is_read(label: str) -> None:
    encoded = answering(200, gzip.compress(MANIFEST), {"Content-Encoding": label})
    with Upstream(encoded) as upstream, registry_client() as client:
        for digest in (None, digest_of(MANIFEST)):
            manifest = client.fetch_manifest(CONTEXT, reference_at(upstream), digest)
            assert manifest is not None
            assert manifest.raw == MANIFEST


@pytest.mark.parametrize("label", GZIP_LABELS + OTHER_LABELS)
def test_a_manifest_that_is_only_labelled_is_read(label: str) -> None:
    with Upstream(answering(200, MANIFEST, {"Content-Encoding": label})) as upstream, registry_client() as client:
        manifest = client.fetch_manifest(CONTEXT, reference_at(upstream), digest_of(MANIFEST))
        assert manifest is not None
        assert manifest.raw == MANIFEST


@pytest.mark.demand("BOMB-content-encoding")
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (gzip.compress(b"[" * (64 * MIB)), "sent a manifest of over 4194304 bytes"),
        (gzip.compress(MANIFEST)[:-3], "sent a damaged gzip of the manifest"),
    ],
)
def test_a_manifest_in_a_bomb_or_a_damaged_gzip_is_refused(body: bytes, words: str) -> None:
    encoded = answering(200, body, {"Content-Encoding": "gzip"})
    with Upstream(encoded) as upstream, registry_client() as client, pytest.raises(Error, match=words):
        client.fetch_manifest(CONTEXT, reference_at(upstream))


@pytest.mark.demand("BOMB-content-encoding")
def test_a_bomb_in_an_error_or_a_redirect_does_not_go_off() -> None:
    bomb = gzip.compress(b"[" * (64 * MIB))
    headers = {"Content-Encoding": "gzip", "Location": "/next"}
    handler = in_order(answering(307, bomb, headers), answering(400, bomb, headers))
    with Upstream(handler) as upstream, registry_client() as client:
        with pytest.raises(RegistryError) as caught:
            client.fetch_manifest(CONTEXT, reference_at(upstream))
        assert caught.value.upstream_status == 400


def test_the_codes_of_an_error_are_read_through_a_gzip() -> None:
    body = gzip.compress(b'{"errors":[{"code":"TOOMANYREQUESTS"}]}')
    handler = answering(400, body, {"Content-Encoding": "gzip"})
    with Upstream(handler) as upstream, registry_client(clock=FakeClock()) as client:
        with pytest.raises(UpstreamError) as caught:
            client.fetch_manifest(CONTEXT, reference_at(upstream))
        assert isinstance(caught.value, RateLimitedError)


@pytest.mark.demand("BOMB-content-encoding")
def test_a_token_is_read_through_a_gzip_and_a_bomb_for_one_is_not() -> None:
    with Upstream(answering(500)) as upstream, registry_client(clock=FakeClock()) as client:
        challenge = {"WWW-Authenticate": f'Bearer realm="{upstream.url}/token"'}

        def handle(request: ReceivedRequest, connection: Connection) -> None:
            is_welcome = request.headers.get("authorization") == "Bearer x"
            (content(MANIFEST) if is_welcome else answering(401, headers=challenge))(request, connection)

        encoded = {"Content-Encoding": "gzip"}
        bomb = gzip.compress(b" " * (64 * MIB) + b'{"token":"x"}')
        upstream.handler = by_path({"/token": answering(200, bomb, encoded)}, default=handle)
        with pytest.raises(RegistryError, match="sent no usable token"):
            client.fetch_manifest(CONTEXT, reference_at(upstream))
        upstream.handler = by_path({"/token": answering(200, gzip.compress(b'{"token":"x"}'), encoded)}, default=handle)
        assert client.fetch_manifest(CONTEXT, reference_at(upstream)) is not None
