"""A registry that sends wrong bytes, too few, too many, or resets: no client ever sees a complete wrong answer.

Each misbehaviour is an image of one instance, all asked for at once, because some end only after several retries.
"""

from __future__ import annotations

import gzip
import subprocess
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon import Reply, RunningDaemon, activated, stand_alone, write_instance, write_policy
from tests.support.layouts import Layout, StoredImage, layer_tar
from tests.support.upstream import (
    Connection,
    Handler,
    Upstream,
    answering,
    breaking,
    by_path,
    chunked,
    content,
    image,
    resetting,
    sending,
)

BIG = 5 << 20
CURL_PARTIAL_FILE = 18
CURL_HTTP_ERROR = 22


@dataclass(frozen=True)
class Bench:
    daemon: RunningDaemon
    stored: StoredImage
    outcomes: dict[str, tuple[subprocess.CompletedProcess[bytes], bytes]]
    encoded: Reply
    manifest_afterwards: Reply


def wrong(body: bytes, position: int) -> bytes:
    """The same size, one bit different."""
    return body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :]


def with_length(body: bytes, length: int) -> Handler:
    """A body under a ``Content-Length`` that is not its own."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode()
    return sending(head + body)


def misbehaviours(layer: bytes) -> dict[str, Handler]:
    return {
        "right": content(layer),
        "first-byte-wrong": content(wrong(layer, 0)),
        "last-byte-wrong": content(wrong(layer, len(layer) - 1)),
        "other-content": content(bytes(len(layer))),
        "short-length": content(layer[:-1]),
        "long-length": content(layer + b"x"),
        "truncated": with_length(layer[: len(layer) // 2], len(layer)),
        "surplus": with_length(layer + b"surplus", len(layer)),
        "close-delimited": sending(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + layer),
        "close-delimited-surplus": sending(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + layer + b"x"),
        "chunked": chunked(layer),
        "chunked-truncated": chunked(layer[:-1], complete=False),
        "reset-once": breaking(layer, 3 << 20, times=1),
        "reset-always": breaking(layer, 0, then=Connection.reset),
        "encoded": answering(200, gzip.compress(layer), {"Content-Encoding": "gzip"}),
        "encoded-chunked": chunked(gzip.compress(layer, 1), headers={"Content-Encoding": "gzip"}),
        "mislabelled": answering(200, layer, {"Content-Encoding": "gzip"}),
        "encoded-otherwise": answering(200, zlib.compress(layer), {"Content-Encoding": "deflate"}),
        "bomb": answering(200, gzip.compress(bytes(16 * len(layer))), {"Content-Encoding": "gzip"}),
        "bomb-chunked": chunked(gzip.compress(bytes(16 * len(layer))), headers={"Content-Encoding": "gzip"}),
        "not-found": answering(404),
        "html": answering(200, b"<html>login please</html>", {"Content-Type": "text/html"}),
        "no-http": sending(b"SSH-2.0-OpenSSH_9.2\r\n"),
        "endless-header": sending(b"HTTP/1.1 200 OK\r\nX: " + b"a" * (11 << 20)),
        "many-headers": sending(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 10_000 + b"\r\n"),
    }


GOOD = {"right", "close-delimited", "chunked", "reset-once", "encoded", "encoded-chunked", "mislabelled"}
# A surplus behind Content-Length is no part of the answer (RFC 9112 section 6.3); the connection is not used again.
GOOD_BY_FRAMING = {"surplus"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    place = tmp_path_factory.mktemp("hostile")
    stored = Layout(place / "layout").image(
        [layer_tar({"big": bytes(range(256)) * (BIG // 256)})], name="x", compression=""
    )
    (layer,) = stored.layers
    kinds = misbehaviours(layer)
    routes = {f"/{kind}/blobs/{stored.layer_digests[0]}": handler for kind, handler in kinds.items()}
    with Upstream(by_path(routes | image(stored, tag="1"))) as upstream:
        images = "".join(f'[images.{kind}]\nreference = "docker://{upstream.authority}/{kind}:1"\n' for kind in kinds)
        settings = f'{images}[registry]\ntls-verify = false\n[trust]\npolicy = "{write_policy(place)}"\n'
        write_instance(place / "config", "test", settings)
        with activated(place / "run", ["--instance", "test", "--config-dir", str(place / "config")]) as daemon:

            def fetch(kind: str) -> tuple[subprocess.CompletedProcess[bytes], bytes]:
                output = place / f"{kind}.out"
                url = f"http://x/images/{kind}/blobs/{stored.layer_digests[0]}"
                result = daemon.curl("--fail", "--output", str(output), url)
                return result, output.read_bytes() if output.exists() else b""

            with ThreadPoolExecutor(len(kinds)) as pool:
                outcomes = dict(zip(kinds, pool.map(fetch, kinds), strict=True))
            encoded = daemon.get(f"/images/encoded-otherwise/blobs/{stored.layer_digests[0]}")
            yield Bench(daemon, stored, outcomes, encoded, daemon.get("/images/right/manifest"))


@pytest.mark.demand("DIG-blob-mismatch")
@pytest.mark.demand("DIG-blob-short")
@pytest.mark.demand("DIG-blob-trailing")
@pytest.mark.demand("wrong-digest")
@pytest.mark.demand("length-short")
@pytest.mark.demand("length-long")
@pytest.mark.parametrize("kind", sorted(misbehaviours(bytes(4 << 20)).keys() - GOOD - GOOD_BY_FRAMING))
def test_curl_never_ends_well_on_a_blob_that_is_wrong(bench: Bench, kind: str) -> None:
    result, received = bench.outcomes[kind]
    assert result.returncode in {CURL_PARTIAL_FILE, CURL_HTTP_ERROR}, result.stderr
    assert len(received) < len(bench.stored.layers[0])


@pytest.mark.demand("no-length")
@pytest.mark.demand("reset-mid-blob")
@pytest.mark.parametrize("kind", sorted(GOOD | GOOD_BY_FRAMING))
def test_a_blob_that_is_right_in_the_end_arrives_whole(bench: Bench, kind: str) -> None:
    result, received = bench.outcomes[kind]
    assert (result.returncode, received) == (0, bench.stored.layers[0])


def test_a_blob_that_turns_out_wrong_at_its_end_is_cut_and_logged(bench: Bench) -> None:
    assert bench.outcomes["last-byte-wrong"][0].returncode == CURL_PARTIAL_FILE
    log = bench.daemon.log_text()
    assert f" has other content than {bench.stored.layer_digests[0]}" in log
    assert "outcome=cut" in log


def test_the_daemon_lives_on(bench: Bench) -> None:
    assert bench.manifest_afterwards.body == bench.stored.manifest


@pytest.mark.demand("BOMB-content-encoding")
def test_a_coding_that_is_not_undone_is_named(bench: Bench) -> None:
    assert bench.encoded.status == 502
    assert "labelled Content-Encoding: deflate" in bench.encoded.json["detail"]


@pytest.mark.parametrize(
    ("handler", "status"),
    [
        pytest.param(content(b"{}", "application/vnd.oci.image.manifest.v1+json"), 502, id="empty-object"),
        pytest.param(content(b"\xff\xfe", "application/vnd.oci.image.manifest.v1+json"), 502, id="no-json"),
        pytest.param(content(b"<html>", "text/html"), 502, id="html"),
        pytest.param(content(b"[" * (5 << 20), "application/vnd.oci.image.manifest.v1+json"), 502, id="over-the-limit"),
        pytest.param(answering(401, b"no", {"WWW-Authenticate": 'Basic realm="x"'}), 502, id="login"),
        pytest.param(answering(404), 404, id="absent"),
        pytest.param(answering(451), 502, id="unavailable-for-legal-reasons"),
    ],
)
@pytest.mark.demand("LIM-manifest")
def test_a_manifest_that_cannot_be_used_is_told_as_what_it_is(tmp_path: Path, handler: Handler, status: int) -> None:
    with Upstream(handler) as upstream:
        arguments = [
            "--tls-verify=false",
            "--policy",
            str(write_policy(tmp_path)),
            f"docker://{upstream.authority}/x:1",
        ]
        with stand_alone(tmp_path / "run", arguments) as daemon:
            reply = daemon.get("/manifest")
            assert (reply.status, reply.headers["content-type"]) == (status, "application/problem+json")
            assert b"<html>" not in reply.body
            assert daemon.get("/images").status == 200


def test_a_client_that_asks_a_dead_registry_learns_that_a_retry_may_help(tmp_path: Path) -> None:
    with Upstream(resetting) as upstream:
        authority = upstream.authority
    arguments = ["--tls-verify=false", "--policy", str(write_policy(tmp_path)), f"docker://{authority}/x:1"]
    with stand_alone(tmp_path / "run", arguments) as daemon:
        reply = daemon.get("/manifest")
        problem = reply.json
    assert (reply.status, problem["code"], problem["retryable"]) == (503, "UPSTREAM_UNAVAILABLE", True)
    assert (problem["phase"], problem["endpoint"]) == ("connect", authority)
