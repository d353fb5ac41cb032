"""What is measured of manifests: the first, those that the proxy has, and those that are signed."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from socket import create_connection
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from benchmarking import curl
from benchmarking.daemon import serving_daemon
from benchmarking.keepalive import KeepAliveClient
from benchmarking.measurement import DIRECT, OURS, SKOPEO, Bound, Figure, Probes, measurement
from benchmarking.processes import cpu_seconds
from benchmarking.signing import Signed, signed_by_gpg, signed_by_sigstore
from benchmarking.skopeo import SkopeoProxy, serving_skopeo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarking.bench import Bench
    from benchmarking.registries import Registry

_REQUESTS: Final = 500  # of a manifest in each round
_WARM_UP: Final = 1.0  # seconds in which a daemon that was just started loads its libraries and keys
_LATER: Final = Figure("added to later ones", "ms")


@measurement("manifest", "manifest, warm", Figure("p50", "ms", (Bound(SKOPEO, at_most=1.0),)), Figure("p99", "ms"))
def _manifest_warm(bench: Bench) -> Probes:
    """A manifest that the proxy has, asked for again and again. ``direct`` keeps a connection to the registry."""
    with ExitStack() as stack:
        daemon = stack.enter_context(serving_daemon(bench.http.reference, bench.policy))
        skopeo = stack.enter_context(serving_skopeo(bench.skopeo, bench.policy, None))
        client = KeepAliveClient(stack.enter_context(closing(daemon.connect())), "/manifest")
        number = skopeo.open_image(bench.http.reference)
        yield {
            OURS: partial(_percentiles, client.get),
            SKOPEO: partial(_percentiles, lambda: skopeo.fetch_manifest(number)),
            DIRECT: partial(_percentiles, stack.enter_context(_direct_manifest(bench.http))),
        }


@measurement("resolve", "manifest, asked of the registry again", Figure("p50", "ms"), Figure("p99", "ms"))
def _manifest_resolved(bench: Bench) -> Probes:
    """A tag that is resolved anew each time: ``fresh-for = 0`` here, OpenImage there."""
    with ExitStack() as stack:
        daemon = stack.enter_context(serving_daemon(bench.http.reference, bench.policy, fresh_for=0))
        skopeo = stack.enter_context(serving_skopeo(bench.skopeo, bench.policy, None))
        client = KeepAliveClient(stack.enter_context(closing(daemon.connect())), "/manifest")
        yield {
            OURS: partial(_percentiles, client.get),
            SKOPEO: partial(_percentiles, lambda: _open_and_fetch(skopeo, bench.http.reference)),
            DIRECT: partial(_percentiles, stack.enter_context(_direct_manifest(bench.http))),
        }


@measurement(
    "start",
    "first manifest after activation",
    Figure("time", "ms", (Bound(SKOPEO, at_most=8),)),
    Figure("CPU", "ms"),
)
def _first_answer(bench: Bench) -> Probes:
    """From the start of the program to the whole manifest; our client is connected before that, as when systemd
    activates.
    """
    reference = bench.http.reference
    yield {
        OURS: lambda: _first_of_ours(bench, reference),
        SKOPEO: lambda: _first_of_skopeo(bench, reference),
        DIRECT: lambda: _first_of_curl(bench.http),
    }


@measurement(
    "start-oci",
    "first manifest of a layout after activation",
    Figure("time", "ms", (Bound(SKOPEO, at_most=5),)),
    Figure("CPU", "ms"),
)
def _first_answer_of_a_layout(bench: Bench) -> Probes:
    """The same without a registry."""
    reference = f"oci:{bench.small.layout}:latest"
    yield {OURS: lambda: _first_of_ours(bench, reference), SKOPEO: lambda: _first_of_skopeo(bench, reference)}


@measurement("gpg", "signed by GPG", Figure("first manifest", "ms"), Figure("added", "ms", limit=60), _LATER)
def _signed_by_gpg(bench: Bench) -> Probes:
    with _directory() as directory, signed_by_gpg(directory, bench.http) as signed:
        _added_by_us(bench, signed)  # the registry's first look at its own files is not what is measured
        yield {OURS: partial(_added_by_us, bench, signed), SKOPEO: partial(_added_by_skopeo, bench, signed)}


@measurement(
    "sigstore",
    "signed, sigstore",
    Figure("first manifest", "ms"),
    Figure("added", "ms", limit=15),
    _LATER,
    Figure("the registry's part", "ms"),
)
def _signed_by_sigstore(bench: Bench) -> Probes:
    """Without skopeo, which Debian 12 builds without sigstore."""
    with _directory() as directory, signed_by_sigstore(directory, bench.http) as signed:
        _added_by_us(bench, signed)
        yield {OURS: lambda: (*_added_by_us(bench, signed), _attachment_alone(bench.http, signed))}


def _attachment_alone(registry: Registry, signed: Signed) -> float:
    """What the registry takes for the attachment when it is asked by the least client there can be, in ms."""
    with create_connection(("localhost", registry.port)) as connection:
        clients = [KeepAliveClient(connection, path) for path in signed.attachment]
        return sum(_milliseconds(client.get) for client in clients)


@contextmanager
def _directory() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


def _added_by_us(bench: Bench, signed: Signed) -> tuple[float, float, float]:
    """The first manifest that a daemon is asked for, in ms; what the signature adds to it, and to later ones."""
    first, later = _first_and_later_of_ours(signed.reference, signed.policy, signed.registries_d)
    plain, plain_later = _first_and_later_of_ours(signed.reference, bench.policy, signed.registries_d)
    return first, first - plain, later - plain_later


def _first_and_later_of_ours(reference: str, policy: Path, registries_d: Path) -> tuple[float, float]:
    with (
        serving_daemon(reference, policy, fresh_for=60, registries_d=registries_d) as daemon,
        closing(daemon.connect()) as connection,
    ):
        KeepAliveClient(connection, "/images").get()
        time.sleep(_WARM_UP)
        client = KeepAliveClient(connection, "/manifest")
        return _milliseconds(client.get), _percentiles(client.get)[0]


def _added_by_skopeo(bench: Bench, signed: Signed) -> tuple[float, float, float]:
    first, later = _first_and_later_of_skopeo(bench.skopeo, signed.reference, signed.policy, signed.registries_d)
    plain, plain_later = _first_and_later_of_skopeo(bench.skopeo, signed.reference, bench.policy, signed.registries_d)
    return first, first - plain, later - plain_later


def _first_and_later_of_skopeo(program: str, reference: str, policy: Path, registries_d: Path) -> tuple[float, float]:
    with serving_skopeo(program, policy, None, registries_d=registries_d) as skopeo:
        first = _milliseconds(lambda: skopeo.fetch_manifest(skopeo.open_image(reference)))
        number = skopeo.open_image(reference)
        return first, _percentiles(lambda: skopeo.fetch_manifest(number))[0]


def _milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _percentiles(fetch: Callable[[], object]) -> tuple[float, float]:
    """Median and 99th percentile, in ms."""
    seconds = []
    for _ in range(_REQUESTS):
        start = time.perf_counter()
        fetch()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e3, statistics.quantiles(seconds, n=100)[98] * 1e3


@contextmanager
def _direct_manifest(registry: Registry) -> Iterator[Callable[[], int]]:
    with create_connection(("localhost", registry.port)) as connection:
        yield KeepAliveClient(connection, registry.path("manifests", "latest")).get


def _first_of_ours(bench: Bench, reference: str) -> tuple[float, float]:
    with serving_daemon(reference, bench.policy) as daemon, closing(daemon.connect()) as connection:
        KeepAliveClient(connection, "/manifest").get()
        return (time.perf_counter() - daemon.started) * 1e3, cpu_seconds(daemon.pid) * 1e3


def _first_of_skopeo(bench: Bench, reference: str) -> tuple[float, float]:
    start = time.perf_counter()
    with serving_skopeo(bench.skopeo, bench.policy, None) as skopeo:
        skopeo.fetch_manifest(skopeo.open_image(reference))
        return (time.perf_counter() - start) * 1e3, cpu_seconds(skopeo.pid) * 1e3


def _first_of_curl(registry: Registry) -> tuple[float, float]:
    start = time.perf_counter()
    cpu = curl.fetch_from_registry(registry, "manifests", "latest").cpu_seconds
    return (time.perf_counter() - start) * 1e3, cpu * 1e3


def _open_and_fetch(skopeo: SkopeoProxy, reference: str) -> None:
    image = skopeo.open_image(reference)
    skopeo.fetch_manifest(image)
    skopeo.close_image(image)
