"""One client from its first message to its end: packets in, answers with descriptors out, in order.

Runs in a thread of its own and never raises. Must not know other connections: caps, draining and idling are the
server's. Spec: unix(7), SOCK_SEQPACKET and SCM_RIGHTS.
"""

from __future__ import annotations

import array
import contextlib
import logging
import select
import socket
import time
from typing import TYPE_CHECKING, Final

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.concurrency.context import Context
from container_image_proxy.errors import Error, InvalidInputError, NotFoundError
from container_image_proxy.faces.image_proxy import messages
from container_image_proxy.faces.image_proxy.messages import (
    MAX_MESSAGE,
    ReaderGoneError,
    ReaderStalledError,
    parse_request,
)
from container_image_proxy.faces.image_proxy.session import Answer, Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from container_image_proxy.core.peer import Peer
    from container_image_proxy.faces.image_proxy.session import Shared

_log = logging.getLogger(__name__)
_SHUTDOWN: Final = "Shutdown"
_MILLISECONDS: Final = 1000


class PeerGoneError(Error):
    """The client has closed its socket, or does not read its answers."""


class PacketChannel:
    """The socket of one client. One thread uses it. Others may call :meth:`stop_reading` and :meth:`abort`."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._socket.settimeout(0)
        self._poll = select.poll()
        self.descriptor = sock.fileno()
        """The descriptor that hangs up (poll(2)) when the client has left."""

    def receive(self, seconds: float | None) -> bytes | None:
        """The next message; None when the client has ended, or was silent for ``seconds``.

        Of a message that is too large one byte more than is allowed is returned. Descriptors that come along are closed
        by the kernel, because no room is offered for them. Raises :class:`PeerGoneError`.
        """
        while True:
            self._poll.register(self.descriptor, select.POLLIN | select.POLLRDHUP)
            events = self._poll.poll(None if seconds is None else seconds * _MILLISECONDS)
            if not events:
                return None
            try:
                message = self._socket.recv(MAX_MESSAGE + 1)
            except BlockingIOError:
                continue
            except OSError as error:
                raise PeerGoneError(f"the client is gone: {error.strerror}") from error
            # A packet may be empty, and receiving at the end returns the same.
            has_ended = events[0][1] & (select.POLLRDHUP | select.POLLHUP)
            return message if message or not has_ended else None

    def send(self, message: bytes, descriptors: Sequence[int], seconds: float) -> None:
        """Send one message with its descriptors. Raises :class:`PeerGoneError` if it is not taken in ``seconds``."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        until = time.monotonic() + seconds
        while True:
            try:
                self._socket.sendmsg([message], rights)
            except BlockingIOError:
                self._poll.register(self.descriptor, select.POLLOUT)
                if not self._poll.poll(max(0.0, until - time.monotonic()) * _MILLISECONDS):
                    raise PeerGoneError(f"the client took no answer for {seconds:g} s") from None
            except OSError as error:
                raise PeerGoneError(f"the client is gone: {error.strerror}") from error
            else:
                return

    def stop_reading(self) -> None:
        """From another thread: let :meth:`receive` return what was sent until now, and then the end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def abort(self) -> None:
        """From another thread: end both directions."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Connection:
    """A client's requests, answered one after the other."""

    def __init__(self, sock: socket.socket, peer: Peer, shared: Shared) -> None:
        self.channel = PacketChannel(sock)
        self.peer = peer
        self._limits = shared.limits
        self._cancellation = Cancellation()
        self._session = Session(peer, shared, Context(self._cancellation))
        self._finishing = False

    def run(self) -> None:
        """Serve until the client ends, or the server ends it. Everything that the client has open is closed."""
        try:
            self._serve()
        except PeerGoneError as error:
            _log.debug("connection of %s: %s", self.peer, error)
        except CancelledError:
            _log.debug("connection of %s ended in the middle of a request", self.peer)
        except Exception:  # noqa: BLE001 - a defect ends this connection only
            _log.exception("connection of %s failed", self.peer)
        finally:
            self._cancellation.cancel()
            self._session.close()

    def finish(self) -> None:
        """From another thread: answer what the client has asked, let it finish its transfers, then end."""
        self._finishing = True
        if not self._session.is_busy:
            self.channel.stop_reading()

    def abandon(self) -> None:
        """From another thread: end the work for a client that has left."""
        self._cancellation.cancel()

    def cut(self) -> None:
        """From another thread: end at once, so that the client sees a failure."""
        self.abandon()
        self.channel.abort()

    def _serve(self) -> None:
        patience = self._limits.greeting_seconds
        while (message := self.channel.receive(patience)) is not None:
            patience = None  # a client may work on an image for hours, and then ask for the next
            if not self._answer(message):
                return
            if self._finishing and not self._session.is_busy:
                self.channel.stop_reading()

    def _answer(self, message: bytes) -> bool:
        """Answer one message. Returns False if it was ``Shutdown``, which has no answer."""
        began, method = time.monotonic(), "-"
        answer, error = Answer(), None
        try:
            request = parse_request(message)
            method = request.method
            if method == _SHUTDOWN:
                return False
            answer = self._session.call(request)
            reply = messages.success(answer.value, answer.number)
        except Exception as failed:  # noqa: BLE001 - whatever goes wrong has an answer
            if not isinstance(failed, Error):
                _log.exception("a request failed for a reason that should not exist")
            reply, error = messages.failure(failed), failed
        try:
            self.channel.send(
                reply, [pipe.reader for pipe in answer.pipes] if error is None else [], self._limits.send_seconds
            )
        finally:
            for pipe in answer.pipes:
                pipe.close_reader()
        self._log(method, error, time.monotonic() - began)
        return True

    def _log(self, method: str, error: Exception | None, seconds: float) -> None:
        """Log the request. One that succeeded is logged at DEBUG: transfers have records of their own."""
        fields: dict[str, object] = {"REQUEST_METHOD": method, "DURATION_USEC": round(seconds * 1e6)}
        fields |= {"PEER_UID": self.peer.uid, "PEER_PID": self.peer.pid}
        if error is None:
            _log.debug("%s in %.3f s", method, seconds, extra={"fields": fields})
            return
        is_clients = isinstance(error, InvalidInputError | NotFoundError | ReaderGoneError | ReaderStalledError)
        level = logging.INFO if is_clients else logging.WARNING
        _log.log(level, "%s failed: %s", method, messages.error_text(error), extra={"fields": fields})
