"""One client connection from its first byte to its close: heads in, exchanges in order, refusals, the access log.

Runs in a thread of its own and never raises. Must not know other connections: caps, draining and idling are the
server's. Spec: RFC 9112 section 9.
"""

from __future__ import annotations

import contextlib
import logging
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.concurrency.context import Context
from container_image_proxy.faces.http.access_log import AccessRecord, Outcome, log_access
from container_image_proxy.faces.http.channel import PeerGoneError, PeerStalledError
from container_image_proxy.faces.http.exchange import Exchange
from container_image_proxy.faces.http.problem import is_expected, reason_of
from container_image_proxy.faces.http.refusal import refusal
from container_image_proxy.faces.http.request_head import HeadBuffer, RefusedRequestError, parse_head

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.core.peer import Peer
    from container_image_proxy.faces.http.channel import Channel
    from container_image_proxy.faces.http.exchange import Application
    from container_image_proxy.faces.http.limits import ServerLimits

_log = logging.getLogger(__name__)

_OPAQUE: Final = "the log of the service says why"
_OUT_OF_TIME: Final = "the time to finish was over"


class Connection:
    """A client's requests, answered one after the other."""

    def __init__(self, channel: Channel, peer: Peer, application: Application, limits: ServerLimits) -> None:
        self.channel = channel
        self.peer = peer
        self._application = application
        self._limits = limits
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self._received = HeadBuffer(limits.head_bytes)
        self._cancellation = Cancellation()
        self._finishing = False
        self._has_asked = False
        self._is_cut = False

    def run(self) -> None:
        """Serve until the client ends, or the server ends it."""
        try:
            self._serve()
        except PeerGoneError as error:
            _log.debug("connection of %s: %s", self.peer, error)
        except Exception:  # noqa: BLE001 - a defect ends this connection only
            _log.exception("connection of %s failed", self.peer)

    def finish(self) -> None:
        """From another thread: answer what has already been asked, then close.

        A client that has connected and not asked yet has a moment for it: its request may be on its way, and no other
        process would answer it.
        """
        self._finishing = True
        if self._has_asked:
            self.channel.stop_reading()

    def abandon(self) -> None:
        """From another thread: end the work for a client that has left."""
        self._cancellation.cancel()

    def cut(self) -> None:
        """From another thread: end at once, so that the client sees a failure."""
        self._is_cut = True
        self.abandon()
        self.channel.abort()

    def _serve(self) -> None:
        started = time.monotonic()
        patience = self._limits.head_seconds
        try:
            while (request := self._next_request(patience)) is not None and self._answer(request):
                self._protocol.start_next_cycle()
                patience = self._limits.keep_alive_seconds
        except RefusedRequestError as error:
            sent = self._send_refusal(error)
            self._log("-", "-", error.status, sent, started, Outcome.REFUSED, {"ERROR": str(error)})
            self.channel.linger(self._limits.linger_seconds)

    def _next_request(self, patience: float) -> h11.Request | None:
        """The next request; None when the client has ended, or was silent for ``patience`` seconds.

        Raises :class:`RefusedRequestError` for a head that is malformed, or not whole in time.
        """
        if not self._received and not (self._receive(patience) if self._has_asked else self._receive_first()):
            return None
        deadline = time.monotonic() + self._limits.head_seconds
        while (head := self._received.take()) is None:
            if not self._receive(deadline - time.monotonic()):
                raise RefusedRequestError(HTTPStatus.REQUEST_TIMEOUT, "the request head did not arrive whole in time")
        self._has_asked = True
        return parse_head(self._protocol, head)

    def _receive_first(self) -> bool:
        """Wait for the first bytes of a new client, in slices, so that a stop ends the wait within a moment."""
        deadline = time.monotonic() + self._limits.head_seconds
        while True:
            try:
                moment = min(self._limits.linger_seconds, deadline - time.monotonic())
                self._received.feed(self.channel.receive(max(0.0, moment)))
            except PeerStalledError:
                if self._finishing or time.monotonic() >= deadline:
                    return False
            else:
                return bool(self._received)

    def _receive(self, seconds: float) -> bool:
        """Take what the client sends next; False if that is nothing within ``seconds``, or the end."""
        try:
            data = self.channel.receive(seconds)
        except PeerStalledError:
            return False
        self._received.feed(data)
        return bool(data)

    def _answer(self, request: h11.Request) -> bool:
        """Answer one request. Returns whether the connection can take another one."""
        started = time.monotonic()
        exchange = Exchange(request, self._protocol, self.channel, self._limits.send_seconds, last=self._finishing)
        outcome = self._run(exchange)
        method, target = request.method.decode("ascii"), request.target.decode("ascii")
        self._log(method, target, exchange.status, exchange.sent, started, outcome, exchange.details)
        if outcome is Outcome.REFUSED:
            self.channel.linger(self._limits.linger_seconds)
        return outcome is Outcome.COMPLETE and self._protocol.our_state is h11.DONE

    def _run(self, exchange: Exchange) -> Outcome:
        """Run the exchange, and see to it that every failure has an answer or a cut connection."""
        try:
            exchange.run(self._application, self.peer, Context(self._cancellation))
        except RefusedRequestError as error:
            self._refuse(exchange, error)
            return Outcome.REFUSED
        except PeerStalledError:
            return Outcome.STALLED
        except (PeerGoneError, CancelledError):
            if not self._is_cut:
                return Outcome.DISCONNECTED
            exchange.details["ERROR"] = _OUT_OF_TIME
            return Outcome.CUT
        except Exception as error:  # noqa: BLE001 - an application's error ends its answer, not the server
            return self._fail(exchange, error)
        return Outcome.COMPLETE

    def _fail(self, exchange: Exchange, error: Exception) -> Outcome:
        """Answer what the application raised while its answer was sent."""
        if not is_expected(error):
            _log.error("an answer failed for a reason that should not exist", exc_info=error)
        exchange.details["ERROR"] = reason_of(error)
        if exchange.committed:
            # The client has the status line. Only a connection that breaks tells it that the rest is missing.
            self.channel.abort()
            return Outcome.CUT
        self._refuse(exchange, RefusedRequestError(HTTPStatus.INTERNAL_SERVER_ERROR, _OPAQUE, "INTERNAL"))
        return Outcome.FAILED

    def _refuse(self, exchange: Exchange, error: RefusedRequestError) -> None:
        exchange.details.setdefault("ERROR", str(error))
        exchange.sent = self._send_refusal(error, head_only=exchange.head_only)
        exchange.status = error.status

    def _send_refusal(self, error: RefusedRequestError, *, head_only: bool = False) -> int:
        """Send the answer to a refused request. Returns the bytes of body that were sent, 0 if the client has left."""
        head, body = refusal(error, head_only=head_only)
        with contextlib.suppress(PeerGoneError):  # the request is logged all the same
            self.channel.send([head + body], self._limits.send_seconds)
            return len(body)
        return 0

    def _log(
        self,
        method: str,
        path: str,
        status: int,
        sent: int,
        started: float,
        outcome: Outcome,
        details: Mapping[str, str],
    ) -> None:
        duration = time.monotonic() - started
        log_access(AccessRecord(self.peer, method, path, status, sent, duration, outcome, details))
