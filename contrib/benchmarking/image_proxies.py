"""What is measured of skopeo's image proxy protocol, spoken by skopeo and by us: the same client asks both the same."""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

from benchmarking.measurement import OURS, SKOPEO, Bound, Figure, Probes, measurement
from benchmarking.skopeo import SkopeoProxy, serving_skopeo

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarking.bench import Bench
    from benchmarking.processes import Transfer
    from benchmarking.registries import Registry

_US: Final = (sys.executable, "-m", "container_image_proxy")
_RAW_BLOBS: Final = (0, 2, 8)  # the version of the protocol that has them
_OPENINGS: Final = 50  # in each round


def _figures(at_least: float) -> tuple[Figure, ...]:
    return (
        Figure("throughput", "MB/s", (Bound(SKOPEO, at_least=at_least),)),
        Figure("CPU", "s/GiB"),
        Figure("peak RSS", "MiB"),
    )


def _proxies(stack: ExitStack, bench: Bench, registry: Registry) -> dict[str, SkopeoProxy]:
    return {
        OURS: stack.enter_context(serving_skopeo(_US, bench.policy, registry.cert_dir)),
        SKOPEO: stack.enter_context(serving_skopeo(bench.skopeo, bench.policy, registry.cert_dir)),
    }


def _blob(bench: Bench, registry: Registry, fetch: Callable[[SkopeoProxy, int, str, int], Transfer]) -> Probes:
    image = bench.image
    with ExitStack() as stack:
        proxies = _proxies(stack, bench, registry)
        if fetch is SkopeoProxy.fetch_raw_blob and proxies[SKOPEO].version < _RAW_BLOBS:
            del proxies[SKOPEO]
        numbers = {name: proxy.open_image(registry.reference) for name, proxy in proxies.items()}
        yield {
            name: lambda proxy=proxy, number=numbers[name]: (  # type: ignore[misc]
                fetch(proxy, number, image.layer_digest, image.layer_size).figures
            )
            for name, proxy in proxies.items()
        }


@measurement("getblob", "GetBlob over HTTP", *_figures(1.5))
def _blob_over_http(bench: Bench) -> Probes:
    return _blob(bench, bench.nginx, SkopeoProxy.fetch_blob)


@measurement("getblob-tls", "GetBlob over HTTPS", *_figures(1.1))
def _blob_over_https(bench: Bench) -> Probes:
    return _blob(bench, bench.nginx_tls, SkopeoProxy.fetch_blob)


@measurement("getrawblob", "GetRawBlob over HTTP", *_figures(1.5))
def _raw_blob_over_http(bench: Bench) -> Probes:
    """skopeo does not hash it; we do."""
    return _blob(bench, bench.nginx, SkopeoProxy.fetch_raw_blob)


@measurement("getrawblob-tls", "GetRawBlob over HTTPS", *_figures(1.1))
def _raw_blob_over_https(bench: Bench) -> Probes:
    return _blob(bench, bench.nginx_tls, SkopeoProxy.fetch_raw_blob)


@measurement("openimage", "OpenImage and GetManifest", Figure("p50", "ms", (Bound(SKOPEO, at_most=1.0),)))
def _opening(bench: Bench) -> Probes:
    """After Initialize, by a process that was started for it and one that has done so before."""
    with ExitStack() as stack:
        proxies = _proxies(stack, bench, bench.http)
        yield {name: partial(_open_often, proxy, bench.http.reference) for name, proxy in proxies.items()}


@measurement("openimage-first", "first OpenImage and GetManifest", Figure("time", "ms", (Bound(SKOPEO, at_most=1.0),)))
def _first_opening(bench: Bench) -> Probes:
    """After Initialize, by a process that was just started."""
    yield {OURS: partial(_open_first, bench, _US), SKOPEO: partial(_open_first, bench, bench.skopeo)}


def _open_first(bench: Bench, program: str | tuple[str, ...]) -> tuple[float]:
    with serving_skopeo(program, bench.policy, None) as proxy:
        return (_open(proxy, bench.http.reference) * 1e3,)


def _open_often(proxy: SkopeoProxy, reference: str) -> tuple[float]:
    return (statistics.median(_open(proxy, reference) for _ in range(_OPENINGS)) * 1e3,)


def _open(proxy: SkopeoProxy, reference: str) -> float:
    start = time.perf_counter()
    image = proxy.open_image(reference)
    proxy.fetch_manifest(image)
    seconds = time.perf_counter() - start
    proxy.close_image(image)
    return seconds
