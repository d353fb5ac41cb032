"""What is measured of cip: its pull beside curl from the same socket, its unpack beside skopeo and umoci, a plan."""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from benchmarking.daemon import serving_daemon
from benchmarking.images import make_image
from benchmarking.measurement import DIRECT, OURS, SKOPEO, Bound, Figure, Probes, measurement
from benchmarking.processes import MIB, run_measured

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarking.bench import Bench
    from benchmarking.daemon import Daemon

_CIP: Final = (sys.executable, "-m", "container_image_client", "--quiet")
_KIB: Final = 1 << 10
_SMALL: Final = 2 * _KIB  # bytes of a file
_FILES_PER_MIB: Final = 30  # of the large image: 30,000 beside 1 GiB


def _run(*commands: list[str]) -> tuple[float, float]:
    """How long commands take one after another, from their start to their end, and their peak memory in MiB.

    That is at least what this process has had itself (wait4(2)).
    """
    start = time.perf_counter()
    used = [run_measured(command)[1].ru_maxrss for command in commands]
    return time.perf_counter() - start, max(used) * _KIB / MIB


def _cip(daemon: Daemon, *arguments: str) -> tuple[float, float]:
    return _run([*_CIP, "--socket", str(daemon.path), *arguments])


@measurement(
    "cip-pull",
    "cip pull beside curl",
    Figure("throughput", "MB/s", (Bound(DIRECT, at_least=0.9),)),
    Figure("peak RSS", "MiB", limit=64.0),
)
def _pulls(bench: Bench) -> Probes:
    """The image into a layout, and its layer by curl into a file. Nobody waits for the disk: curl never does."""
    target, size = bench.directory / "pulled", bench.image.layer_size
    with serving_daemon(bench.nginx.reference, bench.policy) as daemon:

        def pull() -> tuple[float, float]:
            with _removed(target):
                seconds, memory = _cip(daemon, "pull", "--no-sync", f"oci:{target}")
            return size / seconds / 1e6, memory

        def download() -> tuple[float, float]:
            with _removed(target):
                url = f"http://localhost/blobs/{bench.image.layer_digest}"
                socket = ["--unix-socket", str(daemon.path)]
                seconds, memory = _run(
                    ["curl", "--silent", "--show-error", "--fail", "--output", str(target), *socket, url]
                )
            return size / seconds / 1e6, memory

        yield {OURS: pull, DIRECT: download}


@measurement(
    "cip-unpack",
    "cip unpack beside umoci",
    Figure("time", "s", (Bound(SKOPEO, at_most=1.0),)),
    Figure("peak RSS", "MiB", limit=64.0),
)
def _unpacks(bench: Bench) -> Probes:
    """Small files and a large one as a root file system; by skopeo into a layout, which umoci unpacks."""
    size = bench.image.layer_size
    count = max(1, size // MIB * _FILES_PER_MIB)
    image = make_image(bench.directory / "files", count * _SMALL, _SMALL, large=size // 16 // 512 * 512)
    source, target = f"oci:{image.layout}:latest", bench.directory / "unpacked"
    with serving_daemon(source, bench.policy) as daemon:

        def unpack() -> tuple[float, float]:
            with _removed(target):
                return _cip(daemon, "unpack", "--no-sync", str(target))

        def copy_and_unpack() -> tuple[float, float]:
            with _removed(target):
                target.mkdir()
                copy = [bench.skopeo, "copy", "--quiet", "--insecure-policy", source, f"oci:{target}/layout:latest"]
                umoci = ["umoci", "unpack", "--rootless", "--image", f"{target}/layout:latest", f"{target}/bundle"]
                return _run(copy, umoci)

        yield {OURS: unpack} | ({SKOPEO: copy_and_unpack} if shutil.which("umoci") else {})
    shutil.rmtree(image.layout)


@measurement("cip-plan", "cip plan", Figure("time", "ms"), Figure("blobs fetched", "MiB", limit=1.0))
def _plans(bench: Bench) -> Probes:
    """What to fetch of the large image for who has the small one, from manifests alone."""
    have = bench.directory / "manifest.json"
    encoded = bench.small.manifest_digest.removeprefix("sha256:")
    shutil.copy(bench.small.layout / "blobs/sha256" / encoded, have)
    with serving_daemon(bench.counted.reference, bench.policy) as daemon:

        def plan() -> tuple[float, float]:
            before = _sent_blobs(bench.sent)
            seconds, _ = _cip(daemon, "plan", "--have", str(have))
            return seconds * 1e3, (_sent_blobs(bench.sent) - before) / MIB

        yield {OURS: plan}


def _sent_blobs(record: Path) -> int:
    """How many bytes of blobs nginx has sent so far."""
    lines = (line.split() for line in record.read_text().splitlines())
    return sum(int(count) for target, count in lines if "/blobs/" in target)


@contextmanager
def _removed(path: Path) -> Iterator[None]:
    yield
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
