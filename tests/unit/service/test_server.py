"""The accept loop: who is let in, how many, what stops it, and that nobody who was accepted is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from container_image_proxy.config.access import AccessRule
from container_image_proxy.core.peer import UNAUTHENTICATED, Peer, read_peer
from container_image_proxy.faces.http.exchange import CONTEXT
from container_image_proxy.faces.http.limits import ServerLimits
from container_image_proxy.service.server import Server
from container_image_proxy.service.turned_away import MAX_TOLD, PERIOD_SECONDS
from tests.support.script import importing_project
from tests.support.socket_server import (
    GET,
    PATIENCE,
    Running,
    abstract_listener,
    connect,
    exchange_as,
    hello,
    listen,
    read_all,
    read_answer,
    read_next,
    running,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ALICE, BOB = 61234, 61235
QUICK = ServerLimits(linger_seconds=0.01)


class Gate:
    """An application whose answers stop half-way until the gate opens."""

    def __init__(self) -> None:
        self.reached = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, _environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "2"), ("Content-Type", "text/plain")])
        yield b"a"
        self.reached.release()
        assert self.open.wait(3 * PATIENCE)
        yield b"b"

    def wait_until_reached(self) -> None:
        assert self.reached.acquire(timeout=PATIENCE)


# --- who ----------------------------------------------------------------------------------------------------


@pytest.mark.demand("PEER-uid")
def test_a_peer_that_may_not_connect_gets_403_before_the_application_hears_of_it() -> None:
    asked: list[Peer] = []

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        asked.append(environ["container_image_proxy.peer"])
        return hello(environ, start_response)

    def admit(peer: Peer) -> bool:
        return AccessRule(users=frozenset({ALICE})).permits(peer.uid, peer.groups)

    with (
        abstract_listener() as (listener, name),
        running(Path(name), application, QUICK, admit=admit, listener=listener.dup()),
    ):
        answers = {
            uid: exchange_as(name, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), uid, uid)
            for uid in (ALICE, BOB)
        }
        output = {uid: process.communicate()[0] for uid, process in answers.items()}
    assert output[ALICE].startswith(b"HTTP/1.1 200 ")
    assert output[BOB].startswith(b"HTTP/1.1 403 ")
    assert b"application/problem+json" in output[BOB]
    assert [peer.uid for peer in asked] == [ALICE]


@pytest.mark.demand("PEER-groups")
def test_a_supplementary_group_of_the_process_lets_it_in() -> None:
    def admit(peer: Peer) -> bool:
        return AccessRule(groups=frozenset({70000})).permits(peer.uid, peer.groups)

    with (
        abstract_listener() as (listener, name),
        running(Path(name), hello, QUICK, admit=admit, listener=listener.dup()),
    ):
        request = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        member = exchange_as(name, request, ALICE, ALICE, (70000,)).communicate()[0]
        other = exchange_as(name, request, ALICE, ALICE).communicate()[0]
    assert (member[:12], other[:12]) == (b"HTTP/1.1 200", b"HTTP/1.1 403")


def test_a_denied_client_gets_to_read_its_answer_though_it_sends_first(tmp_path: Path) -> None:
    limits = ServerLimits(linger_seconds=3600)
    with running(tmp_path / "s", limits=limits, admit=lambda _peer: False) as server:
        for _ in range(3):
            with server.connect() as client:
                client.sendall(GET)
                assert read_all(client).startswith(b"HTTP/1.1 403 ")


# --- how many -----------------------------------------------------------------------------------------------


@pytest.mark.demand("idle-1000")
def test_idle_connections_of_one_user_leave_room_for_another() -> None:
    limits = ServerLimits(connections=20, connections_per_uid=10, linger_seconds=PATIENCE)
    request = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with (
        abstract_listener(1000) as (listener, name),
        running(Path("\0" + name[1:]), hello, limits, listener=listener.dup()) as server,
        contextlib.ExitStack() as clients,
    ):
        idle = [clients.enter_context(server.connect()) for _ in range(1000)]
        assert exchange_as(name, request, ALICE, ALICE).communicate()[0].startswith(b"HTTP/1.1 200")
        refused = server.ask()
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        idle[0].sendall(GET)
        assert read_answer(idle[0]).status == 200


def test_the_cap_on_all_connections_holds_and_a_place_becomes_free_again(tmp_path: Path) -> None:
    with running(tmp_path / "s", limits=ServerLimits(connections=2, linger_seconds=0.01)) as server:
        with server.connect() as first, server.connect() as second:
            for client in (first, second):
                client.sendall(GET)
                assert read_answer(client).status == 200
            assert server.ask().status == 503
            first.shutdown(socket.SHUT_WR)
            assert read_all(first) == b""
        assert server.ask().status == 200


@pytest.mark.demand("fd-exhaustion")
def test_the_caps_fit_the_limit_on_open_files() -> None:
    """Under RLIMIT_NOFILE=64 a hundred clients are answered, by 200 or 503, and later ones as ever."""
    script = """
import resource, socket, sys
from container_image_proxy.service.server import Server
from tests.support.socket_server import hello
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
server = Server([socket.socket(fileno=int(sys.argv[1]))], hello)
server.serve()
"""
    with abstract_listener() as (listener, name):
        path = Path("\0" + name[1:])
        command = [sys.executable, "-c", importing_project(script), str(listener.fileno())]
        process = subprocess.Popen(command, pass_fds=[listener.fileno()])
        try:
            with contextlib.ExitStack() as clients:
                statuses = []
                for client in [clients.enter_context(connect(path)) for _ in range(100)]:
                    with contextlib.suppress(BrokenPipeError):  # turned away already; the answer is there
                        client.sendall(GET)
                    statuses.append(read_answer(client).status)
                assert set(statuses) == {200, 503}
            status = 0
            while status != 200:  # the threads of those who left have to end first
                with connect(path) as client:
                    client.sendall(GET)
                    status = read_answer(client).status
        finally:
            process.kill()
            process.wait()


class Exhausted(socket.socket):
    """A listener whose accept fails as without free descriptors, when it is told to; ``failures`` counts."""

    failing = False
    failures = 0

    def _accept(self) -> tuple[int, Any]:
        if self.failing:
            self.failures += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super()._accept()  # type: ignore[no-any-return, misc]


def exhausted_listener(path: Path) -> Exhausted:
    listener = Exhausted(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


@contextlib.contextmanager
def exhaustible(path: Path, pause: float) -> Iterator[tuple[Any, Exhausted]]:
    listener = exhausted_listener(path)
    with running(path, limits=ServerLimits(accept_pause_seconds=pause), listener=listener) as server:
        yield server, listener


@pytest.mark.demand("fd-exhaustion")
def test_without_descriptors_accepting_pauses_until_a_connection_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with exhaustible(tmp_path / "s", 3600) as (server, listener), server.connect() as first:
        first.sendall(GET)
        assert read_answer(first).status == 200
        listener.failing = True
        with server.connect() as waiting:
            waiting.sendall(GET)
            turns = threading.Barrier(2)
            for _ in range(5):  # the loop turns, and does not try again
                server.server.call_soon(turns.wait)
                turns.wait(PATIENCE)
            assert listener.failures == 1
            listener.failing = False
            first.close()
            assert read_answer(waiting).status == 200
    assert "no connection can be accepted for now" in caplog.text


@pytest.mark.demand("fd-exhaustion")
def test_accepting_resumes_by_itself_after_a_pause(tmp_path: Path) -> None:
    with exhaustible(tmp_path / "s", 0.01) as (server, listener):
        listener.failing = True
        with server.connect() as waiting:
            waiting.sendall(GET)
            server.server.call_soon(lambda: setattr(listener, "failing", False))
            assert read_answer(waiting).status == 200


@pytest.mark.demand("fd-exhaustion")
def test_one_failed_accept_pauses_all_listeners(tmp_path: Path) -> None:
    listeners = [exhausted_listener(tmp_path / name) for name in "ab"]
    for listener in listeners:
        listener.failing = True
    server = Server(listeners, hello, ServerLimits(accept_pause_seconds=3600))
    turns = threading.Barrier(2)
    with connect(tmp_path / "a"), connect(tmp_path / "b"):
        thread = threading.Thread(target=server.serve)
        thread.start()
        for _ in range(5):
            server.call_soon(turns.wait)
            turns.wait(PATIENCE)
        assert sum(listener.failures for listener in listeners) == 1
        server.stop()
        thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_client_that_left_before_its_accept_is_no_trouble(tmp_path: Path) -> None:
    listener = listen(tmp_path / "s")
    for _ in range(10):
        connect(tmp_path / "s").close()
    with running(tmp_path / "s", listener=listener) as server:
        assert server.ask().status == 200


def test_clients_that_left_without_a_word_take_no_place_and_no_thread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listener = listen(tmp_path / "s", 300)
    for _ in range(300):
        connect(tmp_path / "s").close()
    with running(tmp_path / "s", limits=ServerLimits(connections=1), listener=listener) as server:
        assert server.ask().status == 200
    assert "turned away" not in caplog.text


# --- clients that leave -------------------------------------------------------------------------------------


class Stuck:
    """An application that waits for what never comes, but on ``/hello``; ``left`` counts those it gave up."""

    def __init__(self, *, notices: bool) -> None:
        self._notices = notices
        self.reached = threading.Semaphore(0)
        self.left = threading.Semaphore(0)
        self.end = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["PATH_INFO"] == "/hello":
            return hello(environ, start_response)
        self.reached.release()
        try:
            if self._notices:
                environ[CONTEXT].sleep(3 * PATIENCE)
            assert self.end.wait(3 * PATIENCE)
        finally:
            self.left.release()
        return hello(environ, start_response)

    def ask_and_leave(self, server: Running) -> None:
        with server.connect() as client:
            client.sendall(GET.replace(b"/hello", b"/stuck"))
            assert self.reached.acquire(timeout=PATIENCE)


@contextlib.contextmanager
def stuck(path: Path, limits: ServerLimits, *, notices: bool) -> Iterator[tuple[Running, Stuck]]:
    application = Stuck(notices=notices)
    with running(path, application, limits) as server:
        try:
            yield server, application
        finally:
            application.end.set()


@pytest.mark.demand("client-disconnect")
def test_whoever_works_for_a_client_that_has_left_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with stuck(tmp_path / "s", QUICK, notices=True) as (server, application):
        application.ask_and_leave(server)
        assert application.left.acquire(timeout=PATIENCE)
    assert "GET /stuck 0 0 bytes in" in caplog.text
    assert ", disconnected" in caplog.text


@pytest.mark.demand("client-disconnect")
def test_a_client_that_only_stopped_sending_still_gets_its_answer(tmp_path: Path) -> None:
    with stuck(tmp_path / "s", QUICK, notices=False) as (server, application), server.connect() as client:
        client.sendall(GET.replace(b"/hello", b"/stuck"))
        client.shutdown(socket.SHUT_WR)
        assert application.reached.acquire(timeout=PATIENCE)
        application.ask_and_leave(server)  # the loop has seen a departure
        application.end.set()
        assert read_answer(client).status == 200


@pytest.mark.demand("client-disconnect")
def test_clients_that_have_left_make_room_though_work_for_them_goes_on(tmp_path: Path) -> None:
    limits = ServerLimits(connections=10, connections_per_uid=2, linger_seconds=0.01)
    with stuck(tmp_path / "s", limits, notices=False) as (server, application):
        for _ in range(2):
            application.ask_and_leave(server)
        assert server.ask().status == 200


@pytest.mark.demand("client-disconnect")
def test_nobody_piles_up_work_by_leaving(tmp_path: Path) -> None:
    limits = ServerLimits(connections=10, connections_per_uid=2, linger_seconds=0.01)
    with stuck(tmp_path / "s", limits, notices=False) as (server, application):
        for _ in range(4):
            application.ask_and_leave(server)
        assert server.ask().status == 503
        application.end.set()
        while server.ask().status != 200:
            pass


@pytest.mark.demand("sigterm-drain")
def test_a_stop_does_not_wait_for_those_who_have_left(tmp_path: Path) -> None:
    with stuck(tmp_path / "s", ServerLimits(drain_seconds=3600), notices=False) as (server, application):
        application.ask_and_leave(server)
        server.server.stop()
        server.join()


def test_a_reader_of_standard_output_that_leaves_is_noticed() -> None:
    application = Stuck(notices=True)
    stdin, requests = os.pipe()
    answers, stdout = os.pipe()
    server = Server([], application)
    thread = threading.Thread(target=server.serve_stdio, args=(stdin, stdout))
    thread.start()
    with os.fdopen(requests, "wb", buffering=0) as writer:
        writer.write(GET.replace(b"/hello", b"/stuck"))
        assert application.reached.acquire(timeout=PATIENCE)
        os.close(answers)
        assert application.left.acquire(timeout=PATIENCE)
        thread.join(PATIENCE)
    assert not thread.is_alive()


def test_standard_output_may_be_a_file(tmp_path: Path) -> None:
    stdin, requests = os.pipe()
    stdout = os.open(tmp_path / "out", os.O_CREAT | os.O_WRONLY)
    os.write(requests, GET)
    os.close(requests)
    Server([], hello).serve_stdio(stdin, stdout)
    assert (tmp_path / "out").read_bytes().endswith(b"/hello")


# --- stopping -----------------------------------------------------------------------------------------------


@pytest.mark.demand("sigterm-drain")
def test_a_stop_lets_transfers_finish_and_closes_idle_connections(tmp_path: Path) -> None:
    gate = Gate()
    with running(tmp_path / "s", gate) as server, server.connect() as busy, server.connect() as idle:
        busy.sendall(GET)
        gate.wait_until_reached()
        server.server.stop()
        assert read_all(idle) == b""
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        gate.open.set()
        assert read_all(busy).endswith(b"\r\n\r\nab")
        server.join()


@pytest.mark.demand("sigterm-drain")
@pytest.mark.parametrize("sent", [0, 10], ids=["nothing", "half a head"])
def test_who_has_connected_before_the_stop_and_asks_after_it_is_answered(tmp_path: Path, sent: int) -> None:
    limits = ServerLimits(linger_seconds=PATIENCE)  # the moment that is left for it
    with running(tmp_path / "s", limits=limits) as server, server.connect() as client:
        client.sendall(GET[:sent])
        while server.server._connections.is_empty:
            threading.Event().wait(0.001)
        stopped = threading.Event()
        server.server.stop()
        server.server.call_soon(stopped.set)
        assert stopped.wait(PATIENCE)
        client.sendall(GET[sent:])
        answer = read_answer(client)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        server.join()


@pytest.mark.demand("sigterm-drain")
def test_what_has_been_asked_before_the_stop_is_answered(tmp_path: Path) -> None:
    started, stopped = threading.Event(), threading.Event()

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        started.set()
        assert stopped.wait(PATIENCE)
        return hello(environ, start_response)

    with running(tmp_path / "s", application) as server, server.connect() as client, client.makefile("rb") as stream:
        client.sendall(GET + GET)
        assert started.wait(PATIENCE)
        server.server.stop()
        server.server.call_soon(stopped.set)
        assert read_next(stream).status == 200
        last = read_next(stream)
        assert (last.status, last.headers["connection"]) == (200, "close")
        assert stream.read() == b""


@pytest.mark.demand("sigterm-drain")
def test_a_transfer_that_does_not_finish_in_time_is_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    with running(tmp_path / "s", gate, ServerLimits(drain_seconds=0.01)) as server, server.connect() as busy:
        busy.sendall(GET)
        gate.wait_until_reached()
        server.server.stop()
        assert read_all(busy).endswith(b"\r\n\r\na")
        server.join()
        gate.open.set()
    assert "1 connections were cut" in caplog.text


@pytest.mark.demand("sigterm-drain")
@pytest.mark.parametrize("waits_for", ["source", "client"])
def test_the_log_tells_who_was_cut_from_who_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, waits_for: str
) -> None:
    caplog.set_level("INFO")
    reached = threading.Event()

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", str(1 << 30))])
        yield b"a"
        reached.set()
        if waits_for == "source":
            environ[CONTEXT].sleep(3 * PATIENCE)
        while True:
            yield bytes(1 << 20)

    with running(tmp_path / "s", application, ServerLimits(drain_seconds=0.01)) as server, server.connect() as busy:
        busy.sendall(GET)
        assert reached.wait(PATIENCE)
        server.server.stop()
        server.join()
    (record,) = [one for one in caplog.records if "GET /hello" in one.getMessage()]
    assert record.levelname == "WARNING"
    assert record.fields["OUTCOME"] == "cut"  # type: ignore[attr-defined]
    assert record.getMessage().endswith(", cut: the time to finish was over")


def test_connections_that_were_not_accepted_stay_for_the_next_process(tmp_path: Path) -> None:
    """As with systemd, which keeps the listening socket."""
    with listen(tmp_path / "s") as kept:
        with running(tmp_path / "s", listener=kept.dup()) as server:
            server.server.stop()
            server.join()
        with connect(tmp_path / "s") as client:
            client.sendall(GET)
            with running(tmp_path / "s", listener=kept.dup()):
                assert read_answer(client).status == 200


def test_a_stop_before_the_start_and_one_after_the_end_do_no_harm(tmp_path: Path) -> None:
    server = Server([listen(tmp_path / "s")], hello)
    server.stop()
    server.serve()
    server.stop()


@pytest.mark.demand("idle-exit-race")
def test_a_client_that_comes_after_the_decision_to_leave_is_left_to_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[socket.socket] = []
    decide = Server._is_finished

    def decide_and_let_one_in(server: Server) -> bool:
        finished = decide(server)
        if finished:
            late.append(connect(tmp_path / "s"))
            late[-1].sendall(GET)
        return finished

    with listen(tmp_path / "s") as kept:
        with monkeypatch.context() as patch:
            patch.setattr(Server, "_is_finished", decide_and_let_one_in)
            Server([kept.dup()], hello, ServerLimits(idle_exit_seconds=0.001)).serve()
        with running(tmp_path / "s", listener=kept.dup()), late[0]:
            assert read_answer(late[0]).status == 200


def test_the_server_stays_while_strangers_connect_in_a_loop(tmp_path: Path) -> None:
    listener = listen(tmp_path / "s", 1000)
    limits = ServerLimits(idle_exit_seconds=PERIOD_SECONDS / 2, linger_seconds=0.01)
    with contextlib.ExitStack() as clients:
        strangers = [clients.enter_context(connect(tmp_path / "s")) for _ in range(MAX_TOLD + 1)]
        with running(tmp_path / "s", limits=limits, admit=lambda _peer: False, listener=listener) as server:
            assert read_all(strangers[-1]) == b""
            assert server.server._idle_until() - server.server._idle_since >= PERIOD_SECONDS


@pytest.mark.demand("idle-exit-race")
def test_no_request_is_lost_while_the_server_leaves_and_comes_back() -> None:
    """As under systemd, which starts it again for what it has not accepted."""
    limits = ServerLimits(idle_exit_seconds=0.0002)
    done = threading.Event()

    def service_manager(listener: socket.socket) -> None:
        while not done.is_set():
            Server([listener.dup()], hello, limits).serve()

    with abstract_listener() as (listener, name):
        path = Path("\0" + name[1:])
        manager = threading.Thread(target=service_manager, args=(listener,))
        manager.start()
        try:
            for _ in range(2000):
                with connect(path) as client:
                    client.sendall(GET)
                    assert read_answer(client).status == 200
        finally:
            done.set()
            manager.join(PATIENCE)


def test_an_open_connection_keeps_the_server_from_leaving(tmp_path: Path) -> None:
    limits = ServerLimits(idle_exit_seconds=0.01, keep_alive_seconds=0.2)
    with running(tmp_path / "s", limits=limits) as server:
        with server.connect() as client:
            client.sendall(GET)
            assert read_answer(client).status == 200
            assert read_all(client) == b""  # the keep-alive time is over first
        server.join()


# --- connections that are brought ---------------------------------------------------------------------------


def test_a_connected_socket_is_served_until_its_end() -> None:
    ours, theirs = socket.socketpair()
    server = Server([], hello)
    thread = threading.Thread(target=server.serve_connection, args=(theirs, read_peer(theirs)))
    thread.start()
    with ours:
        ours.settimeout(PATIENCE)
        ours.sendall(GET + GET)
        ours.shutdown(socket.SHUT_WR)
        assert read_all(ours).count(b"HTTP/1.1 200 ") == 2
    thread.join(PATIENCE)
    assert not thread.is_alive()


class Countdown:
    """A timer that is due three times at once, and then stops the server."""

    def __init__(self) -> None:
        self.server: Server | None = None
        self.left = 3

    def due(self) -> float | None:
        return time.monotonic() if self.left else None

    def run(self) -> None:
        self.left -= 1
        if not self.left and self.server is not None:
            self.server.stop()


def test_timers_are_done_when_they_are_due_though_nobody_connects(tmp_path: Path) -> None:
    timer = Countdown()
    timer.server = Server([listen(tmp_path / "s")], hello, timers=[timer])
    thread = threading.Thread(target=timer.server.serve)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


@contextlib.contextmanager
def over_pipes(peers: list[Peer]) -> Iterator[tuple[Server, Any, Any, threading.Thread]]:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        peers.append(environ["container_image_proxy.peer"])
        return hello(environ, start_response)

    stdin, requests = os.pipe()
    answers, stdout = os.pipe()
    server = Server([], application)
    thread = threading.Thread(target=server.serve_stdio, args=(stdin, stdout))
    thread.start()
    with os.fdopen(requests, "wb", buffering=0) as writer, os.fdopen(answers, "rb", buffering=0) as reader:
        yield server, writer, reader, thread
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_standard_input_and_output_are_served_until_their_end() -> None:
    peers: list[Peer] = []
    with over_pipes(peers) as (_, writer, reader, _):
        writer.write(GET)
        writer.close()
        assert reader.readall().endswith(b"\r\n\r\n/hello")
    assert peers == [UNAUTHENTICATED]


def test_a_stop_ends_a_silent_client_on_standard_input() -> None:
    with over_pipes([]) as (server, _, reader, thread):
        server.stop()
        assert reader.readall() == b""
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_the_soft_limit_on_files_is_read_at_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (54, 54))
    with running(tmp_path / "s", limits=QUICK) as server, server.connect() as first, server.connect() as second:
        for client in (first, second):
            client.sendall(GET)
            assert read_answer(client).status == 200
        assert server.ask().status == 503
