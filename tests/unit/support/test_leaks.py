from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.support import leaks
from tests.support.leaks import holdings, left_behind
from tests.support.waiting import await_true


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "_GRACE_SECONDS", 0.2)


def test_nothing_is_left_where_nothing_was_opened() -> None:
    assert not left_behind(holdings())


def test_an_open_descriptor_is_found() -> None:
    before = holdings()
    with socket.socket() as left:
        assert f"descriptor {left.fileno()} (socket:" in str(left_behind(before))


def test_a_running_thread_is_found() -> None:
    before, done = holdings(), threading.Event()
    thread = threading.Thread(target=done.wait, name="forgotten")
    thread.start()
    try:
        assert "(forgotten)" in str(left_behind(before))
    finally:
        done.set()
        thread.join()


def test_a_running_child_is_found() -> None:
    before = holdings()
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            assert f"child process {child.pid} (sleep)" in str(left_behind(before))
        finally:
            child.kill()


def test_a_daemon_that_a_child_left_is_found() -> None:
    before = holdings()
    answer = subprocess.run(["sh", "-c", "sleep 60 >&- 2>&- & echo $!"], stdout=subprocess.PIPE, check=True)
    daemon = int(answer.stdout)
    try:
        assert f"child process {daemon} (sleep)" in str(left_behind(before))
    finally:
        os.kill(daemon, 9)
        os.waitpid(daemon, 0)


def test_orphans_of_one_command_can_be_ended() -> None:
    before = holdings()

    def orphans() -> list[str]:
        return [name for _, name in (holdings() - before).children]

    subprocess.run(["sh", "-c", "sleep 3600 & sleep 3600 &"], check=True)
    await_true(lambda: orphans() == ["sleep", "sleep"], "the shells' exec")
    leaks.end_children("sleep 7200")
    assert orphans() == ["sleep", "sleep"]
    leaks.end_children("sleep 3600")
    assert not orphans()


def test_what_ends_within_the_wait_is_no_leak(tmp_path: Path) -> None:
    before = holdings()
    thread = threading.Thread(target=(tmp_path / "written").write_text, args=("late",))
    thread.start()
    assert not left_behind(before)
    thread.join()
