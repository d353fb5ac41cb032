"""Clients that leave while the daemon waits for a registry: the work for them ends, and nobody else waits for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from container_image_proxy.faces.http.limits import ServerLimits
from tests.support.daemon import RunningDaemon, UnixConnection
from tests.support.host import Host
from tests.support.layouts import Layout, StoredImage, layer_tar
from tests.support.upstream import Connection, ReceivedRequest, Upstream, by_path, image

PATIENCE = 10.0  # seconds; a third of what the daemon has with a registry that is silent
SIZE = 3 << 20


class Stall:
    """A handler that sends its beginning and then nothing; it tells when it was asked and when it was given up."""

    def __init__(self, head: bytes = b"") -> None:
        self._head = head
        self.begun = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)

    def __call__(self, _: ReceivedRequest, connection: Connection) -> None:
        connection.send(self._head)
        self.begun.release()
        connection.wait_for_end()
        self.ended.release()


@dataclass(frozen=True)
class Bench:
    daemon: RunningDaemon
    stored: StoredImage
    manifest: Stall
    blob: Stall

    def ask(self, target: str) -> UnixConnection:
        connection = UnixConnection(self.daemon.socket)
        connection.request("GET", target)
        return connection


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """The image "os", whose layer stalls after its first half, and "stuck", whose manifest never comes."""
    stored = Layout(tmp_path / "os").image([layer_tar({"big": bytes(SIZE)})], name="1", compression="")
    layer = stored.layers[0]
    half = f"HTTP/1.1 200 OK\r\nContent-Length: {len(layer)}\r\n\r\n".encode() + layer[: len(layer) // 2]
    manifest, blob = Stall(), Stall(half)
    stalling = {"/stuck/manifests/1": manifest, f"/blobs/{stored.layer_digests[0]}": blob}
    routes = {**stalling, **{path: handler for path, handler in image(stored, "1").items() if path not in stalling}}
    with Upstream(by_path(routes)) as upstream, contextlib.ExitStack() as stack:
        host = Host(tmp_path / "host")
        host.write_registries(f'[[registry]]\nlocation = "{upstream.authority}"\ninsecure = true\n')
        references = {name: f"docker://{upstream.authority}/{name}:1" for name in ("os", "stuck")}
        yield Bench(stack.enter_context(host.daemon(references)), stored, manifest, blob)


@pytest.mark.demand("client-disconnect")
def test_the_transfer_of_a_client_that_leaves_in_mid_blob_ends(bench: Bench) -> None:
    assert bench.daemon.get("/images/os/manifest").status == 200
    with contextlib.closing(bench.ask(f"/images/os/blobs/{bench.stored.layer_digests[0]}")) as client:
        assert client.getresponse().read(1000)
        assert bench.blob.begun.acquire(timeout=PATIENCE)
    assert bench.blob.ended.acquire(timeout=PATIENCE)


@pytest.mark.demand("client-disconnect")
def test_clients_that_lose_patience_do_not_use_up_their_users_connections(bench: Bench) -> None:
    for _ in range(ServerLimits().connections_per_uid + 6):
        bench.ask("/images/stuck/manifest").close()
    assert bench.daemon.get("/images/os/manifest").status == 200


@pytest.mark.demand("client-disconnect")
def test_a_look_at_the_registry_goes_on_until_the_last_who_wants_it_has_left(bench: Bench) -> None:
    with contextlib.closing(bench.ask("/images/stuck/manifest")):
        assert bench.manifest.begun.acquire(timeout=PATIENCE)
        bench.ask("/images/stuck/manifest").close()
        assert not bench.manifest.ended.acquire(timeout=1.0)
    assert bench.manifest.ended.acquire(timeout=PATIENCE)


@pytest.mark.demand("sigterm-drain")
def test_the_end_does_not_wait_for_clients_that_have_left(bench: Bench) -> None:
    with contextlib.closing(bench.ask("/images/stuck/manifest")):
        assert bench.manifest.begun.acquire(timeout=PATIENCE)
    bench.daemon.process.terminate()
    assert bench.daemon.process.wait(PATIENCE) == 0
