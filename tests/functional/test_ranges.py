"""Parts of blobs over the API, and downloads that go on where they were cut: curl, wget, requests."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import requests_unixsocket

from tests.support.cutter import Cutter
from tests.support.daemon import Reply, RunningDaemon, on_port, stand_alone, write_policy
from tests.support.host import Host
from tests.support.layouts import Layout, StoredImage
from tests.support.requirements import needs_programs
from tests.support.upstream import Connection, Handler, ReceivedRequest, Upstream, by_path, content, image
from tests.support.waiting import await_true

MIB = 1 << 20
SPACING = 4 * MIB
LARGE = random.Random(5).randbytes(13 * MIB + 17)  # noqa: S311 - no secret
HUGE = LARGE * 8


@dataclass(frozen=True)
class Served:
    daemon: RunningDaemon
    image: StoredImage

    @property
    def small(self) -> str:
        return self.image.layer_digests[0]

    @property
    def large(self) -> str:
        return self.image.layer_digests[1]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    layout = Layout(tmp_path / "layout")
    stored = layout.image([b"0123456789", LARGE], name="1", compression="")
    policy = write_policy(tmp_path)
    with stand_alone(tmp_path / "daemon", ["--policy", str(policy), f"oci:{layout.path}:1"]) as daemon:
        yield Served(daemon, stored)


def prefix_digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def part(daemon: RunningDaemon, digest: str, value: str, **headers: str) -> Reply:
    return daemon.get(f"/blobs/{digest}", {"Range": value, **headers})


@pytest.mark.parametrize(
    ("value", "first", "stop"),
    [("bytes=2-4", 2, 5), ("bytes=7-", 7, 10), ("bytes=-3", 7, 10), ("bytes=0-", 0, 10), ("bytes=5-99", 5, 10)],
)
def test_a_part_says_where_it_is_from_and_what_lies_before(served: Served, value: str, first: int, stop: int) -> None:
    reply = part(served.daemon, served.small, value)
    assert (reply.status, reply.body) == (206, b"0123456789"[first:stop])
    assert reply.headers["content-range"] == f"bytes {first}-{stop - 1}/10"
    assert reply.headers["content-length"] == str(stop - first)
    assert reply.headers["prefix-digest"] == prefix_digest(b"0123456789"[:first])
    assert reply.headers["repr-digest"] == prefix_digest(b"0123456789")
    assert reply.headers["etag"] == f'"{served.small}"'
    assert reply.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("value", ["bytes=10-", "bytes=-0", "bytes=5-2", "bytes=x"])
def test_a_range_of_nothing_is_416_with_the_size(served: Served, value: str) -> None:
    reply = part(served.daemon, served.small, value)
    assert (reply.status, reply.headers["content-range"], reply.json["code"]) == (416, "bytes */10", "RANGE_INVALID")


@pytest.mark.parametrize("value", ["bytes=0-1,5-6", "lines=1-2", "nonsense"])
def test_several_ranges_and_other_units_get_the_whole(served: Served, value: str) -> None:
    reply = part(served.daemon, served.small, value)
    assert (reply.status, reply.body) == (200, b"0123456789")
    assert reply.headers["accept-ranges"] == "bytes"


def test_two_range_lines_are_several_ranges(served: Served) -> None:
    done = served.daemon.curl(
        "-H", "Range: bytes=0-1", "-H", "Range: bytes=3-4", f"http://localhost/blobs/{served.small}"
    )
    assert done.stdout == b"0123456789"


def test_if_range_with_our_etag_lets_the_range_count(served: Served) -> None:
    etag = f'"{served.small}"'
    assert part(served.daemon, served.small, "bytes=7-", **{"If-Range": etag}).status == 206
    for other in ('"else"', f"W/{etag}", "Thu, 26 Nov 2026 07:00:00 GMT"):
        reply = part(served.daemon, served.small, "bytes=7-", **{"If-Range": other})
        assert (reply.status, reply.body) == (200, b"0123456789")
    unsatisfiable = part(served.daemon, served.small, "bytes=99-", **{"If-Range": '"else"'})
    assert unsatisfiable.status == 200


def test_a_client_that_has_the_blob_gets_304_and_no_part(served: Served) -> None:
    assert part(served.daemon, served.small, "bytes=7-", **{"If-None-Match": f'"{served.small}"'}).status == 304


def test_head_ignores_ranges(served: Served) -> None:
    for value in ("bytes=2-4", "bytes=99-"):
        reply = served.daemon.request("HEAD", f"/blobs/{served.small}", {"Range": value})
        assert (reply.status, reply.headers["content-length"]) == (200, "10")
        assert reply.headers["accept-ranges"] == "bytes"
        assert "content-range" not in reply.headers


def test_parts_of_a_large_blob(served: Served) -> None:
    assert part(served.daemon, served.large, f"bytes={9 * MIB}-").body == LARGE[9 * MIB :]
    for first, last in ((0, 0), (1, 2), (SPACING - 1, SPACING), (5 * MIB, 9 * MIB), (13 * MIB, 13 * MIB + 16)):
        reply = part(served.daemon, served.large, f"bytes={first}-{last}")
        assert (reply.status, reply.body) == (206, LARGE[first : last + 1])
        assert reply.headers["prefix-digest"] == prefix_digest(LARGE[:first])


def test_the_access_log_says_what_was_sent(served: Served) -> None:
    part(served.daemon, served.small, "bytes=2-4")
    await_true(lambda: f"/blobs/{served.small} 206 3 bytes" in served.daemon.log_text(), "the record")


# --- what is asked for upstream, and what a bad one cannot do --------------------------------------------------------


@dataclass
class Registry:
    """A registry with an image of one layer, as a handler to be changed while it runs."""

    stored: StoredImage
    blob: Handler

    def __call__(self, request: ReceivedRequest, connection: Connection) -> None:
        routes = image(self.stored, "1") | {f"/blobs/{self.layer}": self.blob}
        by_path(routes)(request, connection)

    @property
    def layer(self) -> str:
        return self.stored.layer_digests[0]


@contextlib.contextmanager
def registry(tmp_path: Path, layer: bytes = LARGE) -> Iterator[tuple[Registry, Upstream, RunningDaemon]]:
    stored = Layout(tmp_path / "layout").image([layer], name="1", compression="")
    handler = Registry(stored, content(layer))
    host = Host(tmp_path / "host")
    with Upstream(handler) as upstream:
        host.write_registries(f'[[registry]]\nlocation = "{upstream.authority}"\ninsecure = true\n')
        with host.daemon({"os": f"docker://{upstream.authority}/os:1"}) as daemon:
            yield handler, upstream, daemon


def ranges_of(upstream: Upstream, digest: str) -> list[str | None]:
    return [request.headers.get("range") for request in upstream.requests if request.path.endswith(digest)]


def lose(daemon: RunningDaemon, digest: str, after: int) -> bytes:
    """What a client has whose connection is lost when ``after`` bytes have come."""
    with daemon.open(f"/blobs/{digest}") as response:
        return response.read(after)


def test_from_a_checkpoint_at_most_4_mib_more_than_the_range_are_asked_for(tmp_path: Path) -> None:
    with registry(tmp_path) as (handler, upstream, daemon):
        held = lose(daemon, handler.layer, 10 * MIB)
        reply = part(daemon, handler.layer, f"bytes={len(held)}-")
        assert (reply.status, held + reply.body) == (206, LARGE)
        assert reply.headers["prefix-digest"] == prefix_digest(held)
        assert ranges_of(upstream, handler.layer) == [None, f"bytes={2 * SPACING}-{len(LARGE) - 1}"]


def test_of_a_blob_that_was_verified_at_most_8_mib_more_than_a_range_in_the_middle_are_asked_for(
    tmp_path: Path,
) -> None:
    with registry(tmp_path, HUGE) as (handler, upstream, daemon):
        whole = part(daemon, handler.layer, "bytes=50000000-50000009")
        assert (whole.status, whole.body) == (200, HUGE), "it would cost too much, and is sent whole"
        reply = part(daemon, handler.layer, "bytes=50000000-50000009")
        assert (reply.status, reply.body) == (206, HUGE[50000000:50000010])
        checkpoint = 50000000 // SPACING * SPACING
        assert ranges_of(upstream, handler.layer) == [None, f"bytes={checkpoint}-{checkpoint + SPACING - 1}"]


@pytest.mark.demand("DIG-blob-mismatch")
def test_a_resumed_answer_ends_short_when_the_whole_is_wrong(tmp_path: Path) -> None:
    with registry(tmp_path) as (handler, _, daemon):
        held = lose(daemon, handler.layer, 10 * MIB)
        handler.blob = content(LARGE[:-1] + b"!")
        done = daemon.curl("-r", f"{len(held)}-", f"http://localhost/blobs/{handler.layer}")
        assert done.returncode == 18, "curl: transfer closed with bytes remaining"
        assert len(held + done.stdout) < len(LARGE)


@pytest.mark.demand("mirror-corrupt-blob")
def test_a_registry_that_spoils_the_beginning_and_then_cuts_gets_no_client_to_a_complete_file(tmp_path: Path) -> None:
    spoiled = b"!" + LARGE[1:]
    with registry(tmp_path) as (handler, _, daemon):
        handler.blob = content(spoiled)
        file = tmp_path / "blob"
        file.write_bytes(lose(daemon, handler.layer, 10 * MIB))
        assert file.read_bytes() == spoiled[: 10 * MIB], "the client could not know"
        handler.blob = content(LARGE)
        url = f"http://localhost/blobs/{handler.layer}"
        attempts = [daemon.curl("-C", "-", "-o", str(file), url).returncode for _ in range(3)]
        assert attempts == [18, 33, 33], "cut by the digest of the whole; then told that nothing can be resumed"
        assert len(file.read_bytes()) < len(LARGE)
        assert daemon.get(f"/blobs/{handler.layer}").body == LARGE


def test_a_source_that_fails_before_the_range_begins_is_a_502_or_503_and_no_part(tmp_path: Path) -> None:
    with registry(tmp_path) as (handler, _, daemon):
        handler.blob = content(LARGE[: 8 * MIB])
        reply = part(daemon, handler.layer, f"bytes={9 * MIB}-")
        assert (reply.status, reply.json["code"]) == (502, "SIZE_MISMATCH")
        assert "prefix-digest" not in reply.headers


# --- clients ----------------------------------------------------------------------------------------------------------


def test_curl_resumes(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "blob"
    file.write_bytes(LARGE[: 5 * MIB])
    done = served.daemon.curl("-C", "-", "-o", str(file), f"http://localhost/blobs/{served.large}")
    assert (done.returncode, file.read_bytes()) == (0, LARGE), done.stderr


def test_what_curl_has_whole_stays_as_it_is(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "blob"
    file.write_bytes(LARGE)
    done = served.daemon.curl("-C", "-", "-o", str(file), f"http://localhost/blobs/{served.large}")
    assert (done.returncode, file.read_bytes()) == (0, LARGE), done.stderr


@needs_programs("wget")
def test_wget_resumes(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    stored = layout.image([LARGE], name="1", compression="")
    policy = write_policy(tmp_path)
    file = tmp_path / "blob"
    file.write_bytes(LARGE[: 5 * MIB])
    with on_port(tmp_path / "daemon", ["--policy", str(policy), f"oci:{layout.path}:1"]) as (daemon, port):
        url = f"http://127.0.0.1:{port}/blobs/{stored.layer_digests[0]}"
        subprocess.run(["wget", "--quiet", "--continue", "--output-document", str(file), url], check=True)
        await_true(lambda: "206" in daemon.log_text(), "the record of a part")
    assert file.read_bytes() == LARGE


def test_requests_resumes_through_a_relay_that_cuts(served: Served, tmp_path: Path) -> None:
    relay = tmp_path / "relay.sock"
    cuts = [3 * MIB, 5 * MIB, 1000]
    received = b""
    with Cutter(relay, served.daemon.socket, cuts) as cutter, requests_unixsocket.Session() as session:
        url = f"http+unix://{str(relay).replace('/', '%2F')}/blobs/{served.large}"
        while len(received) < len(LARGE):
            headers = {"Range": f"bytes={len(received)}-"} if received else {}
            with contextlib.suppress(requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                response = session.get(url, headers=headers, stream=True)
                assert response.headers.get("Prefix-Digest") == (prefix_digest(received) if received else None)
                for piece in response.iter_content(MIB):
                    received += piece
        assert len(cutter.sent) >= len(cuts)
    assert received == LARGE
