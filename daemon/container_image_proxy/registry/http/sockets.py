"""Sockets that keep a deadline: a receive lasts no longer than its context allows.

A socket's own time-out is for each receive. It does not end an exchange in which a byte drips now and then, and such an
exchange would hold a thread for ever. These sockets therefore consult the context under which they are read at each
receive. While they wait, they also notice when nobody wants the content any more.
"""

from __future__ import annotations

import socket
import ssl
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from container_image_proxy.concurrency.cancellation import SLICE
from container_image_proxy.concurrency.kernel_time import timeval
from container_image_proxy.config.limits import KIB

if TYPE_CHECKING:
    from container_image_proxy.concurrency.context import Context

_FILL: Final = int(socket.MSG_WAITALL)  # as a member of an enumeration it would take longer than the call
_LARGE: Final = 64 * KIB  # more than a buffered reader asks for to find the end of a head


class Wait:
    """What one reader of a socket waits under, ``idle`` seconds for a next byte; ``failure`` is what it met with."""

    __slots__ = ("context", "failure", "idle")

    def __init__(self, context: Context, idle: float) -> None:
        self.context = context
        self.idle = idle
        self.failure: OSError | None = None


class _Punctual(socket.socket):
    """Bounds each receive by its context; ends cleanly first and complains second.

    The buffered reader above forgets what it has when a receive raises. Told "end of stream" instead, it hands out
    those bytes. The next receive raises what had happened, which is ``broken``.
    """

    _wait: Wait  # not in __init__, which ssl does not call
    broken: OSError | None = None

    def wait_under(self, context: Context, *, idle: float) -> Wait:
        """Let what is received from now on end with ``context``, and no wait for a byte last over ``idle`` seconds.

        What is returned tells of this reader's failure alone: at the end of a body the socket is somebody else's.
        """
        self._wait = Wait(context, idle)
        return self._wait

    def recv(self, bufsize: int = 1024, flags: int = 0) -> bytes:  # the stubs of ssl have a default
        """As :meth:`recv_into`. TLS within TLS receives so."""
        buffer = bytearray(bufsize)
        count = self.recv_into(buffer, bufsize, flags)
        return bytes(buffer[:count])

    def recv_into(self, buffer: Any, nbytes: int | None = 0, flags: int = 0) -> int:
        if self.broken is not None:
            self._wait.failure = self.broken
            raise self.broken
        try:
            return self._receive(buffer, nbytes or 0, flags)
        except OSError as error:
            self.broken = self._wait.failure = error
            return 0

    def _receive(self, buffer: Any, nbytes: int, flags: int) -> int:
        """Receive while there is time, or not at all once nobody waits for it."""
        context = self._wait.context
        end = monotonic() + min(self._wait.idle, context.deadline.left)
        while True:
            context.check()
            left = end - monotonic()
            if left <= 0:
                raise TimeoutError("nothing came")
            try:
                return self._receive_within(min(left, SLICE), buffer, nbytes, flags)
            except TimeoutError:
                continue

    def _receive_within(self, seconds: float, buffer: Any, nbytes: int, flags: int) -> int:
        """Receive once; ``TimeoutError`` if nothing comes within ``seconds``."""
        if seconds != self.gettimeout():
            self.settimeout(seconds)
        return super().recv_into(buffer, nbytes, flags)


class PunctualSocket(_Punctual):
    """A plain socket that keeps time.

    It waits in the kernel, for as long as SO_RCVTIMEO says (socket(7)). Python would call poll(2) before each receive,
    and let go of the interpreter twice for each, which is what many streams at once fight over. For the same reason a
    large buffer is filled by one call, MSG_WAITALL: it returns with what has come when the time is over.
    """

    _slice: float | None = None

    def _receive_within(self, seconds: float, buffer: Any, nbytes: int, flags: int) -> int:
        if (nbytes or len(buffer)) >= _LARGE:
            flags |= _FILL
        if self.gettimeout() is not None:
            self.settimeout(None)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval(self._wait.idle))  # of the next request
        if seconds != self._slice:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval(seconds))
            self._slice = seconds
        try:
            return socket.socket.recv_into(self, buffer, nbytes, flags)
        except BlockingIOError:
            raise TimeoutError("nothing came") from None


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
        """Read records until none comes for a while, the time is over or something happens; the next receive then tells
        what.
        """
        records = self._sslobj  # type: ignore[attr-defined]  # not in its stubs
        filled = 0
        if records is None:
            return filled
        try:
            while filled < len(view) and self._wait.context.deadline.left > 0:
                count: int = records.read(len(view) - filled, view[filled:])
                if count == 0:
                    break
                filled += count
        except (ssl.SSLEOFError, TimeoutError):
            pass
        except OSError as error:
            self.broken = self._wait.failure = error
        return filled
