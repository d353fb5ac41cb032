"""cip and its library when connections break: what was received is kept, and compared, or fetched anew."""

from __future__ import annotations

import base64
import gc
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from container_image_client import Client
from container_image_client.errors import IncompleteAnswerError, NotFoundError, WrongContentError
from container_image_client.layout import LayoutPath
from container_image_client.pull import pull
from container_image_client.rootfs import unpack
from tests.functional.test_cip import run_cip
from tests.support.cutter import Cutter
from tests.support.daemon import RunningDaemon, stand_alone, write_policy
from tests.support.layouts import Layout, StoredImage, layer_tar
from tests.support.upstream import Connection, Handler, ReceivedRequest, Upstream, answering, in_order

MIB = 1 << 20
LARGE = random.Random(7).randbytes(9 * MIB + 5)  # noqa: S311 - no secret


@dataclass(frozen=True)
class Served:
    daemon: RunningDaemon
    layout: Layout
    image: StoredImage
    relay: Path


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    layout = Layout(tmp_path / "layout")
    stored = layout.image([layer_tar({"large": LARGE}), layer_tar({"small": b"s"})], name="1", compression="")
    policy = write_policy(tmp_path)
    with stand_alone(tmp_path / "daemon", ["--policy", str(policy), f"oci:{layout.path}:1"]) as daemon:
        yield Served(daemon, layout, stored, tmp_path / "relay.sock")


# --- the real daemon behind a connection that breaks ------------------------------------------------------------------

CUTS = [MIB, 5 * MIB, MIB, 2 * MIB, MIB]


def test_a_blob_is_read_as_if_nothing_had_happened(served: Served) -> None:
    client = Client(served.relay)
    with (
        Cutter(served.relay, served.daemon.socket, CUTS) as cutter,
        client.open(served.image.layer_digests[0]) as reader,
    ):
        assert reader.read() == served.image.layers[0]
    assert sum(cutter.sent) < len(served.image.layers[0]) * 1.05
    assert sum(b"Range: bytes=" in request for request in cutter.requests) >= 4


def test_a_pull_goes_on_by_itself(served: Served, tmp_path: Path) -> None:
    with Cutter(served.relay, served.daemon.socket, CUTS) as cutter:
        done = run_cip("--socket", served.relay, "pull", f"oci:{tmp_path}/pulled")
    assert done.returncode == 0, done.stderr
    for digest, blob in served.image.blobs.items():
        assert (tmp_path / "pulled/blobs" / digest.replace(":", "/")).read_bytes() == blob
    assert sum(cutter.sent) < sum(map(len, served.image.layers)) * 1.05


def test_an_unpack_goes_on_by_itself(served: Served, tmp_path: Path) -> None:
    with Cutter(served.relay, served.daemon.socket, CUTS):
        unpack(Client(served.relay), tmp_path / "root")
    assert (tmp_path / "root/large").read_bytes() == LARGE


def test_a_pull_that_was_killed_goes_on_with_what_it_left(served: Served, tmp_path: Path) -> None:
    client = Client(served.daemon.socket)
    work = tmp_path / "pulled/.cip"
    work.mkdir(parents=True)
    (work / served.image.layer_digests[0].replace(":", "-")).write_bytes(served.image.layers[0][: 6 * MIB])
    with Cutter(served.relay, served.daemon.socket, []) as cutter:
        pulled = pull(Client(served.relay), LayoutPath(work.parent, None))
    assert len(pulled.fetched) == 3
    assert sum(cutter.sent) < 4 * MIB
    assert [blob.digest for blob in client.blobs()] == list(served.image.blobs)


@pytest.mark.demand("mirror-corrupt-blob")
def test_a_wrong_beginning_of_a_killed_pull_is_found_out_and_fetched_anew(served: Served, tmp_path: Path) -> None:
    work = tmp_path / "pulled/.cip"
    work.mkdir(parents=True)
    layer, digest = served.image.layers[0], served.image.layer_digests[0]
    (work / digest.replace(":", "-")).write_bytes(b"!" + layer[1 : 6 * MIB])
    pull(Client(served.daemon.socket), LayoutPath(work.parent, None))
    assert (work.parent / "blobs" / digest.replace(":", "/")).read_bytes() == layer


@pytest.mark.demand("DIG-blob-mismatch")
def test_a_blob_that_turns_out_wrong_is_asked_for_a_few_times_and_given_up(served: Served, tmp_path: Path) -> None:
    digest = served.image.layer_digests[0]
    Client(served.daemon.socket).manifest()
    served.layout.blob_path(digest).write_bytes(bytes(len(served.image.layers[0])))
    done = run_cip("--socket", served.daemon.socket, "pull", f"oci:{tmp_path}/pulled")
    assert done.returncode in (7, 8), done.stderr
    assert not (tmp_path / "pulled/index.json").exists()


# --- a daemon of which a test decides every byte ----------------------------------------------------------------------

BLOB = LARGE[: 3 * MIB]
DIGEST = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"


def cut(after: int) -> Handler:
    """The beginning of the whole blob."""

    def handle(_: ReceivedRequest, connection: Connection) -> None:
        connection.head(200, {"Content-Length": str(len(BLOB))})
        connection.send(BLOB[:after])
        connection.close()

    return handle


def rest(blob: bytes = BLOB) -> Handler:
    """What a Range asks for, with Prefix-Digest."""

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        assert request.headers["if-range"] == f'"{DIGEST}"'
        first = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
        prefix = base64.b64encode(hashlib.sha256(blob[:first]).digest()).decode()
        headers = {
            "Content-Range": f"bytes {first}-{len(blob) - 1}/{len(blob)}",
            "Prefix-Digest": f"sha-256=:{prefix}:",
        }
        connection.answer(206, blob[first:], headers)

    return handle


def problem(status: int, code: str, *, retryable: bool, headers: dict[str, str] | None = None) -> Handler:
    document = {"status": status, "code": code, "detail": "why", "retryable": retryable}
    return answering(status, json.dumps(document).encode(), headers)


def read(*handlers: Handler) -> tuple[bytes, Upstream]:
    with Upstream(in_order(*handlers)) as upstream, Client(url=upstream.url).open(DIGEST) as reader:
        return reader.read(), upstream


def test_a_daemon_without_ranges_sends_all_again_which_is_read_over() -> None:
    content, upstream = read(cut(MIB), cut(len(BLOB)))
    assert content == BLOB
    assert [request.headers.get("range") for request in upstream.requests] == [None, f"bytes={MIB}-"]


@pytest.mark.parametrize("second", [rest(b"!" + BLOB[1:]), answering(200, b"!" + BLOB[1:])], ids=["part", "whole"])
def test_a_beginning_that_is_not_the_blobs_is_an_error(second: Handler) -> None:
    with pytest.raises(WrongContentError):
        read(cut(MIB), second)


def test_a_busy_daemon_is_asked_again_when_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = problem(503, "TOOMANYREQUESTS", retryable=True, headers={"Retry-After": "0"})
    assert read(cut(MIB), busy, busy, rest())[0] == BLOB


def test_what_another_attempt_would_not_mend_is_told_at_once() -> None:
    with pytest.raises(NotFoundError):
        read(cut(MIB), problem(404, "BLOB_UNKNOWN", retryable=False))


def test_a_reader_that_got_no_answer_is_closed() -> None:
    """An error in its finalizer would fail the test: io calls close() for every reader that is open."""
    with (
        Upstream(problem(404, "BLOB_UNKNOWN", retryable=False)) as upstream,
        pytest.raises(NotFoundError),
    ):
        Client(url=upstream.url).open(DIGEST)
    gc.collect()


def test_attempts_without_progress_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("container_image_client.blob._PAUSES", (0.0, 0.0))
    with (
        Upstream(cut(0)) as upstream,
        Client(url=upstream.url).open(DIGEST) as reader,
        pytest.raises(IncompleteAnswerError),
    ):
        reader.read()
    assert len(upstream.requests) == 3


def test_an_answer_that_says_no_length_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(_: ReceivedRequest, connection: Connection) -> None:
        connection.head(200)
        connection.send(b"whatever")
        connection.close()

    done = None
    with Upstream(handle) as upstream:
        done = run_cip("--url", upstream.url, "manifest")
    assert (done.returncode, "does not say its length" in done.stderr) == (8, True)


def test_who_listens_and_never_answers_is_waited_for_as_long_as_asked() -> None:
    with Upstream(lambda _, connection: connection.wait_for_end()) as upstream:
        done = run_cip("--url", upstream.url, "--timeout", "0.2", "images")
    assert (done.returncode, "was silent" in done.stderr) == (7, True)
