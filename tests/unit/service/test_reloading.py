"""Asking a daemon for a reload, and what it answers; the daemon is a process that only does that."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from container_image_proxy.errors import Error
from container_image_proxy.service import reloading
from container_image_proxy.service.reloading import Askers, ask_for_reload

_DAEMON = """
import signal, sys
from pathlib import Path
from container_image_proxy.service.reloading import Askers
askers = Askers(Path(sys.argv[1]))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
print("ready", flush=True)
for answer in sys.argv[2:]:
    signal.sigwait({signal.SIGHUP})
    if answer == "exit":
        break
    if answer != "silence":
        askers.tell(askers.note(), answer)
else:
    signal.pause()
"""


@contextmanager
def daemon(directory: Path, *answers: str) -> Iterator[int]:
    command = [sys.executable, "-c", _DAEMON, str(directory), *answers]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def test_the_answer_is_the_daemons(tmp_path: Path) -> None:
    with daemon(tmp_path, "", "/etc/os.toml: defualt: unknown key \u2026", "") as pid:
        answers = [ask_for_reload(pid, tmp_path) for _ in range(3)]
    assert answers == ["", "/etc/os.toml: defualt: unknown key \u2026", ""]
    assert list(tmp_path.iterdir()) == []


def test_a_complaint_without_end_has_one(tmp_path: Path) -> None:
    with daemon(tmp_path, "x" * 100_000) as pid:
        assert ask_for_reload(pid, tmp_path) == "x" * (32 << 10)


def test_a_daemon_that_ends_without_an_answer_is_not_waited_for(tmp_path: Path) -> None:
    with daemon(tmp_path, "exit") as pid, pytest.raises(Error, match=rf"the daemon \(pid {pid}\) has ended"):
        ask_for_reload(pid, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_daemon_that_does_not_answer_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "_PATIENCE", 0.05)
    with daemon(tmp_path, "silence") as pid, pytest.raises(Error, match="gave no answer within"):
        ask_for_reload(pid, tmp_path)


def test_without_a_daemon_or_its_directory_there_is_nobody_to_ask(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(Error, match="cannot be asked: No such process"):
        ask_for_reload(gone.pid, tmp_path)
    with pytest.raises(Error, match="cannot be asked: No such file or directory"):
        ask_for_reload(os.getpid(), tmp_path / "absent")


def test_who_asks_while_another_answer_is_on_its_way_gets_one_of_its_own(tmp_path: Path) -> None:
    """Noted is who waits before the files are read; who comes later is told of the next reading."""
    askers = Askers(tmp_path)
    with waiting(tmp_path / "reload.1") as first:
        noted = askers.note()
        with waiting(tmp_path / "reload.2") as second:
            askers.tell(noted, "old")
            assert first.recv(100) == b"old"
            with pytest.raises(BlockingIOError):
                second.recv(100)
            askers.tell(askers.note(), "new")
            assert second.recv(100) == b"new"


@contextmanager
def waiting(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(0)
        yield sock


def test_what_a_killed_asker_left_goes_and_what_is_no_socket_is_in_nobodys_way(tmp_path: Path) -> None:
    with waiting(tmp_path / "reload.1"):
        pass
    (tmp_path / "reload.2").mkdir()
    (tmp_path / "snapshots").mkdir()
    askers = Askers(tmp_path)
    askers.tell(askers.note(), "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reload.2", "snapshots"]


def test_who_asks_under_the_pid_of_one_that_was_killed_is_told(tmp_path: Path) -> None:
    with waiting(tmp_path / f"reload.{os.getpid()}"):
        pass
    with daemon(tmp_path, "") as pid:
        assert ask_for_reload(pid, tmp_path) == ""


@pytest.mark.timeout(20)
def test_an_asker_that_does_not_listen_is_not_waited_for(tmp_path: Path) -> None:
    with waiting(tmp_path / "reload.1"):
        askers = Askers(tmp_path)
        for _ in range(600):  # more than net.unix.max_dgram_qlen
            askers.tell(askers.note(), "x")


def test_without_a_directory_nobody_asks() -> None:
    assert Askers(None).note() == ()
    assert Askers(Path("/no/such/directory")).note() == ()


def test_the_daemon_is_sent_sighup(tmp_path: Path) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: received.append(number))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reloading, "_PATIENCE", 0.0)
            with pytest.raises(Error, match="gave no answer"):
                ask_for_reload(os.getpid(), tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert received == [signal.SIGHUP]
