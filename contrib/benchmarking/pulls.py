"""What is measured of downloads that are cut, and of the daemon as a registry."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final

from benchmarking.daemon import serving_daemon, serving_port
from benchmarking.keepalive import KeepAliveClient
from benchmarking.measurement import DIRECT, OURS, Bound, Figure, Probes, measurement
from benchmarking.processes import MIB

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarking.bench import Bench
    from benchmarking.daemon import Daemon

_CUTS: Final = 10


@measurement("resume", f"blob cut {_CUTS} times", Figure("fetched twice", "%", limit=5.0), Figure("throughput", "MB/s"))
def _cut_downloads(bench: Bench) -> Probes:
    """The layer over HTTP, by a client that loses its connection at random places, and goes on there."""
    image, registry = bench.image, bench.counted
    with serving_daemon(registry.reference, bench.policy) as daemon:
        with closing(daemon.connect()) as connection:
            KeepAliveClient(connection, "/manifest").get()

        def probe() -> tuple[float, float]:
            before, start = _sent(bench.sent, image.layer_digest), time.perf_counter()
            _fetch_with_cuts(daemon, image.layer_digest, image.layer_size)
            seconds = time.perf_counter() - start
            while (sent := _sent(bench.sent, image.layer_digest) - before) < image.layer_size:
                time.sleep(0.01)  # nginx writes its record when a connection has ended
            return (sent / image.layer_size - 1) * 100, image.layer_size / seconds / 1e6

        yield {OURS: probe}


def _fetch_with_cuts(daemon: Daemon, digest: str, size: int) -> None:
    """Raise if what came is not the blob; no request asks for what is there."""
    cuts = [*sorted(random.Random(size).sample(range(1, size), _CUTS)), size]  # noqa: S311 - no secret
    hashed, received = hashlib.new(digest.partition(":")[0]), 0
    buffer = memoryview(bytearray(MIB))
    for cut in cuts:
        with closing(daemon.connect()) as connection, connection.makefile("rb", buffering=0) as stream:
            request = f"GET /blobs/{digest} HTTP/1.1\r\nHost: localhost\r\nRange: bytes={received}-\r\n\r\n"
            connection.sendall(request.encode())
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += stream.read(1) or b""
            if not head.startswith(b"HTTP/1.1 206 "):
                raise RuntimeError(f"the daemon does not resume: {head[:100]!r}")
            while received < cut:
                count = stream.readinto(buffer[: cut - received])
                if not count:
                    raise RuntimeError(f"the daemon sent {received} of {size} bytes")
                hashed.update(buffer[:count])
                received += count
    if hashed.hexdigest() != digest.partition(":")[2]:
        raise RuntimeError("what came is not the blob")


def _sent(record: Path, digest: str) -> int:
    """How many bytes of the blob nginx has sent so far."""
    lines = (line.split() for line in record.read_text().splitlines())
    return sum(int(count) for target, count in lines if target.endswith(digest))


@measurement("pull", "skopeo copy from /v2/", Figure("throughput", "MB/s", (Bound(DIRECT, at_least=0.9),)))
def _pulls(bench: Bench) -> Probes:
    """The image, by skopeo, from the daemon over TCP and from the registry itself, to a directory."""
    registry = bench.nginx
    with serving_port(registry.reference, bench.policy) as port:
        yield {
            OURS: lambda: _pull(bench, f"docker://127.0.0.1:{port}/image"),
            DIRECT: lambda: _pull(bench, registry.reference),
        }


def _pull(bench: Bench, reference: str) -> tuple[float]:
    target = bench.directory / "pulled"
    start = time.perf_counter()
    command = [
        bench.skopeo,
        "copy",
        "--quiet",
        "--insecure-policy",
        "--src-tls-verify=false",
        reference,
        f"dir:{target}",
    ]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return (bench.image.layer_size / seconds / 1e6,)
