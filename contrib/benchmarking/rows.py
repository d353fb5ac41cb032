"""What is measured: each function is one measurement, a context manager that sets the contenders up and yields a probe
for each. A probe, called once a round, returns one number for each of the measurement's figures.

A new measurement is a new function with the decorator; table and JSON follow.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from socket import create_connection
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from benchmarking import curl
from benchmarking.daemon import serving_daemon
from benchmarking.keepalive import KeepAliveClient
from benchmarking.processes import cpu_seconds
from benchmarking.signing import Signed, signed_by_gpg, signed_by_sigstore
from benchmarking.skopeo import SkopeoProxy, serving_skopeo

if TYPE_CHECKING:
    from benchmarking.bench import Bench
    from benchmarking.registries import Registry

OURS: Final = "proxy"
SKOPEO: Final = "skopeo"
DIRECT: Final = "direct"
"""The registry asked by curl, or by the smallest client that keeps its connection."""

Probe = Callable[[], Sequence[float]]
Probes = Iterator[Mapping[str, Probe]]
_REQUESTS: Final = 500  # of a manifest in each round
_WARM_UP: Final = 1.0  # seconds in which a daemon that was just started loads its libraries and keys


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that is reported; ``at_least`` and ``at_most`` bound the expected ratio ours / skopeo, ``limit`` our own
    number.
    """

    name: str
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    limit: float | None = None

    def is_met(self, ratio: float) -> bool | None:
        """Whether a ratio is as expected; None without an expectation."""
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least or 0) <= ratio and (self.at_most is None or ratio <= self.at_most)


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measurement as ``--only`` names it, and its figures in the order in which probes return them."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    prepare: Callable[[Bench], AbstractContextManager[Mapping[str, Probe]]]


_LATER: Final = Figure("added to later ones", "ms")
MEASUREMENTS: Final[dict[str, Measurement]] = {}


def measurement(name: str, title: str, *figures: Figure) -> Callable[[Callable[[Bench], Probes]], None]:
    """Enter a function into the table."""

    def enter(function: Callable[[Bench], Probes]) -> None:
        MEASUREMENTS[name] = Measurement(name, title, figures, contextmanager(function))

    return enter


def _transfer_figures(at_least: float) -> tuple[Figure, ...]:
    return (
        Figure("throughput", "MB/s", at_least=at_least),
        Figure("CPU", "s/GiB", at_most=0.45),
        Figure("peak RSS", "MiB"),
    )


@measurement("http", "blob over HTTP", *_transfer_figures(3.0))
def _blob_over_http(bench: Bench) -> Probes:
    return _blob(bench, bench.http)


@measurement("https", "blob over HTTPS", *_transfer_figures(2.5))
def _blob_over_https(bench: Bench) -> Probes:
    return _blob(bench, bench.https)


def _blob(bench: Bench, registry: Registry) -> Probes:
    """The layer, by proxies that have already resolved the image. Of ``direct`` the cost is curl's."""
    image, reference = bench.image, registry.reference
    with (
        serving_daemon(reference, bench.policy, registry.cert_dir) as daemon,
        serving_skopeo(bench.policy, registry.cert_dir) as skopeo,
    ):
        number = skopeo.open_image(reference)
        with closing(daemon.connect()) as connection:
            KeepAliveClient(connection, "/manifest").get()
        yield {
            OURS: lambda: daemon.fetch_blob(image.layer_digest).figures,
            SKOPEO: lambda: skopeo.fetch_blob(number, image.layer_digest, image.layer_size).figures,
            DIRECT: lambda: curl.fetch_from_registry(registry, "blobs", image.layer_digest).figures,
        }


@measurement("manifest", "manifest, warm", Figure("p50", "ms", at_most=1.0), Figure("p99", "ms", at_most=1.0))
def _manifest_warm(bench: Bench) -> Probes:
    """A manifest that the proxy has, asked for again and again. ``direct`` keeps a connection to the registry."""
    with ExitStack() as stack:
        daemon = stack.enter_context(serving_daemon(bench.http.reference, bench.policy))
        skopeo = stack.enter_context(serving_skopeo(bench.policy, None))
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
        skopeo = stack.enter_context(serving_skopeo(bench.policy, None))
        client = KeepAliveClient(stack.enter_context(closing(daemon.connect())), "/manifest")
        yield {
            OURS: partial(_percentiles, client.get),
            SKOPEO: partial(_percentiles, lambda: _open_and_fetch(skopeo, bench.http.reference)),
            DIRECT: partial(_percentiles, stack.enter_context(_direct_manifest(bench.http))),
        }


@measurement("start", "first manifest after activation", Figure("time", "ms"), Figure("CPU", "ms"))
def _first_answer(bench: Bench) -> Probes:
    """From the start of the program to the whole manifest; our client is connected before that, as when systemd
    activates.
    """
    yield {
        OURS: lambda: _first_of_ours(bench),
        SKOPEO: lambda: _first_of_skopeo(bench),
        DIRECT: lambda: _first_of_curl(bench.http),
    }


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
    first, later = _first_and_later_of_skopeo(signed.reference, signed.policy, signed.registries_d)
    plain, plain_later = _first_and_later_of_skopeo(signed.reference, bench.policy, signed.registries_d)
    return first, first - plain, later - plain_later


def _first_and_later_of_skopeo(reference: str, policy: Path, registries_d: Path) -> tuple[float, float]:
    with serving_skopeo(policy, None, registries_d=registries_d) as skopeo:
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


def _first_of_ours(bench: Bench) -> tuple[float, float]:
    with serving_daemon(bench.http.reference, bench.policy) as daemon, closing(daemon.connect()) as connection:
        KeepAliveClient(connection, "/manifest").get()
        return (time.perf_counter() - daemon.started) * 1e3, cpu_seconds(daemon.pid) * 1e3


def _first_of_skopeo(bench: Bench) -> tuple[float, float]:
    start = time.perf_counter()
    with serving_skopeo(bench.policy, None) as skopeo:
        skopeo.fetch_manifest(skopeo.open_image(bench.http.reference))
        return (time.perf_counter() - start) * 1e3, cpu_seconds(skopeo.pid) * 1e3


def _first_of_curl(registry: Registry) -> tuple[float, float]:
    start = time.perf_counter()
    cpu = curl.fetch_from_registry(registry, "manifests", "latest").cpu_seconds
    return (time.perf_counter() - start) * 1e3, cpu * 1e3


def _open_and_fetch(skopeo: SkopeoProxy, reference: str) -> None:
    image = skopeo.open_image(reference)
    skopeo.fetch_manifest(image)
    skopeo.close_image(image)
