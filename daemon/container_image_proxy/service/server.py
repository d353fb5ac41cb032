"""The accept loop: who gets a thread, who is turned away, when to stop.

The server reads a peer's credentials and decides about it at accept, before a byte is parsed. The thread that accepts
is the one that decides to exit. A connection that it has not accepted therefore stays in the backlog, for the next
process that systemd starts. Must not know what clients speak, which ``faces`` do. Decisions: contrib/adr/0002 and 0026.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import resource
import selectors
import signal
import socket
import sys
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

from msgspec import Struct

from container_image_proxy.core.peer import PID_SIZE, UNAUTHENTICATED, Peer, parse_peer, read_credentials
from container_image_proxy.faces.http.channel import StdioChannel
from container_image_proxy.faces.http.face import HttpFace
from container_image_proxy.faces.http.limits import ServerLimits
from container_image_proxy.faces.http.request_head import RefusedRequestError
from container_image_proxy.service.connection_table import ConnectionTable
from container_image_proxy.service.listeners import Listeners, give_way, take_precedence
from container_image_proxy.service.turned_away import MAX_LINGERING, TurnedAway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from container_image_proxy.faces.http.exchange import Application, Environ
    from container_image_proxy.service.connection_table import Connection

_log = logging.getLogger(__name__)

# Descriptors: of a connection the client's socket, one towards a source, and one on the way there; besides these
# standard streams, listeners, selector and log, and the connections that were turned away.
_PER_CONNECTION: Final = 3
_OTHER_DESCRIPTORS: Final = 16 + MAX_LINGERING
_LONGEST_SLEEP: Final = 3600.0  # seconds; epoll_wait(2) takes no more than 24 days
_LAST_WORDS_SECONDS: Final = 1.0  # for work that was cancelled to end and be logged
_PIPE_SIZE: Final = 64 * 1024  # bytes, as pipe(7) has it
_DENIED: Final = RefusedRequestError(HTTPStatus.FORBIDDEN, "this user may not connect", "DENIED")


class Timer(Protocol):
    """Work that the loop does at certain times. Neither method may block."""

    def due(self) -> float | None:
        """The next time, on the monotonic clock; None while there is nothing to do."""

    def run(self) -> None:
        """Do what is due by now, if anything is."""


class Face(Protocol):
    """The protocol that clients of one type of socket speak."""

    def connect(self, sock: socket.socket, peer: Peer) -> Connection:
        """The connection of a client, to be run in a thread of its own."""

    def refusal(self, error: RefusedRequestError) -> bytes:
        """The answer that a client gets which is turned away."""


class _Denied(Struct):
    """Peers of one turn with equal credentials, which were denied and have been told so often enough."""

    peer: Peer
    reason: RefusedRequestError
    count: int = 0


class Server:
    """Serves clients on listening sockets: :meth:`serve` in the caller's thread, each connection in its own.

    The type of a socket says what its clients speak: streams speak HTTP, which ``application`` answers, and packets the
    protocol of ``packets``. ``admit`` is called at accept, and says whether a peer may talk to us at all. ``timers``
    are run by the loop.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        application: Application | None = None,
        limits: ServerLimits = ServerLimits(),  # noqa: B008 - immutable
        admit: Callable[[Peer], bool] = lambda _peer: True,
        timers: Sequence[Timer] = (),
        packets: Face | None = None,
    ) -> None:
        self._limits = limits
        self._http = HttpFace(application or _speak_no_http, limits)
        self._faces: dict[int, Face] = {socket.SOCK_STREAM: self._http}
        if packets is not None:
            self._faces[socket.SOCK_SEQPACKET] = packets
        self._admit = admit
        self._connections = ConnectionTable(
            min(limits.connections, _affordable_connections()), limits.connections_per_uid
        )
        self._lock = threading.RLock()  # for the wake-up; signal handlers may re-enter
        self._too_many = RefusedRequestError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "too many connections",
            "TOOMANYREQUESTS",
            retry_after=limits.retry_after_seconds,
        )
        self._calls: collections.deque[Callable[[], object]] = collections.deque()
        self._wakeup_reader, self._wakeup_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._listeners = Listeners(listeners, self._selector, self._receive, limits.accept_pause_seconds)
        self._turned_away = TurnedAway(limits.linger_seconds)
        self._deciding = threading.Lock()
        self._timers: tuple[Timer, ...] = (self._listeners, self._turned_away, *timers)
        self._ended = False
        self._drain_until: float | None = None
        self._idle_since = time.monotonic()
        self.idle_exit_seconds = limits.idle_exit_seconds
        """As in the limits. A reload may change it."""

    # --- for any thread and signal handlers ---------------------------------------------------------------------------

    def stop(self) -> None:
        """Have :meth:`serve` accept nothing more, let running requests finish within the drain time, and return."""
        self.call_soon(self._begin_drain)

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run ``callback`` in the thread of :meth:`serve`, between two events. After its end nothing is run."""
        self._calls.append(callback)
        with self._lock:
            if not self._ended:
                with contextlib.suppress(BlockingIOError):  # a full pipe wakes, too
                    os.write(self._wakeup_writer, b"\0")

    # --- for the caller ----------------------------------------------------------------------------------------------

    def serve_connection(self, sock: socket.socket, peer: Peer) -> None:
        """Serve one connected socket until its end."""
        self._serve_alone(self._faces[sock.type].connect(sock, peer))

    def serve_stdio(self, reading: int = 0, writing: int = 1) -> None:
        """Serve one client on a pair of descriptors until its end."""
        self._serve_alone(self._http.speak(StdioChannel(reading, writing), UNAUTHENTICATED))

    def _serve_alone(self, connection: Connection) -> None:
        """Serve one connection until its end, in a thread: the loop runs timers and stops meanwhile."""
        if not self._start(connection):
            _log.error("no thread for %s", connection.peer)
            connection.channel.close()
        self.serve()

    def serve(self) -> None:
        """Serve until :meth:`stop`, or until idle for its time. Without listeners, until the last connection ends."""
        self._selector.register(self._wakeup_reader, selectors.EVENT_READ, self._run_calls)
        self._selector.register(self._connections, selectors.EVENT_READ, self._note_departures)
        self._listeners.resume()
        if self._listeners:
            take_precedence()
        try:
            with _woken_by_signals(self._wakeup_writer):
                while not self._is_finished():
                    for key, _ in self._selector.select(self._timeout()):
                        key.data()
                    for timer in self._timers:
                        timer.run()
        finally:
            self._close()

    # --- the loop -----------------------------------------------------------------------------------------------------

    def _is_finished(self) -> bool:
        now = time.monotonic()
        if self._drain_until is not None:
            return self._connections.is_empty or now >= self._drain_until
        if not self._listeners:
            return self._connections.is_empty
        return bool(self.idle_exit_seconds) and self._connections.is_empty and now >= self._idle_until()

    def _idle_until(self) -> float:
        """When the server ends if no client connects before, on the monotonic clock."""
        # Not while strangers connect in a loop: the next process would find a full backlog.
        return max(self._idle_since + self.idle_exit_seconds, self._turned_away.crowded_until)

    def _timeout(self) -> float | None:
        """Seconds until something is due without any event; None if nothing is."""
        moments = [self._drain_until, *(timer.due() for timer in self._timers)]
        if self.idle_exit_seconds and self._connections.is_empty:
            moments.append(self._idle_until())
        due = [moment for moment in moments if moment is not None]
        return min(_LONGEST_SLEEP, max(0.0, min(due) - time.monotonic())) if due else None

    def _run_calls(self) -> None:
        os.read(self._wakeup_reader, _PIPE_SIZE)
        while self._calls:
            self._calls.popleft()()

    def _begin_drain(self) -> None:
        if self._drain_until is not None:
            return
        self._drain_until = time.monotonic() + self._limits.drain_seconds
        self._listeners.close()
        self._connections.finish()

    def _close(self) -> None:
        self._listeners.close()
        self._turned_away.close()
        self._selector.close()
        with self._lock:
            self._ended = True
            os.close(self._wakeup_reader)
            os.close(self._wakeup_writer)
        if cut := self._connections.close():
            _log.warning("%d connections were cut: the time to finish is over", cut)
        self._connections.wait(_LAST_WORDS_SECONDS)

    # --- accepting ----------------------------------------------------------------------------------------------------

    def _receive(self, accepted: Iterator[socket.socket]) -> None:
        """Start new connections, or turn them away, by their peers and the limits. Two threads may do so at once."""
        # By credentials without the pid. A user who connects in a loop is recognised by them, and only counted: nothing
        # is parsed, asked or locked for most of his connections.
        denied: dict[bytes, _Denied] = {}
        for sock in accepted:
            try:
                credentials = read_credentials(sock)
            except OSError:
                sock.close()
                continue
            if known := denied.get(credentials[PID_SIZE:]):
                known.count += 1
                sock.close()
                continue
            peer = parse_peer(credentials)
            is_admitted = self._admit(peer)
            if is_admitted and _has_left(sock):  # a user who may connect can do so in a loop, too
                sock.close()
                continue
            with self._deciding:
                face = self._faces[sock.type]
                objection: RefusedRequestError | None = _DENIED
                if is_admitted:
                    # The selector may tell of departures only after this connection, and their places are free.
                    self._connections.note_departures()
                    is_full = self._connections.is_full(peer)
                    objection = self._too_many if is_full or not self._start(face.connect(sock, peer)) else None
                if objection is not None and not self._turned_away.add(sock, peer, objection, face.refusal):
                    denied[credentials[PID_SIZE:]] = _Denied(peer, objection)
        with self._deciding:
            for one in denied.values():
                self._turned_away.count(one.count, one.peer, one.reason)

    # --- connections --------------------------------------------------------------------------------------------------

    def _start(self, connection: Connection) -> bool:
        """Start a connection's thread. Returns False if there can be none; its channel is still open then."""
        self._idle_since = time.monotonic()
        self._connections.add(connection)
        try:
            threading.Thread(target=self._serve_in_thread, args=(connection,), daemon=True).start()
        except RuntimeError:  # the system has no more threads for us
            self._connections.withdraw(connection)
            return False
        return True

    def _serve_in_thread(self, connection: Connection) -> None:
        # While strangers connect in a loop it keeps the precedence that it inherited: a thread that holds the
        # interpreter lock and waits for a processor would hold up the threads that accept.
        if time.monotonic() >= self._turned_away.crowded_until:
            give_way()
        try:
            connection.run()
        finally:
            self._connections.remove(connection)
            self.call_soon(self._after_connection)

    def _note_departures(self) -> None:
        self._idle_since = time.monotonic()
        self._connections.note_departures()

    def _after_connection(self) -> None:
        self._idle_since = time.monotonic()
        if self._listeners:
            self._listeners.resume()  # a pause for want of descriptors may be over


@contextlib.contextmanager
def _woken_by_signals(descriptor: int) -> Iterator[None]:
    """Have every signal write to ``descriptor``.

    The kernel delivers a signal to any thread. The main thread, which alone runs Python's handlers, would not wake.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)


def _has_left(sock: socket.socket) -> bool:
    """Whether a client has closed its connection, and sent nothing."""
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _speak_no_http(_environ: Environ, _start_response: object) -> NoReturn:
    raise RuntimeError("this server has no application")


def _affordable_connections() -> int:
    """The number of connections that the limit on open files allows (getrlimit(2))."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(1, (soft - _OTHER_DESCRIPTORS) // _PER_CONNECTION)
