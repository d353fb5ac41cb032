"""What the service manager hears, and that telling it neither fails nor waits, whatever has become of it."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from container_image_proxy.service import notifier as module
from container_image_proxy.service.notifier import Notifier, Watchdog
from tests.support.daemon import fill


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's end of ``NOTIFY_SOCKET``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield receiver


@pytest.fixture
def notifications(manager: socket.socket) -> Callable[[], list[str]]:
    return lambda: manager.recv(4096).decode().splitlines()


@pytest.fixture
def notifier(manager: socket.socket) -> Iterator[Notifier]:
    with closing(Notifier()) as notifier:
        yield notifier


def test_the_service_manager_hears_each_state(notifier: Notifier, notifications: Callable[[], list[str]]) -> None:
    notifier.ready("Serving\nREADY=0")
    assert notifications() == ["READY=1", "STATUS=Serving\\nREADY=0"]
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    reloading, moment = notifications()
    assert reloading == "RELOADING=1"
    assert before <= int(moment.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    notifier.stopping()
    assert notifications()[0] == "STOPPING=1"


@pytest.mark.demand("watchdog")
@pytest.mark.parametrize("variables", [{}, {"WATCHDOG_PID": str(os.getpid())}])
def test_the_service_manager_hears_a_sign_of_life_before_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
    notifier: Notifier,
    notifications: Callable[[], list[str]],
    variables: dict[str, str],
) -> None:
    for name, value in ({"WATCHDOG_USEC": "300000000"} | variables).items():
        monkeypatch.setenv(name, value)
    watchdog = Watchdog(notifier)
    watchdog.run()
    watchdog.run()
    notifier.ready("no second sign before this")
    assert notifications() == ["WATCHDOG=1"]
    assert notifications() == ["READY=1", "STATUS=no second sign before this"]
    assert (watchdog.due() or 0) - time.monotonic() == pytest.approx(100, abs=50)


SOMEBODY_ELSE = str(os.getpid() + 1)


@pytest.mark.parametrize(
    "variables",
    [{}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": SOMEBODY_ELSE}],
    ids=["not told", "not a number", "zero", "another process"],
)
def test_no_sign_of_life_is_sent_to_whom_waits_for_none(
    monkeypatch: pytest.MonkeyPatch,
    notifier: Notifier,
    notifications: Callable[[], list[str]],
    variables: dict[str, str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    watchdog = Watchdog(notifier)
    watchdog.run()
    notifier.ready("nothing before this")
    assert watchdog.due() is None
    assert notifications() == ["READY=1", "STATUS=nothing before this"]


def test_without_a_service_manager_nothing_happens() -> None:
    Notifier().ready("Serving")


# --- when it cannot be told -------------------------------------------------------------------------------------------


def drain(manager: socket.socket) -> list[str]:
    """Read all that there is, without the noise."""
    manager.settimeout(0)
    messages = []
    with suppress(BlockingIOError):
        while True:
            messages.append(manager.recv(4096).decode())
    return [message for message in messages if message != "noise"]


@pytest.mark.timeout(20)  # of telling that waits
def test_a_manager_that_does_not_listen_is_not_waited_for_and_told_later(
    notifier: Notifier, manager: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fill(manager)
    notifier.reloading()
    notifier.ready("Serving 2 images")
    assert drain(manager) == []
    assert caplog.messages == [
        "the service manager cannot be told anything for now: Resource temporarily unavailable"
    ]  # once
    due = notifier.due()
    assert due is not None
    notifier.run()
    assert drain(manager) == []  # not before its time
    monkeypatch.setattr(module.time, "monotonic", lambda: due)
    notifier.run()
    assert drain(manager) == ["READY=1\nSTATUS=Serving 2 images"]  # which says all that holds
    assert notifier.due() is None


@pytest.mark.timeout(20)
def test_a_sign_of_life_that_nobody_hears_is_repeated_soon(
    notifier: Notifier, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "300000000")
    watchdog = Watchdog(notifier)
    fill(manager)
    watchdog.run()
    due = watchdog.due()
    assert due is not None
    assert due - time.monotonic() <= 1
    drain(manager)
    monkeypatch.setattr(module.time, "monotonic", lambda: due)
    watchdog.run()
    assert drain(manager) == ["WATCHDOG=1"]
    assert watchdog.due() == due + 100


def test_a_manager_that_has_gone_and_comes_back_is_told(
    notifier: Notifier, manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notify").unlink()
    notifier.ready("Serving")
    due = notifier.due()
    assert due is not None
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as successor:
        successor.bind(str(tmp_path / "notify"))
        monkeypatch.setattr(module.time, "monotonic", lambda: due)
        notifier.run()
        assert drain(successor) == ["READY=1\nSTATUS=Serving"]


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(1)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_it_takes_no_descriptor_to_tell(notifier: Notifier, notifications: Callable[[], list[str]]) -> None:
    with no_descriptor_left():
        notifier.ready("Serving")
    assert notifications() == ["READY=1", "STATUS=Serving"]


@pytest.mark.parametrize("address", ["/" + "x" * 200, "/no/such/socket", "@nobody", "vsock:2:1", "relative"])
def test_a_manager_that_cannot_be_is_none(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with closing(Notifier()) as notifier:
        notifier.ready("Serving")
        notifier.stopping()


def test_a_manager_without_a_path_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("")  # autobind: the kernel chooses an abstract name (unix(7))
        name = receiver.getsockname()
        monkeypatch.setenv("NOTIFY_SOCKET", name.decode().replace("\0", "@"))
        with closing(Notifier()) as notifier:
            notifier.ready("Serving")
        assert drain(receiver) == ["READY=1\nSTATUS=Serving"]
