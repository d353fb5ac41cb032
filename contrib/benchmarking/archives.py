"""What is measured of images that lie on this host: the rate of a blob, and how soon a second one begins."""

from __future__ import annotations

import gzip
import hashlib
import json
import mmap
import shutil
import statistics
import subprocess
import tarfile
import time
from contextlib import closing
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final, cast

from benchmarking.daemon import serving_daemon
from benchmarking.keepalive import KeepAliveClient
from benchmarking.measurement import HASH, OURS, SKOPEO, Bound, Figure, Probes, measurement
from benchmarking.processes import MIB
from benchmarking.skopeo import serving_skopeo

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from benchmarking.bench import Bench

_HASHED_AT_ONCE: Final = 512 * 1024
_RECEIVE_SIZE: Final = 64 * 1024
_TRIES: Final = 25
_DIGEST: Final = "sha256:"
_PLAIN: Final = "docker-archive.tar"
_COMPRESSED: Final = "docker-archive.tar.gz"


_BLOB_FIGURES: Final = (
    Figure("throughput", "MB/s", (Bound(SKOPEO, at_least=1.2), Bound(HASH, at_least=0.85))),
    Figure("CPU", "s/GiB"),
    Figure("peak RSS", "MiB"),
)


@measurement("oci", "blob of an OCI layout", *_BLOB_FIGURES)
def _blob_of_a_layout(bench: Bench) -> Probes:
    """The layer, where it lies, beside what hashing the same file costs."""
    yield from _blob_of(bench, f"oci:{bench.image.layout}:latest")


@measurement("dir", "blob of a directory", *_BLOB_FIGURES)
def _blob_of_a_directory(bench: Bench) -> Probes:
    """The same as skopeo copies it."""
    path = bench.image.layout.parent / "dir"
    copy = [bench.skopeo, "copy", "--quiet", "--insecure-policy", f"oci:{bench.image.layout}:latest", f"dir:{path}"]
    subprocess.run(copy, check=True)
    yield from _blob_of(bench, f"dir:{path}")
    shutil.rmtree(path)


@measurement("oci-archive", "blob of an oci-archive", *_BLOB_FIGURES)
def _blob_of_an_archive(bench: Bench) -> Probes:
    """The same in a tar file."""
    path = bench.image.layout.parent / "oci-archive.tar"
    subprocess.run(["tar", "-C", bench.image.layout, "-cf", path, "."], check=True)
    yield from _blob_of(bench, f"oci-archive:{path}:latest")
    path.unlink()


def _blob_of(bench: Bench, reference: str) -> Probes:
    image = bench.image
    with (
        serving_daemon(reference, bench.policy) as daemon,
        serving_skopeo(bench.skopeo, bench.policy, None) as skopeo,
    ):
        number = skopeo.open_image(reference)
        with closing(daemon.connect()) as connection:
            KeepAliveClient(connection, "/manifest").get()
        blob = image.layout / "blobs/sha256" / image.layer_digest.removeprefix(_DIGEST)
        yield {
            OURS: lambda: daemon.fetch_blob(image.layer_digest).figures,
            SKOPEO: lambda: skopeo.fetch_blob(number, image.layer_digest, image.layer_size).figures,
            HASH: lambda: _hash(blob),
        }


def _hash(path: Path) -> tuple[float, float, float]:
    """The rate of SHA-256 over a file, and what it costs of this process."""
    buffer, digest, size = memoryview(mmap.mmap(-1, _HASHED_AT_ONCE)), hashlib.sha256(), path.stat().st_size
    cpu, start = time.process_time(), time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return size / seconds / 1e6, cpu / size * (1 << 30), _HASHED_AT_ONCE / MIB


@measurement(
    "second",
    "second blob of an archive",
    Figure("begins after", "ms", (Bound(SKOPEO, at_most=1.0),)),
)
def _second_blob(bench: Bench) -> Probes:
    """A small layer behind a large one in a docker-archive, by proxies that have the image open."""
    archive = _write_docker_archive(bench, _PLAIN)
    reference = f"docker-archive:{archive.path}"
    with (
        serving_daemon(reference, bench.policy) as daemon,
        serving_skopeo(bench.skopeo, bench.policy, None) as skopeo,
    ):
        number = skopeo.open_image(reference)
        skopeo.fetch_manifest(number)
        with closing(daemon.connect()) as connection:
            _first_byte(connection, archive)
            yield {
                OURS: lambda: (1000 * _median_of_many(lambda: _first_byte(connection, archive)),),
                SKOPEO: lambda: (
                    1000 * _median_of_many(lambda: skopeo.first_byte(number, archive.digest, archive.size)),
                ),
            }
    archive.path.unlink()


@measurement(
    "second-gzip",
    "second use of a compressed archive",
    Figure("begins after", "ms", (Bound(SKOPEO, at_most=0.1),)),
)
def _second_use(bench: Bench) -> Probes:
    """The same layer of a compressed archive, for whoever comes second: skopeo opens the image for each."""
    archive = _write_docker_archive(bench, _COMPRESSED)
    reference = f"docker-archive:{archive.path}"
    with (
        serving_daemon(reference, bench.policy) as daemon,
        serving_skopeo(bench.skopeo, bench.policy, None) as skopeo,
    ):

        def open_and_begin() -> tuple[float]:
            start = time.perf_counter()
            number = skopeo.open_image(reference)
            opened = time.perf_counter() - start
            seconds = skopeo.first_byte(number, archive.digest, archive.size)
            skopeo.close_image(number)
            return (1000 * (opened + seconds),)

        with closing(daemon.connect()) as connection:
            _first_byte(connection, archive)
            probes = {OURS: lambda: (1000 * _first_byte(connection, archive),), SKOPEO: open_and_begin}
            try:
                open_and_begin()
            except RuntimeError:  # skopeo 1.9 of Debian 12 takes the compressed file for the archive
                del probes[SKOPEO]
            yield probes
    archive.path.unlink()


def _median_of_many(probe: Callable[[], float]) -> float:
    """Of what takes less than a millisecond a single try says little."""
    return statistics.median(probe() for _ in range(_TRIES))


def _first_byte(connection: socket.socket, archive: _DockerArchive) -> float:
    """Seconds until the first byte of the blob is there; the rest of it is read, too.

    A manifest before it lets the daemon be done with the blob before that, as skopeo is when it says so.
    """
    KeepAliveClient(connection, "/manifest").get()
    start = time.perf_counter()
    connection.sendall(f"GET /blobs/{archive.digest} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    received = b""
    while not (body := received.partition(b"\r\n\r\n")[2]):
        received += _receive(connection)
    seconds = time.perf_counter() - start
    if not received.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"no blob but: {received[:200].decode(errors='replace')}")
    missing = archive.size - len(body)
    while missing > 0:
        missing -= len(_receive(connection))
    return seconds


def _receive(connection: socket.socket) -> bytes:
    data = connection.recv(_RECEIVE_SIZE)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data


@dataclass(frozen=True, slots=True)
class _DockerArchive:
    """An archive with two layers; ``digest`` and ``size`` are the second one's, which is the small image's."""

    path: Path
    digest: str
    size: int


def _write_docker_archive(bench: Bench, name: str) -> _DockerArchive:
    """As ``docker save`` writes it: the layers of both images, unpacked, one above the other."""
    directory = bench.image.layout.parent / "docker-archive"
    directory.mkdir()
    tars = [_unpack(image.layout, image.layer_digest, directory) for image in (bench.image, bench.small)]
    config = {"architecture": "amd64", "os": "linux", "config": {}}
    config["rootfs"] = {"type": "layers", "diff_ids": [f"{_DIGEST}{tar.stem}" for tar in tars]}
    (directory / "config.json").write_text(json.dumps(config))
    manifest = [{"Config": "config.json", "RepoTags": None, "Layers": [tar.name for tar in tars]}]
    (directory / "manifest.json").write_text(json.dumps(manifest))
    path = bench.image.layout.parent / name
    is_compressed = name == _COMPRESSED
    with (
        gzip.open(path, "wb", 1) if is_compressed else path.open("wb") as file,
        tarfile.open(fileobj=cast("IO[bytes]", file), mode="w") as archive,
    ):
        for member in (*tars, directory / "config.json", directory / "manifest.json"):
            archive.add(member, member.name)
    found = _DockerArchive(path, f"{_DIGEST}{tars[1].stem}", tars[1].stat().st_size)
    shutil.rmtree(directory)
    return found


def _unpack(layout: Path, digest: str, directory: Path) -> Path:
    """A layer's tar, named by its digest."""
    partial, hasher = directory / "partial", hashlib.sha256()
    with gzip.open(layout / "blobs/sha256" / digest.removeprefix(_DIGEST)) as packed, partial.open("wb") as plain:
        while piece := packed.read(MIB):
            hasher.update(piece)
            plain.write(piece)
    return partial.rename(directory / f"{hasher.hexdigest()}.tar")
