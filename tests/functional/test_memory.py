"""Memory is bounded by the daemon, not by the size of blobs, the number of streams or the slowness of clients.

The blobs are zeros: a sparse file in a layout, or an upstream that makes them up as it sends. They are many times
larger than the bounds, which in turn leave room for what a busy machine adds: chunks meet that a quick one has one by
one, and the heap gives back later. How little a stream takes is for contrib/benchmark to measure.
"""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.host import Host
from tests.support.layouts import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Layout, encode
from tests.support.upstream import Connection, ReceivedRequest, Upstream, by_path, content

MIB = 1 << 20
BIG, SMALL = 1024 * MIB, 64 * MIB
STREAMS = 20
FETCHES = 5
AT_MOST = 64 * MIB  # the whole daemon with one stream
SPREAD = 12 * MIB  # between one run and the next
PER_STREAM = 4 * MIB  # a chunk that leaves, one that arrives, a thread, and what the heap has not given back
ZEROS = bytes(MIB)


@dataclass(frozen=True, slots=True)
class ZerosImage:
    """An image in a layout whose one layer, ``size`` bytes of zeros, is a sparse file."""

    layout: Path
    manifest: bytes
    config: bytes
    layer_digest: str
    size: int

    def serve(self, request: ReceivedRequest, connection: Connection) -> None:
        """Answer as a registry does, with a layer that is never in memory as a whole."""
        digest = f"sha256:{hashlib.sha256(self.config).hexdigest()}"
        routes = {
            "/manifests/1": content(self.manifest, OCI_MANIFEST),
            f"/blobs/{digest}": content(self.config),
            f"/blobs/{self.layer_digest}": self._send_layer,
        }
        by_path(routes)(request, connection)

    def _send_layer(self, _: ReceivedRequest, connection: Connection) -> None:
        connection.head(200, {"Content-Length": str(self.size)})
        for _ in range(self.size // MIB):
            connection.send(ZEROS)


def make_image(directory: Path, size: int) -> ZerosImage:
    sha256 = hashlib.sha256()
    for _ in range(size // MIB):
        sha256.update(ZEROS)
    digest, layout = f"sha256:{sha256.hexdigest()}", Layout(directory)
    config = encode({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest]}})
    layer = {"mediaType": OCI_LAYER, "digest": digest, "size": size}
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": layout.blob(config, OCI_CONFIG)}
    stored = layout.manifest(manifest | {"layers": [layer]}, config, (), name="1")
    with layout.blob_path(digest).open("wb") as file:
        file.truncate(size)
    return ZerosImage(directory, stored.manifest, config, digest, size)


def memory(daemon: RunningDaemon, field: str) -> int:
    """``VmRSS``, what the daemon has resident, or ``VmHWM``, the most it ever had, in bytes (proc(5))."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


@contextmanager
def serving_layout(directory: Path, image: ZerosImage) -> Iterator[RunningDaemon]:
    with Host(directory / "host").daemon({"os": f"oci:{image.layout}:1"}) as daemon:
        yield daemon


@contextmanager
def serving_upstream(directory: Path, image: ZerosImage) -> Iterator[RunningDaemon]:
    with Upstream(image.serve) as upstream, proxying(directory, upstream) as daemon:
        yield daemon


@contextmanager
def proxying(directory: Path, upstream: Upstream) -> Iterator[RunningDaemon]:
    host = Host(directory / "host")
    host.write_registries(f'[[registry]]\nlocation = "{upstream.authority}"\ninsecure = true\n')
    with host.daemon({"os": f"docker://{upstream.authority}/os:1"}) as daemon:
        yield daemon


Serving = Callable[[Path, ZerosImage], AbstractContextManager[RunningDaemon]]


def fetch(daemon: RunningDaemon, image: ZerosImage) -> None:
    done = daemon.curl(
        *("--fail", "--output", "/dev/null", "--write-out", "%{size_download}"),
        f"http://localhost/blobs/{image.layer_digest}",
    )
    assert (done.returncode, done.stdout) == (0, str(image.size).encode()), done.stderr


@pytest.mark.parametrize("serving", [serving_layout, serving_upstream])
def test_a_blob_of_any_size_takes_the_same_memory(serving: Serving, tmp_path: Path) -> None:
    peaks = {}
    for size in (SMALL, BIG):
        place = tmp_path / str(size)
        image = make_image(place / "layout", size)
        with serving(place, image) as daemon:
            fetch(daemon, image)
            peaks[size] = memory(daemon, "VmHWM")
    assert peaks[BIG] <= AT_MOST
    assert peaks[BIG] - peaks[SMALL] <= SPREAD


class Client:
    """A reader that takes as much as it is told to, and no more."""

    def __init__(self, daemon: RunningDaemon, image: ZerosImage) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(daemon.socket))
        request = f"GET /blobs/{image.layer_digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        self.socket.sendall(request.encode())

    def read(self, size: int) -> int:
        """Read so many bytes, head included, or all there are; how many were read."""
        buffer, received = bytearray(MIB), 0
        while received < size and (count := self.socket.recv_into(buffer, min(MIB, size - received))):
            received += count
        return received


@contextmanager
def clients(daemon: RunningDaemon, image: ZerosImage) -> Iterator[list[Client]]:
    with ExitStack() as stack:
        readers = [Client(daemon, image) for _ in range(STREAMS)]
        for reader in readers:
            stack.enter_context(reader.socket)
        yield readers


@pytest.mark.demand("mem-limit")
def test_parallel_streams_take_a_bounded_amount_of_memory_each(tmp_path: Path) -> None:
    image = make_image(tmp_path / "layout", SMALL)
    together = threading.Barrier(STREAMS, timeout=60)

    def read(client: Client) -> int:
        received = client.read(MIB)
        together.wait()
        return received + client.read(2 * SMALL)

    with serving_upstream(tmp_path, image) as daemon, ThreadPoolExecutor(STREAMS) as pool:
        fetch(daemon, image)
        alone = memory(daemon, "VmHWM")
        with clients(daemon, image) as readers:
            sizes = list(pool.map(read, readers))
        assert min(sizes) > SMALL
        assert memory(daemon, "VmHWM") - alone <= STREAMS * PER_STREAM


@pytest.mark.demand("client-stall")
@pytest.mark.demand("mem-limit")
def test_a_client_that_stops_reading_stops_the_transfer_and_takes_little_memory(tmp_path: Path) -> None:
    image = make_image(tmp_path / "layout", SMALL)
    with Upstream(image.serve) as upstream, proxying(tmp_path, upstream) as daemon:
        fetch(daemon, image)
        alone = memory(daemon, "VmRSS")
        with clients(daemon, image) as readers:
            for reader in readers:  # at full speed first, when the daemon reads ahead most
                assert reader.read(8 * MIB) == 8 * MIB
            for _ in range(FETCHES - 1):
                fetch(daemon, image)
            assert memory(daemon, "VmRSS") - alone <= STREAMS * PER_STREAM
            sent = sum(connection.sent for connection in upstream.connections)
            assert sent - FETCHES * SMALL < STREAMS * SMALL // 2
