"""The accept loop: who gets a thread, who is turned away, when to stop.

The server reads a peer and decides about it at accept, before a byte is parsed. One thread accepts (see
``listeners.py``) and decides to exit. A connection that it has not accepted therefore stays in the backlog for the next
process that systemd starts. ``faces`` know what clients speak, ``connection_table.py`` knows who is connected.
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
from container_image_proxy.faces.http.channel import SocketChannel, StdioChannel
from container_image_proxy.faces.http.connection import Connection as HttpConnection
from container_image_proxy.faces.http.limits import ServerLimits
from container_image_proxy.faces.http.refusal import refusal
from container_image_proxy.faces.http.request_head import RefusedRequestError
from container_image_proxy.service.connection_table import ConnectionTable
from container_image_proxy.service.listeners import Listeners, give_way, take_precedence
from container_image_proxy.service.turned_away import MAX_LINGERING, TurnedAway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from container_image_proxy.faces.http.channel import Channel
    from container_image_proxy.faces.http.exchange import Application, Environ
    from container_image_proxy.service.connection_table import Connection

_log = logging.getLogger(__name__)

_OTHER_DESCRIPTORS: Final = 16 + MAX_LINGERING  # standard streams, listeners, selector, log; those turned away
_LONGEST_SLEEP: Final = 3600.0  # seconds; epoll_wait(2) takes no more than 24 days
_LAST_WORDS_SECONDS: Final = 1.0  # for work that was cancelled to end and be logged
_PIPE_SIZE: Final = 64 * 1024
_PER_CONNECTION: Final = 3  # the client's socket, one towards a source, one on the way there
_DENIED: Final = RefusedRequestError(HTTPStatus.FORBIDDEN, "this user may not connect", "DENIED")


class Timer(Protocol):
    """What the loop has to do at certain times whatever else happens; both must not block."""

    def due(self) -> float | None:
        """The next time, on the monotonic clock; None while there is nothing to do."""

    def run(self) -> None:
        """Do what is due by now, if anything is."""


class Face(Protocol):
    """What clients of one kind of socket speak."""

    def connect(self, sock: socket.socket, peer: Peer) -> Connection:
        """The connection of a client, to be run in a thread of its own."""

    def refusal(self, error: RefusedRequestError) -> bytes:
        """What a client reads that is turned away."""


class _Http:
    """HTTP as a face."""

    def __init__(self, application: Application, limits: ServerLimits) -> None:
        self._application = application
        self._limits = limits

    def connect(self, sock: socket.socket, peer: Peer) -> Connection:
        return self.speak(SocketChannel(sock), peer)

    def speak(self, channel: Channel, peer: Peer) -> Connection:
        return HttpConnection(channel, peer, self._application, self._limits)

    def refusal(self, error: RefusedRequestError) -> bytes:
        return b"".join(refusal(error))


class _Denied(
    Struct,
):
    """Those of a turn whose credentials are no good, and who know it."""

    peer: Peer
    reason: RefusedRequestError
    count: int = 0


class Server:
    """Serves an application on listening sockets: :meth:`serve` in the caller's thread, each connection in its own.

    A socket's type says what its clients speak: streams HTTP, with ``application``, and packets the protocol that
    ``packets`` is the face of. ``admit`` is asked at accept whether a peer may talk to anything at all here; ``timers``
    are done beside.
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
        self._http = _Http(application or _speak_no_http, limits)
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
        """As in the limits; a reload may change it."""

    # --- for any thread and signal handlers ---------------------------------------------------------------------------

    def stop(self) -> None:
        """Accept nothing more, let running requests finish within the drain time, then let :meth:`serve` return."""
        self.call_soon(self._begin_drain)

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run ``callback`` in the thread of :meth:`serve`, between two connections; after its end: never."""
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
        if not self._start(connection):
            _log.error("no thread for %s", connection.peer)
            connection.channel.close()
        self.serve()

    def serve(self) -> None:
        """Serve until :meth:`stop`, or until idle for its time; without listeners, until the last connection ends."""
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
                    self._do_what_is_due()
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
        """When it ends for want of clients; not while strangers connect in a loop, or the next start would find the
        backlog full.
        """
        return max(self._idle_since + self.idle_exit_seconds, self._turned_away.crowded_until)

    def _timeout(self) -> float | None:
        """Seconds until something is due without any event."""
        moments = [self._drain_until, *(timer.due() for timer in self._timers)]
        if self.idle_exit_seconds and self._connections.is_empty:
            moments.append(self._idle_until())
        due = [moment for moment in moments if moment is not None]
        return min(_LONGEST_SLEEP, max(0.0, min(due) - time.monotonic())) if due else None

    def _do_what_is_due(self) -> None:
        for timer in self._timers:
            timer.run()

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
        """Start or turn away new connections, by their peers and the caps; perhaps in two threads at once.

        Of those who connect in a loop all but a few are recognised by their bare credentials and only counted.
        """
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
            if is_admitted and _has_left(sock):  # who connects in a loop may be somebody who is allowed to
                sock.close()
                continue
            with self._deciding:
                objection = self._objection_to(peer) if is_admitted else _DENIED
                face = self._faces[sock.type]
                if objection is None:
                    objection = None if self._start(face.connect(sock, peer)) else self._too_many
                if objection is not None and not self._turned_away.add(sock, peer, objection, face.refusal):
                    denied[credentials[PID_SIZE:]] = _Denied(peer, objection)
        with self._deciding:
            for one in denied.values():
                self._turned_away.count(one.count, one.peer, one.reason)

    def _objection_to(self, peer: Peer) -> RefusedRequestError | None:
        self._connections.note_departures()  # which the selector may have told of after this one
        return self._too_many if self._connections.is_full(peer) else None

    # --- connections --------------------------------------------------------------------------------------------------

    def _start(self, connection: Connection) -> bool:
        """Whether it could be started; if not, its channel is still open."""
        self._idle_since = time.monotonic()
        self._connections.add(connection)
        try:
            threading.Thread(target=self._serve_in_thread, args=(connection,), daemon=True).start()
        except RuntimeError:  # the system has no more threads for us
            self._connections.withdraw(connection)
            return False
        return True

    def _serve_in_thread(self, connection: Connection) -> None:
        # In a crowd it keeps the precedence that it inherited: who waits for the processor with the interpreter in hand
        # holds up those who accept.
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

    The kernel gives a signal to any thread; the main one, which alone runs Python's handlers, would sleep on.
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
    """Whether a client has closed its connection without a word."""
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _speak_no_http(_environ: Environ, _start_response: object) -> NoReturn:
    raise RuntimeError("this server has no application")


def _affordable_connections() -> int:
    """How many connections the limit on open files allows for."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(1, (soft - _OTHER_DESCRIPTORS) // _PER_CONNECTION)
