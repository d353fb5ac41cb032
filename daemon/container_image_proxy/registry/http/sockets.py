"""Sockets that keep a deadline: a receive lasts no longer than its context allows.

A socket's own time-out is for each receive. It does not end an exchange in which a byte comes now and then, and such an
exchange would hold a thread for ever. These sockets therefore consult their context at each receive. While they wait,
they also notice when nobody wants the content any more.
Must not know what is received. Spec: socket(7), recv(2).
"""

from __future__ import annotations

import socket
import ssl
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from container_image_proxy.concurrency.cancellation import SLICE, CancelledError
from container_image_proxy.concurrency.kernel_time import timeval
from container_image_proxy.config.limits import KIB

if TYPE_CHECKING:
    from container_image_proxy.concurrency.context import Context

_FILL: Final = int(socket.MSG_WAITALL)  # as a member of an enumeration it would take longer than the call
_LARGE: Final = 64 * KIB  # more than a buffered reader asks for to find the end of a head


class Wait:
    """One reader's bounds: until ``end`` (monotonic seconds), and ``idle`` seconds for each next byte. ``failure`` is
    what it met with.
    """

    __slots__ = ("cancellation", "end", "failure", "idle")

    def __init__(self, context: Context, idle: float) -> None:
        self.cancellation = context.cancellation
        self.end = context.deadline.at
        self.idle = idle
        self.failure: OSError | None = None


class _Punctual(socket.socket):
    """Bounds each receive by its context. A failure is first told as the end of the stream, and raised the next time.

    The buffered reader above forgets the bytes that it has when a receive raises. Told "end of stream" instead, it
    hands them out. The next receive raises the failure, which is ``broken``.
    """

    wait: Wait  # not in __init__, which ssl does not call
    """The present reader's bounds. Who reads many pieces sets the same object again and again."""
    broken: OSError | None = None

    def wait_under(self, context: Context, *, idle: float) -> Wait:
        """Bound all receives from now on by ``context``, and each wait for a byte by ``idle`` seconds.

        The returned object tells of failures of this reader alone: after the end of a body the next request uses the
        socket.
        """
        self.wait = Wait(context, idle)
        return self.wait

    def recv(self, bufsize: int = 1024, flags: int = 0) -> bytes:  # the stubs of ssl have a default
        """As :meth:`recv_into`. urllib3's TLS within TLS calls this one."""
        buffer = bytearray(bufsize)
        count = self.recv_into(buffer, bufsize, flags)
        return bytes(buffer[:count])

    def recv_into(self, buffer: Any, nbytes: int | None = 0, flags: int = 0) -> int:
        if self.broken is not None:
            self.wait.failure = self.broken
            raise self.broken
        try:
            return self._receive(buffer, nbytes or 0, flags)
        except OSError as error:
            self.broken = self.wait.failure = error
            return 0

    def _receive(self, buffer: Any, nbytes: int, flags: int) -> int:
        """Receive as long as there is time and somebody waits for it. Raises ``TimeoutError``, ``CancelledError``."""
        wait = self.wait
        now = monotonic()
        end = min(now + wait.idle, wait.end)
        while True:
            if wait.cancellation.is_cancelled:
                raise CancelledError
            left = end - now
            if left <= 0:
                raise TimeoutError("nothing came")
            try:
                return self._receive_within(min(left, SLICE), buffer, nbytes, flags)
            except TimeoutError:
                now = monotonic()

    def _receive_within(self, seconds: float, buffer: Any, nbytes: int, flags: int) -> int:
        """Receive once. Raises ``TimeoutError`` if nothing comes within ``seconds``."""
        if seconds != self.gettimeout():
            self.settimeout(seconds)
        return super().recv_into(buffer, nbytes, flags)


class PunctualSocket(_Punctual):
    """A plain socket that keeps a deadline.

    It waits in the kernel, for as long as SO_RCVTIMEO says (socket(7)). Python would call poll(2) before each receive,
    and release the interpreter twice for each, for which many streams at once compete. For the same reason a large
    buffer is filled by one call, with MSG_WAITALL: it returns what has come when the time is over.
    """

    _slice: float | None = None

    def _receive_within(self, seconds: float, buffer: Any, nbytes: int, flags: int) -> int:
        if (nbytes or len(buffer)) >= _LARGE:
            flags |= _FILL
        if self.gettimeout() is not None:
            self.settimeout(None)
            # Without a time-out of Python's, sending the next request would block for ever.
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval(self.wait.idle))
        if seconds != self._slice:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval(seconds))
            self._slice = seconds
        try:
            return socket.socket.recv_into(self, buffer, nbytes, flags)
        except BlockingIOError:
            raise TimeoutError("nothing came") from None


class PunctualTLSSocket(_Punctual, ssl.SSLSocket):
    """A TLS socket that keeps a deadline; for ``SSLContext.sslsocket_class``."""

    def recv_into(self, buffer: Any, nbytes: int | None = 0, flags: int = 0) -> int:
        """As :class:`ssl.SSLSocket`, but a large buffer is filled: a record has 16 KiB, too little to be passed on."""
        received = super().recv_into(buffer, nbytes, flags)
        size = nbytes or len(buffer)
        if received == 0 or size < _LARGE:
            return received
        return received + self._fill(memoryview(buffer)[received:size])

    def _fill(self, view: memoryview) -> int:
        """Read records until ``view`` is full, none comes for a while, or the connection fails. Returns the number of
        bytes; the next receive raises the failure.
        """
        records = self._sslobj  # type: ignore[attr-defined]  # not in its stubs
        filled = 0
        if records is None:
            return filled
        try:
            while filled < len(view) and monotonic() < self.wait.end:
                count: int = records.read(len(view) - filled, view[filled:])
                if count == 0:
                    break
                filled += count
        except (ssl.SSLEOFError, TimeoutError):
            pass
        except OSError as error:
            self.broken = self.wait.failure = error
        return filled
