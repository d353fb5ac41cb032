"""What is measured of blobs: one stream, and many at once."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final

from benchmarking import curl
from benchmarking.daemon import serving_daemon
from benchmarking.keepalive import KeepAliveClient
from benchmarking.measurement import DIRECT, OURS, RELAY, SKOPEO, Bound, Figure, Probes, measurement
from benchmarking.processes import Transfer, cpu_seconds, drain_all, peak_rss
from benchmarking.relay import serving_relay
from benchmarking.skopeo import serving_skopeo

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarking.bench import Bench
    from benchmarking.registries import Registry

_MANY: Final = 64


def _figures(*throughput: Bound, cpu: tuple[Bound, ...] = (), memory: tuple[Bound, ...] = ()) -> tuple[Figure, ...]:
    return Figure("throughput", "MB/s", throughput), Figure("CPU", "s/GiB", cpu), Figure("peak RSS", "MiB", memory)


@measurement(
    "http",
    "blob over HTTP",
    *_figures(
        Bound(SKOPEO, at_least=1.9),
        Bound(RELAY, at_least=0.97),
        cpu=(Bound(RELAY, at_most=1.05),),
        memory=(Bound(SKOPEO, at_most=1.35),),
    ),
)
def _blob_over_http(bench: Bench) -> Probes:
    return _blob(bench, bench.nginx)


@measurement(
    "https",
    "blob over HTTPS",
    *_figures(
        Bound(SKOPEO, at_least=1.2),
        Bound(RELAY, at_least=0.97),
        cpu=(Bound(SKOPEO, at_most=1.15), Bound(RELAY, at_most=1.05)),
    ),
)
def _blob_over_https(bench: Bench) -> Probes:
    return _blob(bench, bench.nginx_tls)


def _blob(bench: Bench, registry: Registry) -> Probes:
    """The layer, by proxies that have already resolved the image. Of ``direct`` the cost is curl's."""
    image, reference = bench.image, registry.reference
    with (
        serving_daemon(reference, bench.policy, registry.cert_dir) as daemon,
        serving_skopeo(bench.skopeo, bench.policy, registry.cert_dir) as skopeo,
        serving_relay(registry, ring=True) as relay,
    ):
        number = skopeo.open_image(reference)
        with closing(daemon.connect()) as connection:
            KeepAliveClient(connection, "/manifest").get()
        path = registry.path("blobs", image.layer_digest)
        yield {
            OURS: lambda: daemon.fetch_blob(image.layer_digest).figures,
            SKOPEO: lambda: skopeo.fetch_blob(number, image.layer_digest, image.layer_size).figures,
            RELAY: lambda: curl.fetch_from_socket(relay[1], path, relay[0]).figures,
            DIRECT: lambda: curl.fetch_from_registry(registry, "blobs", image.layer_digest).figures,
        }


@measurement(
    "many",
    f"{_MANY} blobs at once",
    *_figures(Bound(SKOPEO, at_least=1.1), Bound(RELAY, at_least=0.95), cpu=(Bound(RELAY, at_most=1.05),)),
)
def _many_from_nginx(bench: Bench) -> Probes:
    return _many(bench, bench.nginx)


@measurement(
    "many-registry",
    f"{_MANY} from docker-registry",
    *_figures(Bound(SKOPEO, at_least=1.4), Bound(RELAY, at_least=0.95), cpu=(Bound(RELAY, at_most=1.05),)),
)
def _many_from_registry(bench: Bench) -> Probes:
    return _many(bench, bench.http)


def _many(bench: Bench, registry: Registry) -> Probes:
    """A small layer, many times at once, to clients that do nothing but read."""
    image, reference = bench.small, registry.tagged("2")
    with (
        serving_daemon(reference, bench.policy, registry.cert_dir) as daemon,
        serving_skopeo(bench.skopeo, bench.policy, registry.cert_dir) as skopeo,
        serving_relay(registry, ring=False) as relay,
    ):
        number = skopeo.open_image(reference)
        with closing(daemon.connect()) as connection:
            KeepAliveClient(connection, "/manifest").get()
        path, size = registry.path("blobs", image.layer_digest), image.layer_size
        yield {
            OURS: lambda: _fetch_many(daemon.pid, daemon.path, f"/blobs/{image.layer_digest}", size).figures,
            SKOPEO: lambda: skopeo.fetch_blobs(number, image.layer_digest, size, _MANY).figures,
            RELAY: lambda: _fetch_many(relay[0], relay[1], path, size).figures,
        }


def _fetch_many(pid: int, path: Path, target: str, size: int) -> Transfer:
    cpu, start = cpu_seconds(pid), time.perf_counter()
    descriptors = []
    for _ in range(_MANY):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        descriptors.append(connection.detach())
    drain_all(descriptors, size)
    return Transfer(size * _MANY, time.perf_counter() - start, cpu_seconds(pid) - cpu, peak_rss(pid))
