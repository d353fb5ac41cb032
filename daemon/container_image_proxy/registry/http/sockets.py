"""Sockets that keep time: no receive outlives the step it belongs to, and nothing that arrived is lost when one fails.

A socket's own time-out bounds each wait, not their sum: who sends a byte now and then would hold a thread for ever.
So every exchange runs in steps (the head; one read of the body), and the sockets consult the current :func:`step` at
each receive, and while they wait whether anybody still wants what they wait for.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from container_image_proxy.concurrency import cancellation
from container_image_proxy.config.limits import KIB
from container_image_proxy.registry.http.address_policy import AddressPolicy

if TYPE_CHECKING:
    from collections.abc import Generator

    from container_image_proxy.registry.http.socks import SocksProxy

_LARGE: Final = 64 * KIB  # more than a buffered reader asks for to find the end of a head


class Route(Struct, frozen=True):
    """Where the connection of a step may lead, by way of whom, and the request target, byte for byte, to be asked for.

    It is handed to the connection beside the HTTP library, which would rewrite the target's percent-encoding.
    """

    addresses: AddressPolicy = AddressPolicy.ANYWHERE
    request_target: str = ""
    socks: SocksProxy | None = None


_DIRECT: Final = Route()


class Step:
    """What one step may do and how far it came: ``failure`` is what broke its connection."""

    __slots__ = ("deadline", "failure", "has_connected", "idle", "route")

    def __init__(self, deadline: float, idle: float, route: Route) -> None:
        self.deadline = deadline
        self.idle = idle
        self.route = route
        self.has_connected = False
        self.failure: OSError | None = None

    def patience(self) -> float:
        """How long the next receive may wait; ``TimeoutError`` if the step has had its time."""
        left = self.deadline - monotonic()
        if left <= 0:
            raise TimeoutError("too slow")
        return min(left, self.idle)


_current: ContextVar[Step | None] = ContextVar("step", default=None)


@contextlib.contextmanager
def step(seconds: float, *, idle: float, route: Route = _DIRECT) -> Generator[Step, None, None]:
    """Let all that this thread receives meanwhile end within ``seconds``, and no wait for a byte last beyond ``idle``.

    A step within a step ends with the outer one at the latest.
    """
    outer = _current.get()
    deadline = monotonic() + seconds
    running = Step(deadline if outer is None else min(deadline, outer.deadline), idle, route)
    token = _current.set(running)
    try:
        yield running
    finally:
        _current.reset(token)


def note_connected() -> None:
    """The running step has its connection, TLS included."""
    running = _current.get()
    if running is not None:
        running.has_connected = True


def current_route() -> Route:
    """The running step's."""
    running = _current.get()
    return running.route if running is not None else Route()


class _Punctual(socket.socket):
    """Bounds each receive by the current step; ends cleanly first and complains second.

    The buffered reader above forgets what it has when a receive raises. Told "end of stream" instead, it hands out
    those bytes; the next receive raises what had happened.
    """

    _broken: OSError | None = None

    def recv_into(self, buffer: Any, nbytes: int | None = 0, flags: int = 0) -> int:
        running = _current.get()
        if self._broken is not None:
            raise self._broken
        if running is None:
            return super().recv_into(buffer, nbytes or 0, flags)
        try:
            return self._receive(running.patience(), buffer, nbytes or 0, flags)
        except OSError as error:
            self._broken = running.failure = error
            return 0

    def _receive(self, seconds: float, *arguments: Any) -> int:
        """Receive within ``seconds``, or not at all once nobody waits for it."""
        end = monotonic() + seconds
        while (left := end - monotonic()) > 0:
            cancellation.check()
            patience = min(left, cancellation.SLICE)
            if patience != self.gettimeout():
                self.settimeout(patience)
            with contextlib.suppress(TimeoutError):
                return super().recv_into(*arguments)
        raise TimeoutError("nothing came")


class PunctualSocket(_Punctual):
    """A plain socket that keeps time."""


class PunctualTLSSocket(_Punctual, ssl.SSLSocket):
    """A TLS socket that keeps time; for ``SSLContext.sslsocket_class``."""

    def recv_into(self, buffer: Any, nbytes: int | None = 0, flags: int = 0) -> int:
        """As ever, but a large buffer is filled: a GiB comes in 65,536 records, each too small to be worth the way."""
        received = super().recv_into(buffer, nbytes, flags)
        size = nbytes or len(buffer)
        if received == 0 or size < _LARGE:
            return received
        return received + self._fill(memoryview(buffer)[received:size])

    def _fill(self, view: memoryview) -> int:
        """Read records until none comes for a while, the step's time is over or something happens; the next receive
        then tells what.
        """
        running, records = _current.get(), self._sslobj  # type: ignore[attr-defined]  # not in its stubs
        filled = 0
        if running is None or records is None:
            return filled
        try:
            while filled < len(view) and monotonic() < running.deadline:
                count: int = records.read(len(view) - filled, view[filled:])
                if count == 0:
                    break
                filled += count
        except (ssl.SSLEOFError, TimeoutError):
            pass
        except OSError as error:
            self._broken = running.failure = error
        return filled
