"""Bytes to and from one client, each wait bounded.

Owns the descriptors of a connection, and knows nothing of HTTP. A socket waits in the kernel, for as long as
SO_RCVTIMEO and SO_SNDTIMEO say (socket(7)): a read is then one system call, and so is the write of a large piece,
however often the client makes room. A pipe has no such timeouts; it is non-blocking, and waits by poll(2). No payload
is copied.
"""

from __future__ import annotations

import abc
import contextlib
import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Final

from container_image_proxy.concurrency.kernel_time import timeval
from container_image_proxy.errors import Error

if TYPE_CHECKING:
    from collections.abc import Sequence

_RECEIVE_SIZE: Final = 64 * 1024
_LINGER_READS: Final = 16  # of _RECEIVE_SIZE: what a refused client may still send
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


class PeerGoneError(Error):
    """The client closed the connection before it had its answer."""


class PeerStalledError(PeerGoneError):
    """The client did not send or take any bytes within its time."""


class Channel(abc.ABC):
    """Two descriptors, or one socket. One thread uses it, others may :meth:`stop_reading` and :meth:`abort`."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing

    @property
    def descriptor(self) -> int:
        """The one that hangs up (poll(2)) when the client has left."""
        return self._writing

    @abc.abstractmethod
    def receive(self, seconds: float) -> bytes:
        """What the client sent next, 64 KiB at most, ``b""`` at its end; :class:`PeerStalledError` after that time."""

    def send(self, buffers: Sequence[bytes | memoryview], seconds: float) -> None:
        """Send all of ``buffers``; :class:`PeerStalledError` when the client takes nothing for ``seconds``."""
        while buffers:
            try:
                buffers = _unsent(buffers, os.writev(self._writing, buffers))
            except BlockingIOError:
                self._wait_until_writable(seconds)
            except OSError as error:
                raise _gone(error) from error

    @abc.abstractmethod
    def _wait_until_writable(self, seconds: float) -> None:
        """Return when a write that found no room can be tried again; :class:`PeerStalledError` after that time."""

    @abc.abstractmethod
    def stop_reading(self) -> None:
        """From now on :meth:`receive` yields what has already arrived and then the end."""

    @abc.abstractmethod
    def linger(self, seconds: float) -> None:
        """Say that no more will come, and give the client time to read that."""

    @abc.abstractmethod
    def abort(self) -> None:
        """Make the close a failure for the client where the socket can say so, and end waits where it can."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release the descriptors."""


class SocketChannel(Channel):
    """A connected stream socket, which it owns."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(None)
        super().__init__(sock.fileno(), sock.fileno())
        self._socket = sock
        self._patience: dict[int, float] = {}  # seconds, as the options have them

    def receive(self, seconds: float) -> bytes:
        """As for every channel."""
        self._bound(socket.SO_RCVTIMEO, seconds)
        try:
            return self._socket.recv(_RECEIVE_SIZE)
        except BlockingIOError:
            raise _silent_for(seconds) from None
        except OSError as error:
            raise _gone(error) from error

    def send(self, buffers: Sequence[bytes | memoryview], seconds: float) -> None:
        """As for every channel. What was taken in part before the client stopped counts as taken just now."""
        self._bound(socket.SO_SNDTIMEO, seconds)
        super().send(buffers, seconds)

    def _bound(self, option: int, seconds: float) -> None:
        if self._patience.get(option) != seconds:
            self._socket.setsockopt(socket.SOL_SOCKET, option, timeval(seconds))
            self._patience[option] = seconds

    def _wait_until_writable(self, seconds: float) -> None:
        raise _took_nothing(seconds)

    def stop_reading(self) -> None:
        """Shut down for reading: the client's next write fails, what it wrote before is still here."""
        self._shut_down(socket.SHUT_RD)

    def linger(self, seconds: float) -> None:
        """Shut down for writing and discard a bounded amount of what the client still sends."""
        self._shut_down(socket.SHUT_WR)
        deadline = time.monotonic() + seconds
        with contextlib.suppress(PeerGoneError):
            for _ in range(_LINGER_READS):
                if not self.receive(deadline - time.monotonic()):
                    return

    def abort(self) -> None:
        """A Unix socket has no reset and is shut down; TCP resets at close, which a FIN before it would spoil."""
        if self._socket.family == socket.AF_UNIX:
            self._shut_down(socket.SHUT_RDWR)
        else:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._shut_down(socket.SHUT_RD)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _shut_down(self, how: int) -> None:
        with contextlib.suppress(OSError):  # the client was faster
            self._socket.shutdown(how)


class StdioChannel(Channel):
    """A pair of inherited descriptors, by default stdin and stdout; their blocking mode is restored at close."""

    def __init__(self, reading: int, writing: int) -> None:
        super().__init__(reading, writing)
        self._blocking = {descriptor: os.get_blocking(descriptor) for descriptor in (reading, writing)}
        for descriptor in self._blocking:
            os.set_blocking(descriptor, False)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopped = False
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(reading, select.POLLIN)
        self._readable.register(self._stop, select.POLLIN)
        self._writable.register(writing, select.POLLOUT)

    def receive(self, seconds: float) -> bytes:
        """As for every channel."""
        deadline = time.monotonic() + seconds
        while self._readable.poll(max(0.0, deadline - time.monotonic()) * 1000):
            try:
                return os.read(self._reading, _RECEIVE_SIZE)
            except BlockingIOError:
                if self._stopped:
                    return b""
            except OSError as error:
                raise _gone(error) from error
        raise _silent_for(seconds)

    def _wait_until_writable(self, seconds: float) -> None:
        if not self._writable.poll(seconds * 1000):
            raise _took_nothing(seconds)

    def stop_reading(self) -> None:
        """Wake the reader through an event of our own, since a pipe cannot be shut down."""
        self._stopped = True
        os.eventfd_write(self._stop, 1)

    def linger(self, seconds: float) -> None:
        """Nothing to wait for: what a pipe holds stays readable after the close."""

    def abort(self) -> None:
        """Stop reading; a pipe has no other failure than its end."""
        self.stop_reading()

    def close(self) -> None:
        """Close both descriptors, with their blocking mode as it was."""
        os.close(self._stop)
        for descriptor, blocking in self._blocking.items():
            with contextlib.suppress(OSError):
                os.set_blocking(descriptor, blocking)
                os.close(descriptor)


def _gone(error: OSError) -> PeerGoneError:
    return PeerGoneError(f"the client is gone: {error.strerror}")


def _silent_for(seconds: float) -> PeerStalledError:
    return PeerStalledError(f"the client sent nothing within {seconds:g} s")


def _took_nothing(seconds: float) -> PeerStalledError:
    return PeerStalledError(f"the client took nothing for {seconds:g} s")


def _unsent(buffers: Sequence[bytes | memoryview], sent: int) -> Sequence[bytes | memoryview]:
    for position, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *buffers[position + 1 :]]
        sent -= len(buffer)
    return ()
