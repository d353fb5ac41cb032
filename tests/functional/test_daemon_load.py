"""The real daemon under load: many clients, an upstream that comes and goes, an administrator who rewrites its files.

What is bounded is counted: upstream connections, descriptors, memory.
"""

from __future__ import annotations

import http.client
import itertools
import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from container_image_proxy.faces.http.limits import ServerLimits
from tests.support.daemon import ACCEPT_ANYTHING, Reply, RunningDaemon, UnixConnection
from tests.support.host import Host, replace_file
from tests.support.layouts import Layout, layer_tar, single_image
from tests.support.registries import decode_basic
from tests.support.upstream import Connection, Handler, ReceivedRequest, Upstream, by_path, image

MIB = 1 << 20
BIG = 32 * MIB
STREAMS = 40
CLIENTS = 200
AT_ONCE = 32  # so many requests at least are upstream at the same time
REPLACEMENTS = 1000
RELOAD_EVERY = 50
KEPT = 8  # idle connections to one host, as Limits.connections says
LOGINS = (("first", "first's secret"), ("second", "second's secret"))
REJECT_EVERYTHING = {"default": [{"type": "reject"}]}


@dataclass
class Gauge:
    """How many requests a handler has at a time; the first ``AT_ONCE`` wait for each other."""

    handler: Handler
    now: int = 0
    peak: int = 0
    total: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(AT_ONCE, timeout=30))

    def __call__(self, request: ReceivedRequest, connection: Connection) -> None:
        with self._lock:
            self.now, self.total = self.now + 1, self.total + 1
            self.peak = max(self.peak, self.now)
            is_early = self.total <= AT_ONCE
        if is_early:
            self._barrier.wait()
        try:
            self.handler(request, connection)
        finally:
            with self._lock:
                self.now -= 1


def serving(host: Host, upstream: Upstream, keys: str = "") -> AbstractContextManager[RunningDaemon]:
    """The daemon with the upstream's image."""
    host.write_registries(f'[[registry]]\nlocation = "{upstream.authority}"\ninsecure = true\n')
    return host.daemon({"os": f"docker://{upstream.authority}/os:1"}, keys=keys)


def get_patiently(daemon: RunningDaemon, target: str) -> Reply:
    """As a good client does it: who is told to come back later comes back later."""
    later = threading.Event()
    while True:
        try:
            reply = daemon.get(target)
        except (http.client.HTTPException, ConnectionError):  # turned away before the request was read
            later.wait(ServerLimits().retry_after_seconds)
            continue
        if reply.status != 503:
            return reply
        later.wait(float(reply.headers["retry-after"]))


def peak_memory(daemon: RunningDaemon) -> int:
    """The largest resident size so far, in bytes."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@pytest.mark.demand("thundering")
def test_a_thundering_herd_is_served_over_a_bounded_number_of_connections(tmp_path: Path) -> None:
    stored = single_image(tmp_path / "layout")
    digest = stored.layer_digests[0]
    routes = image(stored, tag="1")
    gauge = Gauge(routes[f"/blobs/{digest}"])
    host = Host(tmp_path / "host")
    with (
        Upstream(by_path(routes | {f"/blobs/{digest}": gauge})) as upstream,
        serving(host, upstream) as daemon,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        daemon.get("/manifest")
        replies = list(pool.map(lambda _: get_patiently(daemon, f"/blobs/{digest}"), range(CLIENTS)))
    assert [reply.body == stored.blobs[digest] for reply in replies] == [True] * CLIENTS
    assert AT_ONCE <= gauge.peak <= ServerLimits().connections_per_uid


@pytest.mark.demand("flap")
def test_an_upstream_that_comes_and_goes_costs_no_request_and_no_descriptor(tmp_path: Path) -> None:
    stored = single_image(tmp_path / "layout")
    serve = by_path(image(stored, tag="1"))
    turns = itertools.count()

    def flap(request: ReceivedRequest, connection: Connection) -> None:
        if next(turns) % 2:
            serve(request, connection)
        else:
            connection.reset()

    host = Host(tmp_path / "host")
    with Upstream(flap) as upstream, serving(host, upstream, "fresh-for = 0") as daemon:
        targets = ["/manifest", *(f"/blobs/{digest}" for digest in stored.blobs)] * 30
        assert daemon.get("/manifest").status == 200
        before = len(daemon.open_files())
        assert {daemon.get(target).status for target in targets} == {200}
        assert await_fewer(lambda: len(daemon.open_files()), before)


def await_fewer(count: Callable[[], int], limit: int) -> bool:
    """Whether the count comes down to the limit; sockets of clients that left are closed a moment later."""
    moment = threading.Event()
    return any(count() <= limit or moment.wait(0.05) for _ in range(200))


@pytest.mark.demand("mem-limit")
@pytest.mark.demand("client-stall")
def test_streams_that_stand_still_cost_a_few_chunks_each(tmp_path: Path) -> None:
    stored = Layout(tmp_path / "layout").image([layer_tar({"big": bytes(BIG)})], compression="")
    host = Host(tmp_path / "host")
    with (
        Upstream(by_path(image(stored, tag="1"))) as upstream,
        serving(host, upstream) as daemon,
        ExitStack() as clients,
    ):
        for _ in range(3):
            daemon.get(f"/blobs/{stored.layer_digests[0]}")
        before = peak_memory(daemon)
        for _ in range(STREAMS):
            client = clients.enter_context(closing(UnixConnection(daemon.socket)))
            client.request("GET", f"/blobs/{stored.layer_digests[0]}")
            assert client.getresponse().read(1)
        assert peak_memory(daemon) - before < STREAMS * 4 * MIB


@dataclass
class Load:
    """Requests without pause from several threads until the end of the block."""

    daemon: RunningDaemon
    replies: list[Reply] = field(default_factory=list)

    @contextmanager
    def running(self, target: str, threads: int = 2) -> Iterator[None]:
        ended = threading.Event()

        def ask() -> None:
            while not ended.is_set():
                self.replies.append(self.daemon.get(target))

        with ThreadPoolExecutor(threads) as pool:
            asking = [pool.submit(ask) for _ in range(threads)]
            try:
                yield
            finally:
                ended.set()
            for one in asking:
                one.result()


@pytest.mark.demand("config-race")
def test_files_that_are_replaced_under_load_are_used_in_whole_versions(tmp_path: Path) -> None:
    stored = single_image(tmp_path / "layout")
    logins: set[str] = set()
    serve = by_path(image(stored, tag="1"))

    def demand_login(request: ReceivedRequest, connection: Connection) -> None:
        if "authorization" not in request.headers:
            connection.answer(401, headers={"WWW-Authenticate": 'Basic realm="test"'})
            return
        logins.add(decode_basic(request.headers["authorization"]))
        serve(request, connection)

    host = Host(tmp_path / "host")
    with Upstream(demand_login) as upstream:
        padding = {f"host{number}.example.com": LOGINS[0] for number in range(100)}  # so that writing takes its time
        host.write_credentials({upstream.authority: LOGINS[0], **padding})
        with serving(host, upstream, "fresh-for = 0") as daemon:
            registries = host.registries_conf.read_text()
            files = [
                (host.directory / "policy.json", [json.dumps(ACCEPT_ANYTHING), json.dumps(REJECT_EVERYTHING)]),
                (host.registries_conf, [registries, registries + "# more\n" * 10_000]),
            ]
            load, before = Load(daemon), len(daemon.open_files())
            with load.running("/manifest"):
                for number in range(REPLACEMENTS):
                    host.write_credentials({upstream.authority: LOGINS[number % 2], **padding})
                    for path, versions in files:
                        replace_file(path, versions[number // RELOAD_EVERY % 2])
                    if number % RELOAD_EVERY == 0:
                        daemon.signal(signal.SIGHUP)
                        daemon.wait_for_notification("RELOADING=1")
            assert await_fewer(lambda: len(daemon.open_files()), before + KEPT), "what was replaced is still open"
            log = daemon.log_text()
    assert {reply.status for reply in load.replies} == {200, 403}
    assert {reply.body for reply in load.replies if reply.status == 200} == {stored.manifest}
    assert logins == {":".join(login) for login in LOGINS}
    assert "the old one stays in force" not in log
