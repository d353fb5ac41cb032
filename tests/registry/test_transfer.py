"""A transfer that finishes, or fails in time and says why: resets, stalls, lengths, statuses, redirects."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from container_image_proxy.config.limits import MIB, Limits
from container_image_proxy.errors import (
    Error,
    RateLimitedError,
    RegistryAuthError,
    RegistryError,
    RegistryUnavailableError,
    SizeMismatchError,
    UnknownBlobError,
    UpstreamError,
    UpstreamTimeoutError,
)
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import Descriptor
from container_image_proxy.image.reference import Reference, parse_reference
from container_image_proxy.registry.client import RegistryClient
from tests.support.contexts import CONTEXT
from tests.support.layouts import single_image
from tests.support.readers import pieces, read_all
from tests.support.registry_client import IMPATIENT, LIMITS, FakeClock, registry_client
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
    dripping,
    image,
    in_order,
    redirecting,
    resetting,
    sending,
    stalling,
)


def noise(seed: int, size: int) -> bytes:
    """Bytes that are the same each time."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - no secret


BLOB = noise(1, 300_000)
DESCRIPTOR = Descriptor("", digest_of(BLOB), len(BLOB))


def reference_at(upstream: Upstream) -> Reference:
    return parse_reference(f"{upstream.authority}/some/image:latest")


def download(client: RegistryClient, upstream: Upstream, descriptor: Descriptor = DESCRIPTOR) -> bytes:
    return read_all(client.open_blob(CONTEXT, reference_at(upstream), descriptor))


def transfer(handler: Handler, *, limits: Limits = LIMITS, clock: FakeClock | None = None) -> tuple[bytes, Upstream]:
    """What arrives of the blob, and the upstream to ask about it."""
    with Upstream(handler) as upstream, registry_client(limits=limits, clock=clock) as client:
        return download(client, upstream), upstream


def failure(handler: Handler, *, limits: Limits = LIMITS) -> tuple[Error, Upstream]:
    """The error that a transfer ends with."""
    with Upstream(handler) as upstream, registry_client(limits=limits) as client:
        with pytest.raises(Error) as caught:
            download(client, upstream)
        return caught.value, upstream


# --- broken connections ----------------------------------------------------------------------------------------------


@pytest.mark.demand("reset-mid-blob")
@pytest.mark.parametrize("then", [Connection.reset, Connection.close])
def test_a_broken_transfer_goes_on_where_it_broke(then: Callable[[Connection], None]) -> None:
    clock = FakeClock()
    received, upstream = transfer(breaking(BLOB, 100_000, then=then, times=1), clock=clock)
    assert received == BLOB
    assert [request.headers.get("range") for request in upstream.requests] == [None, f"bytes=100000-{len(BLOB) - 1}"]
    assert clock.slept == [], "no pause after progress"


@pytest.mark.demand("reset-mid-blob")
def test_a_blob_over_a_connection_that_is_reset_every_8_mib_arrives_whole_and_hardly_a_byte_twice() -> None:
    blob = noise(2, 8 * MIB) * 8
    descriptor = Descriptor("", digest_of(blob), len(blob))
    digest = hashlib.sha256()
    with Upstream(breaking(blob, 8 * MIB)) as upstream, registry_client() as client:
        for piece in pieces(client.open_blob(CONTEXT, reference_at(upstream), descriptor)):
            digest.update(piece)
        sent = sum(connection.sent for connection in upstream.connections)
    assert digest.hexdigest() == descriptor.digest.hex
    assert sent < len(blob) * 1.01


def test_a_transfer_that_gets_nowhere_ends() -> None:
    error, upstream = failure(breaking(BLOB, 10))
    assert isinstance(error, RegistryUnavailableError)
    assert error.retryable
    assert error.phase == "blob"
    assert error.endpoint == upstream.authority
    assert len(upstream.requests) <= LIMITS.attempts + 3


@pytest.mark.demand("upstream-http1.0/keepalive-close")
def test_a_kept_connection_that_dies_is_replaced_without_a_pause() -> None:
    clock = FakeClock()
    manifest = answering(200, b"{}")
    with Upstream(in_order(manifest, resetting, manifest)) as upstream, registry_client(clock=clock) as client:
        for _ in range(2):
            assert client.fetch_manifest(CONTEXT, reference_at(upstream)) is not None
        assert [request.connection for request in upstream.requests][0:2] == [1, 1], "0 is the attempt with TLS"
    assert clock.slept == []


@pytest.mark.demand("upstream-http1.0/keepalive-close")
def test_http_1_0_with_and_without_length() -> None:
    for head in (b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BLOB)):
        received, _ = transfer(sending(head + BLOB))
        assert received == BLOB


# --- ranges ----------------------------------------------------------------------------------------------------------


def ignoring_ranges(after: int) -> Handler:
    whole = answering(200, BLOB)
    return in_order(breaking(BLOB, after), whole)


@pytest.mark.demand("resume-200")
def test_a_server_without_ranges_sends_the_beginning_for_nothing() -> None:
    received, upstream = transfer(ignoring_ranges(1000))
    assert received == BLOB
    assert upstream.requests[-1].headers["range"] == f"bytes=1000-{len(BLOB) - 1}"


@pytest.mark.demand("resume-200")
def test_not_more_than_allowed_is_fetched_for_nothing() -> None:
    error, _ = failure(ignoring_ranges(1000), limits=Limits(discarded=999))
    assert isinstance(error, RegistryError)
    assert "cannot resume" in str(error)


@pytest.mark.demand("resume-etag-change")
@pytest.mark.parametrize(
    "content_range",
    [
        f"bytes 0-{len(BLOB) - 1001}/{len(BLOB)}",
        f"bytes 1000-{len(BLOB) - 2}/{len(BLOB)}",
        "bytes 1000-299999/400000",
        "x",
        "",
    ],
)
def test_a_part_of_something_else_is_refused(content_range: str) -> None:
    part = answering(206, BLOB[1000:], {"Content-Range": content_range})
    error, _ = failure(in_order(breaking(BLOB, 1000), part))
    assert isinstance(error, RegistryError)


@pytest.mark.demand("resume-etag-change")
@pytest.mark.parametrize(
    "useless",
    [
        answering(416, headers={"Content-Range": f"bytes */{len(BLOB)}"}),
        answering(416),
        answering(206, BLOB[500:], {"Content-Range": f"bytes 500-{len(BLOB) - 1}/{len(BLOB)}"}),
        answering(206, BLOB[1000:2000], {"Content-Range": f"bytes 1000-1999/{len(BLOB)}"}),
        answering(206, BLOB[1000:]),
        answering(206, b"", {"Content-Type": "multipart/byteranges; boundary=x"}),
    ],
    ids=["416", "416-bare", "earlier", "shorter", "no-range", "multipart"],
)
def test_who_cannot_send_the_rest_is_asked_for_the_whole(useless: Handler) -> None:
    blob = f"/blobs/{DESCRIPTOR.digest}"
    serve = in_order(breaking(BLOB, 1000, times=1), useless, answering(200, BLOB))
    received, upstream = transfer(by_path({blob: serve}))
    assert received == BLOB
    ranges = [request.headers.get("range") for request in upstream.requests if request.path.endswith(blob)]
    assert ranges == [None, f"bytes=1000-{len(BLOB) - 1}", None]


def test_a_part_that_nobody_asked_for_is_taken_if_it_is_the_whole() -> None:
    whole = {"Content-Range": f"bytes 0-{len(BLOB) - 1}/{len(BLOB)}"}
    assert transfer(answering(206, BLOB, whole))[0] == BLOB
    error, _ = failure(answering(206, BLOB[:-1], {"Content-Range": f"bytes 0-{len(BLOB) - 2}/{len(BLOB)}"}))
    assert "another part of the blob than asked for" in str(error)


def test_another_representation_of_the_same_blob_is_no_other_blob() -> None:
    """An ETag says nothing that the digest does not say better."""
    first = breaking(BLOB, 1000, times=1)
    rest = {"Content-Range": f"bytes 1000-{len(BLOB) - 1}/{len(BLOB)}", "ETag": '"another"'}
    assert transfer(in_order(first, answering(206, BLOB[1000:], rest)))[0] == BLOB


def test_a_part_of_unknown_size_is_taken() -> None:
    part = answering(206, BLOB[1000:], {"Content-Range": f"bytes 1000-{len(BLOB) - 1}/*"})
    received, _ = transfer(in_order(breaking(BLOB, 1000), part))
    assert received == BLOB


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.demand("stall-mid-blob")
def test_a_stall_is_cut_and_the_rest_fetched_anew() -> None:
    received, upstream = transfer(breaking(BLOB, 1000, then=Connection.wait_for_end, times=1), limits=IMPATIENT)
    assert received == BLOB
    assert upstream.requests[-1].headers["range"] == f"bytes=1000-{len(BLOB) - 1}"


@pytest.mark.demand("stall-headers")
@pytest.mark.demand("stall-mid-blob")
@pytest.mark.parametrize("handler", [stalling, breaking(BLOB, 1000, then=Connection.wait_for_end)])
def test_an_eternal_stall_is_a_timeout(handler: Handler) -> None:
    error, _ = failure(handler, limits=Limits(first_byte_timeout=0.2, idle_timeout=0.2, attempts=2))
    assert isinstance(error, UpstreamTimeoutError)
    assert error.retryable


@pytest.mark.demand("slow-drip")
def test_who_drips_is_as_good_as_dead() -> None:
    limits = Limits(idle_timeout=0.3, minimum_rate=10 * MIB, attempts=2)
    error, _ = failure(dripping(BLOB, 0.02), limits=limits)
    assert isinstance(error, UpstreamTimeoutError)


@pytest.mark.demand("slow-drip")
@pytest.mark.demand("LIM-headers")
@pytest.mark.parametrize("endless", [b"HTTP/1.1 100 Continue\r\n\r\n", b"X", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_head_that_never_ends_is_a_timeout(endless: bytes) -> None:
    def handle(_: ReceivedRequest, connection: Connection) -> None:
        connection.send(endless)
        while connection.pause(0.02):
            connection.send(endless[:25])

    error, _ = failure(handle, limits=Limits(connect_timeout=0.2, first_byte_timeout=0.3, attempts=2))
    assert isinstance(error, UpstreamError)


def test_endless_framing_without_content_is_a_timeout() -> None:
    def handle(_: ReceivedRequest, connection: Connection) -> None:
        connection.head(200, {"Transfer-Encoding": "chunked"})
        connection.send(b"0\r\n")
        while connection.pause(0.001):
            connection.send(b"Trailer: x\r\n" * 100)

    error, _ = failure(handle, limits=Limits(idle_timeout=0.3, minimum_rate=10 * MIB, attempts=2))
    assert isinstance(error, UpstreamTimeoutError)


# --- lengths ---------------------------------------------------------------------------------------------------------


@pytest.mark.demand("length-short")
def test_a_shorter_blob_is_refused_before_its_first_byte() -> None:
    with (
        Upstream(answering(200, BLOB[:-1])) as upstream,
        registry_client() as client,
        pytest.raises(SizeMismatchError),
    ):
        next(pieces(client.open_blob(CONTEXT, reference_at(upstream), DESCRIPTOR), 1))


@pytest.mark.demand("length-short")
@pytest.mark.demand("DIG-blob-short")
@pytest.mark.parametrize("handler", [chunked(BLOB[:-1]), sending(b"HTTP/1.1 200 OK\r\n\r\n" + BLOB[:-1])])
def test_a_blob_that_ends_early_never_looks_complete(handler: Handler) -> None:
    error, _ = failure(handler)
    assert isinstance(error, UpstreamError)
    assert f"ended before the blob's {len(BLOB)} bytes" in str(error)


@pytest.mark.demand("length-long")
def test_what_follows_the_length_is_ignored_and_the_connection_not_used_again() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BLOB)
    with Upstream(sending(head + BLOB + b"HTTP/1.1 200 OK" * 10_000, then=Connection.wait_for_end)) as upstream:
        with registry_client() as client:
            assert download(client, upstream) == BLOB
            assert download(client, upstream) == BLOB
        assert upstream.requests[0].connection != upstream.requests[1].connection


@pytest.mark.demand("length-long")
@pytest.mark.demand("DIG-blob-trailing")
@pytest.mark.parametrize(
    "handler", [answering(200, BLOB + b"x"), chunked(BLOB + b"x"), sending(b"HTTP/1.1 200 OK\r\n\r\n" + BLOB + b"x")]
)
def test_a_longer_blob_is_an_error(handler: Handler) -> None:
    error, _ = failure(handler)
    assert isinstance(error, SizeMismatchError)


@pytest.mark.demand("no-length")
@pytest.mark.parametrize("handler", [chunked(BLOB), sending(b"HTTP/1.1 200 OK\r\n\r\n" + BLOB)])
def test_a_blob_without_length_arrives(handler: Handler) -> None:
    received, _ = transfer(handler)
    assert received == BLOB


def test_an_end_that_never_comes_after_the_last_byte_does_no_harm() -> None:
    def handle(_: ReceivedRequest, connection: Connection) -> None:
        connection.head(200, {"Transfer-Encoding": "chunked"})
        connection.send(f"{len(BLOB):x}\r\n".encode() + BLOB + b"\r\n")
        connection.wait_for_end()

    received, upstream = transfer(handle, limits=IMPATIENT)
    assert received == BLOB
    assert len(upstream.requests) == 1


def test_a_broken_chunked_transfer_goes_on() -> None:
    received, _ = transfer(in_order(chunked(BLOB[:200_000], complete=False), content(BLOB)))
    assert received == BLOB


def test_an_empty_blob() -> None:
    with Upstream(content(b"")) as upstream, registry_client() as client:
        assert download(client, upstream, Descriptor("", digest_of(b""), 0)) == b""


@pytest.mark.parametrize("spare", [0, 1])
def test_a_blob_that_fits_into_the_buffer_comes_as_one_though_its_connection_breaks(spare: int) -> None:
    with Upstream(breaking(BLOB, 100_000, times=1)) as upstream, registry_client() as client:
        reader = client.open_blob(CONTEXT, reference_at(upstream), DESCRIPTOR)
        assert list(pieces(reader, len(BLOB) + spare)) == [BLOB]


# --- statuses --------------------------------------------------------------------------------------------------------


@pytest.mark.demand("5xx-then-ok")
@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
def test_a_passing_failure_is_waited_out(status: int) -> None:
    clock = FakeClock()
    received, _ = transfer(in_order(answering(status), answering(status), content(BLOB)), clock=clock)
    assert received == BLOB
    assert len(clock.slept) == 2


@pytest.mark.demand("429-retry-after")
@pytest.mark.parametrize(("value", "pause"), [("3", 3.0), ("100000", 60.0), ("-1", None), ("junk", None)])
def test_retry_after_is_honoured_and_capped(value: str, pause: float | None) -> None:
    clock = FakeClock()
    limited = answering(429, headers={"Retry-After": value})
    received, _ = transfer(in_order(limited, content(BLOB)), clock=clock)
    assert received == BLOB
    assert len(clock.slept) == 1
    assert clock.slept[0] == pause if pause else clock.slept[0] <= LIMITS.backoff


@pytest.mark.demand("429-retry-after")
def test_a_lasting_rate_limit_says_when_to_come_back() -> None:
    error, _ = failure(answering(429, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', {"Retry-After": "50"}))
    assert isinstance(error, RateLimitedError)
    assert (error.retryable, error.retry_after, error.upstream_status) == (True, 50.0, 429)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, UnknownBlobError), (401, RegistryAuthError), (403, RegistryAuthError), (400, RegistryError)],
)
def test_a_refusal_is_told_at_once_and_typed(status: int, kind: type[Error]) -> None:
    error, upstream = failure(answering(status))
    assert isinstance(error, kind)
    assert [path for path in upstream.paths() if path != "/v2/"] == [f"/v2/some/image/blobs/{DESCRIPTOR.digest}"]


@pytest.mark.demand("flap")
@pytest.mark.demand("5xx-then-ok")
@pytest.mark.parametrize("seed", [None, 1])
def test_a_thousand_manifests_from_a_registry_that_fails_one_in_five(tmp_path: Path, seed: int | None) -> None:
    stored = single_image(tmp_path)
    serve = by_path(image(stored))
    count, chance = [0], random.Random(seed)  # noqa: S311 - no secret

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        count[0] += 1
        fails = count[0] % 5 == 0 if seed is None else chance.random() < 0.2
        (answering(503) if fails else serve)(request, connection)

    with Upstream(handle) as upstream, registry_client(clock=FakeClock()) as client:
        for _ in range(1000):
            manifest = client.fetch_manifest(CONTEXT, reference_at(upstream))
            assert manifest is not None
            assert manifest.raw == stored.manifest
        assert count[0] > 1200


def test_an_unchanged_manifest_is_not_handed_out_again(tmp_path: Path) -> None:
    """Whether the registry knows conditional requests, or sends it all the same."""
    stored = single_image(tmp_path)
    digest = digest_of(stored.manifest)

    def conditional(request: ReceivedRequest, connection: Connection) -> None:
        assert request.headers["if-none-match"] == f'"{digest}"'
        connection.answer(304, headers={"ETag": request.headers["if-none-match"]})

    for handler in (conditional, by_path(image(stored))):
        with Upstream(handler) as upstream, registry_client() as client:
            assert client.find_manifest(CONTEXT, reference_at(upstream), unless=digest)[0] is None
            assert client.find_manifest(CONTEXT, reference_at(upstream), unless=digest)[0] is None
            assert len({request.connection for request in upstream.requests}) == 1, "the connection is kept"
    with Upstream(answering(304)) as upstream, registry_client() as client, pytest.raises(RegistryError):
        client.fetch_manifest(CONTEXT, reference_at(upstream))


# --- redirects -------------------------------------------------------------------------------------------------------


@pytest.mark.demand("redirect-cdn")
@pytest.mark.parametrize("status", [403, 404, 410, 500])
def test_an_expired_link_to_storage_is_asked_for_anew(status: int) -> None:
    storage_answers = in_order(answering(status), breaking(BLOB, 1000, times=1), answering(status), content(BLOB))
    with Upstream(storage_answers) as storage:
        received, registry = transfer(by_path({f"/blobs/{DESCRIPTOR.digest}": redirecting(f"{storage.url}/blob")}))
        assert received == BLOB
        assert len([path for path in registry.paths() if path != "/v2/"]) == len(storage.requests) == 4
        assert storage.requests[-1].headers["range"] == f"bytes=1000-{len(BLOB) - 1}"


@pytest.mark.demand("redirect-loop")
def test_redirects_are_followed_ten_times_and_not_eleven() -> None:
    def hop(request: ReceivedRequest, connection: Connection, last: int) -> None:
        number = int(request.path.rpartition("/")[2]) if "hop" in request.path else 0
        answer = content(BLOB) if number == last else redirecting(f"/hop/{number + 1}", 302)
        answer(request, connection)

    received, upstream = transfer(partial(hop, last=10))
    assert received == BLOB
    assert len(upstream.requests) == 11
    error, upstream = failure(partial(hop, last=11))
    assert isinstance(error, RegistryError)
    assert "redirects more than 10 times" in str(error)
    assert len(upstream.requests) == 11


@pytest.mark.parametrize("location", ["ftp://a/b", "https://", "http://[::1", "gopher:x"])
def test_a_redirect_to_nowhere_is_an_error(location: str) -> None:
    error, upstream = failure(redirecting(location))
    assert isinstance(error, RegistryError)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("headers", [{}, {"Location": ""}, {"Location": " "}])
def test_a_status_of_redirects_without_a_location_is_an_error(headers: dict[str, str]) -> None:
    error, _ = failure(answering(307, headers=headers))
    assert isinstance(error, RegistryError)
    assert error.upstream_status == 307


# --- the client of the client ----------------------------------------------------------------------------------------


@pytest.mark.demand("client-disconnect")
def test_closing_the_reader_closes_the_connection_at_once() -> None:
    ended = threading.Event()

    def endless(_: ReceivedRequest, connection: Connection) -> None:
        connection.head(200, {"Content-Length": str(1 << 40)})
        try:
            while True:
                connection.send(bytes(65536))
        except OSError:
            ended.set()

    with Upstream(endless) as upstream, registry_client() as client:
        reader = client.open_blob(CONTEXT, reference_at(upstream), Descriptor("", digest_of(b""), 1 << 40))
        assert reader.readinto(memoryview(bytearray(1)))
        reader.close()
        assert ended.wait(10)


def test_a_slow_client_is_not_mistaken_for_a_slow_upstream() -> None:
    blob = noise(4, 4 * MIB)
    limits = Limits(idle_timeout=0.2, minimum_rate=20 * MIB)
    with Upstream(content(blob)) as upstream, registry_client(limits=limits) as client:
        received = bytearray()
        waiting = threading.Event()
        for piece in pieces(
            client.open_blob(CONTEXT, reference_at(upstream), Descriptor("", digest_of(blob), len(blob)))
        ):
            received += piece
            if len(received) == len(piece):
                waiting.wait(0.5)  # longer than the upstream may take
        assert bytes(received) == blob
        assert len(upstream.requests) == 1
