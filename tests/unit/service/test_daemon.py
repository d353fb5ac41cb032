"""The daemon's life without a socket: what its signal handlers do, and what they leave to the loop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from container_image_proxy.service.daemon import Daemon
from container_image_proxy.service.limits import ServerLimits


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


def make_daemon(notifier: Recorder) -> Daemon:
    def nothing() -> None: ...

    serving = SimpleNamespace(
        images={}, warm_up=nothing, close=nothing, settings=SimpleNamespace(idle_exit=0.0), admits=lambda _peer: True
    )
    load = lambda: cast("Any", serving)  # noqa: E731 - a stand-in of one line
    return Daemon(load(), load, [], ServerLimits(), cast("Any", notifier), owner=None)


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
