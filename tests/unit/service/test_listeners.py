"""Accepting: in turns, by two threads when one does not keep up, and before anything else that wants the processor."""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from container_image_proxy.service.listeners import TURN, Listeners, give_way, take_precedence
from tests.support.privilege import needs_root
from tests.support.socket_server import PATIENCE, connect, listen


class Loop:
    """As much of the server's loop as accepting takes, with as many connections waiting."""

    def __init__(self, path: Path, receive: Callable[[Iterator[socket.socket]], None], waiting: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._clients = ExitStack()
        self.listeners = Listeners([listen(path, 1)], self._selector, receive, pause_seconds=1)
        self.listeners.resume()
        for _ in range(waiting):
            self._clients.enter_context(connect(path))

    def turn(self) -> None:
        for key, _ in self._selector.select(0):
            key.data()

    def close(self) -> None:
        self.listeners.close()
        self._selector.close()
        self._clients.close()


def close_all(connections: Iterator[socket.socket]) -> int:
    return [connection.close() for connection in connections].count(None)


def test_a_turn_takes_what_waits_up_to_a_bound(tmp_path: Path) -> None:
    turns: list[int] = []
    with closing(Loop(tmp_path / "s", lambda accepted: turns.append(close_all(accepted)), TURN + 3)) as loop:
        loop.turn()
        assert turns == [TURN]
        loop.turn()
        assert sum(turns) == TURN + 3


def test_a_second_thread_helps_after_a_turn_that_was_not_enough(tmp_path: Path) -> None:
    both_there, threads = threading.Barrier(2), set()

    def receive(accepted: Iterator[socket.socket]) -> None:
        first = next(accepted)
        if threads:
            both_there.wait(PATIENCE)
        threads.add(threading.get_ident())
        first.close()
        close_all(accepted)

    with closing(Loop(tmp_path / "s", receive, TURN + 3)) as loop:
        loop.turn()
        loop.turn()
        assert len(threads) == 2
        threads.clear()
        with connect(tmp_path / "s"):
            loop.turn()
        assert len(threads) == 1


def test_nothing_is_accepted_after_the_close(tmp_path: Path) -> None:
    accepted: list[socket.socket] = []
    with closing(Loop(tmp_path / "s", accepted.extend, 2)) as loop:
        loop.listeners.close()
        loop.turn()
    assert accepted == []


@needs_root
def test_the_loop_takes_precedence_and_what_it_starts_gives_way() -> None:
    nice: list[int] = []

    def look() -> None:
        nice.append(os.getpriority(os.PRIO_PROCESS, 0))

    def serve() -> None:
        give_way()
        look()

    def run() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, 0)  # whoever runs the tests may have been nice
        take_precedence()
        look()
        child = threading.Thread(target=serve)
        child.start()
        child.join(PATIENCE)

    loop = threading.Thread(target=run)
    loop.start()
    loop.join(PATIENCE)
    assert nice == [-10, 0]


def test_without_the_right_to_take_precedence_the_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", refuse)
    loop = threading.Thread(target=take_precedence)
    loop.start()
    loop.join(PATIENCE)


def test_a_socket_gets_a_long_backlog_whoever_made_it(tmp_path: Path) -> None:
    """One of 128 is filled within a millisecond by who connects in a loop."""
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    with closing(Loop(tmp_path / "s", close_all, min(1000, most))):
        pass
