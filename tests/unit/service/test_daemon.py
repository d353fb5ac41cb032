"""The daemon's life without a socket: what its signal handlers do, and what they leave to the loop."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from container_image_proxy.config.access import owner_access
from container_image_proxy.core.peer import Peer
from container_image_proxy.core.serving import Degraded
from container_image_proxy.errors import ConfigurationError
from container_image_proxy.faces.http.limits import ServerLimits
from container_image_proxy.service import daemon as module
from container_image_proxy.service.daemon import Daemon
from container_image_proxy.service.health import Health
from container_image_proxy.service.reloading import Askers


class Recorder:
    """A notifier that only remembers."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.told.append(name)

    def due(self) -> None: ...

    def run(self) -> None: ...


@pytest.fixture
def signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def make_serving() -> Any:
    def nothing() -> None: ...

    return SimpleNamespace(images={}, warm_up=nothing, close=nothing, idle_exit=0.0, admits=lambda _peer: True)


def make_daemon(notifier: Recorder, *states: Any) -> Daemon:
    """A daemon that begins with the first state and reads the others one after the other, the last one ever after."""
    left = list(states or [make_serving()])
    load = lambda: left.pop(0) if len(left) > 1 else left[0]  # noqa: E731 - a stand-in of one line
    return Daemon(load(), load, [], ServerLimits(), cast("Any", notifier), Askers(None), Health(None), owner=None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_handler_tells_nobody_anything_but_the_loop(signals: None, number: signal.Signals) -> None:
    notifier = Recorder()
    daemon = make_daemon(notifier)
    in_handler: list[str] = []

    def serve() -> None:
        signal.raise_signal(number)  # its handler has run when this returns
        in_handler.extend(notifier.told)
        daemon.server._run_calls()
        daemon.server.serve()

    daemon.run(serve)
    assert in_handler == ["ready"]
    assert {"stopping", "reloading"} & set(notifier.told[1:-2])


def test_a_reload_that_finds_no_thread_left_is_one_all_the_same(
    signals: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Recorder()
    daemon = make_daemon(notifier)

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    daemon.reload()
    daemon.server.serve()
    assert notifier.told == ["reloading", "ready"]
    assert "nothing is prepared for the first request: can't start new thread" in caplog.text


# --- without a configuration that can be used -------------------------------------------------------------------------

ROOT, STRANGER = Peer(pid=1, uid=0), Peer(pid=2, uid=4242)


class Clock:
    """Time passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    thread_time = monotonic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def degraded(reason: str) -> Degraded:
    return Degraded(ConfigurationError("/etc/os.toml", reason), (owner_access(0),), 300.0)


def begun(*states: Any) -> Daemon:
    """A daemon whose loop has ended at once, for want of sockets; its parts still do what they are asked to."""
    daemon = make_daemon(Recorder(), *states)
    with pytest.raises(ConfigurationError):
        daemon.run(daemon.server.serve)
    return daemon


def wait(daemon: Daemon, clock: Clock) -> None:
    """Let the time pass until the files are read again by themselves."""
    due = daemon._rereading.due()
    assert due is not None
    clock.now = due
    daemon._rereading.run()


def test_what_is_mended_is_read_once_more_for_it_may_have_been_half_written(signals: None, clock: Clock) -> None:
    daemon = begun(degraded("a"), make_serving(), degraded("b"), make_serving(), make_serving())
    statuses = []
    for _ in range(4):
        wait(daemon, clock)
        statuses.append(isinstance(daemon._state, Degraded))
    assert statuses == [False, True, False, False]
    assert daemon._rereading.due() is None


@pytest.mark.parametrize(("peer", "expected"), [(ROOT, 1000), (STRANGER, 10)])
def test_who_is_told_is_told_what_is_so_now_and_others_get_less_than_a_tenth_of_the_time(
    signals: None, clock: Clock, peer: Peer, expected: int
) -> None:
    readings = 0

    def load() -> Degraded:
        nonlocal readings
        readings += 1
        clock.now += 0.01
        return degraded("a")

    daemon = Daemon(
        degraded("a"), load, [], ServerLimits(), cast("Any", Recorder()), Askers(None), Health(None), owner=None
    )
    for _ in range(1000):
        assert daemon._admits(peer) == (peer is ROOT)
        clock.now += 0.001
    daemon.server.serve()
    assert readings == expected


def test_the_same_reason_is_told_once(signals: None, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    daemon = begun(degraded("a"), degraded("a"), degraded("b"), degraded("b"))
    for _ in range(3):
        wait(daemon, clock)
    assert [message.rpartition(": ")[2] for message in caplog.messages] == ["a", "b"]


def test_asking_again_and_again_makes_the_error_no_longer(signals: None, clock: Clock) -> None:
    daemon = make_daemon(Recorder(), degraded("a"))
    error = cast("Degraded", daemon._state).error
    for _ in range(3):
        with pytest.raises(ConfigurationError, match=r"/etc/os\.toml: a") as caught:
            daemon._serving()
        assert (caught.value.file, caught.value.reason) == ("/etc/os.toml", "a")
    assert error.__traceback__ is None
    daemon.server.serve()


def test_a_daemon_that_is_told_to_stop_reads_nothing_more(signals: None, clock: Clock) -> None:
    daemon = make_daemon(Recorder(), degraded("a"), make_serving())

    def serve() -> None:
        assert daemon._rereading.due() is not None
        signal.raise_signal(signal.SIGTERM)
        daemon.server._run_calls()
        daemon.server.serve()

    daemon.run(serve)
    assert daemon._rereading.due() is None


# --- the collector of cycles, which is off while modules load ---------------------------------------------------------


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def test_the_collector_is_on_before_the_first_request(signals: None, no_collector: None) -> None:
    daemon, is_on = make_daemon(Recorder()), []

    def serve() -> None:
        is_on.append(gc.isenabled())
        daemon.server.serve()

    daemon.run(serve)
    assert is_on == [True]
