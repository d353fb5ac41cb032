"""An upstream that misbehaves on command: a raw-socket HTTP server whose every byte a test decides.

``Upstream(handler)`` calls ``handler(request, connection)`` for each request; the handler sends what it likes, or
nothing, or resets the connection. Ready-made handlers below. Nothing sleeps: who stalls waits for its peer or the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import ssl
import struct
import termios
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.support.layouts import StoredImage

_REASONS = {200: "OK", 206: "Partial Content", 304: "Not Modified", 307: "Temporary Redirect", 401: "Unauthorized"}
_PIECE = 64 * 1024
_MOMENT = 0.001
_TLS_HANDSHAKE = b"\x16"  # the first byte of a ClientHello record (RFC 8446 section 5.1)


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as it came; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def range(self, size: int) -> tuple[int, int] | None:
        """First and last byte of a closed Range; None without one."""
        value = self.headers.get("range")
        if value is None:
            return None
        first, last = value.removeprefix("bytes=").split("-")
        return int(first), min(int(last), size - 1)


class Connection:
    """One accepted connection. ``number`` counts from 0; ``sent`` counts bytes."""

    def __init__(self, sock: socket.socket, number: int, stopping: threading.Event) -> None:
        self.socket = sock
        self.number = number
        self.sent = 0
        self.ended = False
        self._stopping = stopping

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)
        self.sent += len(data)

    def head(self, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send a response's head as given, nothing added."""
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Some Status')}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def answer(self, status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send a whole, right response."""
        self.head(status, {"Content-Length": str(len(body)), **(headers or {})})
        self.send(body)

    def wait_for_end(self) -> None:
        """Do nothing until the peer closes or the server stops."""
        with contextlib.suppress(OSError):
            while self.socket.recv(_PIECE):
                pass

    def pause(self, seconds: float) -> bool:
        """Let time pass; False once the server stops."""
        return not self._stopping.wait(seconds)

    def close(self) -> None:
        """End cleanly: what was sent arrives, then end of stream."""
        self.ended = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._close()

    def reset(self) -> None:
        """End with RST, after the peer's system has acknowledged what was sent."""
        self.ended = True
        while fcntl.ioctl(self.socket, termios.TIOCOUTQ, b"\0\0\0\0") != b"\0\0\0\0" and self.pause(_MOMENT):
            pass
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._close()

    def _close(self) -> None:
        """Close the descriptor itself, now: the stream that reads requests would keep the socket open."""
        descriptor = self.socket.detach()
        if descriptor >= 0:
            os.close(descriptor)


Handler = Callable[[ReceivedRequest, Connection], None]


@dataclass
class Upstream:
    """The server, from ``with`` to its end; a thread for each connection. ``host`` may be any 127.x.y.z, or ::1."""

    handler: Handler
    host: str = "127.0.0.1"
    port: int = 0
    tls: ssl.SSLContext | None = None
    requests: list[ReceivedRequest] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    client_certificates: list[bool] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._listener = socket.create_server((self.host, self.port), family=family, backlog=128)
        self.port = self._listener.getsockname()[1]
        self._accepter = threading.Thread(target=self._accept, name="upstream-accept")
        self._accepter.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepter.join()
        self._listener.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}"

    def paths(self) -> list[str]:
        """The paths asked for, in order."""
        return [request.path for request in self.requests]

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(accepted, len(self.connections), self._stopping)
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), name=f"upstream-{connection.number}")
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            if not self.tls and connection.socket.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE:
                return  # as real servers do, instead of waiting for a line to end
            if self.tls:
                connection.socket = self.tls.wrap_socket(connection.socket, server_side=True)
                self.client_certificates.append(bool(connection.socket.getpeercert()))
            with connection.socket.makefile("rb") as stream:
                while not connection.ended and (request := _read_request(stream, connection.number)):
                    if self._stopping.is_set():
                        break
                    self.requests.append(request)
                    self.handler(request, connection)
        except (OSError, ValueError):  # the peer is gone, or the handler closed the connection
            pass
        finally:
            connection.close()


def _read_request(stream: object, connection: int) -> ReceivedRequest | None:
    readline = stream.readline  # type: ignore[attr-defined]
    line = readline().decode("latin-1").split()
    if len(line) != 3:
        return None
    headers = {}
    while (header := readline().decode("latin-1").rstrip("\r\n")) != "":
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(readline(), 16):
            body += stream.read(size)  # type: ignore[attr-defined]
            readline()
        readline()
    else:
        body = stream.read(int(headers.get("content-length", 0)))  # type: ignore[attr-defined]
    return ReceivedRequest(line[0], line[1], headers, body, connection)


# --- handlers ---------------------------------------------------------------------------------------------------------


def answering(status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Handler:
    """The same whole response each time."""
    return lambda _, connection: connection.answer(status, body, headers)


def redirecting(location: str, status: int = 307) -> Handler:
    """A redirect."""
    return answering(status, headers={"Location": location})


def sending(data: bytes, *, then: Callable[[Connection], None] = Connection.close) -> Handler:
    """These very bytes, and then the end: ``Connection.close``, ``.reset`` or ``.wait_for_end`` (a stall)."""

    def handle(_: ReceivedRequest, connection: Connection) -> None:
        connection.send(data)
        then(connection)

    return handle


def stalling(_: ReceivedRequest, connection: Connection) -> None:
    """No answer at all."""
    connection.wait_for_end()


def resetting(_: ReceivedRequest, connection: Connection) -> None:
    """RST instead of an answer."""
    connection.reset()


def in_order(*handlers: Handler) -> Handler:
    """The n-th request to the n-th handler, all later ones to the last."""
    lock = threading.Lock()
    waiting = list(handlers)

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        with lock:
            handler = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        handler(request, connection)

    return handle


def by_path(routes: Mapping[str, Handler], default: Handler | None = None) -> Handler:
    """By the path's end; 404 for others unless ``default`` is given."""
    otherwise = default or answering(404, b'{"errors":[{"code":"NAME_UNKNOWN"}]}', {"Content-Type": "application/json"})

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        found = next((handler for end, handler in routes.items() if request.path.endswith(end)), otherwise)
        found(request, connection)

    return handle


def content(body: bytes, media_type: str = "application/octet-stream") -> Handler:
    """A resource that knows ranges, as registries serve blobs."""

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        wanted = request.range(len(body))
        if wanted is None:
            connection.answer(200, body, {"Content-Type": media_type})
            return
        first, last = wanted
        connection.answer(206, body[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(body)}"})

    return handle


def breaking(
    body: bytes, after: int, *, then: Callable[[Connection], None] = Connection.reset, times: int | None = None
) -> Handler:
    """As ``content``, but ``after`` bytes of each body the connection ends; ``times`` None means always."""
    left = [times]

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        wanted = request.range(len(body))
        first = wanted[0] if wanted else 0
        rest = body[first:]
        headers = {"Content-Length": str(len(rest))}
        if wanted:
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        breaks = (left[0] is None or left[0] > 0) and len(rest) > after
        connection.head(206 if wanted else 200, headers)
        connection.send(rest[:after] if breaks else rest)
        if breaks:
            left[0] = None if left[0] is None else left[0] - 1
            then(connection)

    return handle


def dripping(body: bytes, seconds: float) -> Handler:
    """One byte each ``seconds``."""

    def handle(_: ReceivedRequest, connection: Connection) -> None:
        connection.head(200, {"Content-Length": str(len(body))})
        for value in body:
            connection.send(bytes([value]))
            if not connection.pause(seconds):
                return

    return handle


def chunked(body: bytes, *, complete: bool = True, headers: Mapping[str, str] | None = None) -> Handler:
    """``Transfer-Encoding: chunked``; without its last chunk, and closed, if not ``complete``."""

    def handle(_: ReceivedRequest, connection: Connection) -> None:
        connection.head(200, {"Transfer-Encoding": "chunked", **(headers or {})})
        for start in range(0, len(body), _PIECE):
            piece = body[start : start + _PIECE]
            connection.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        if complete:
            connection.send(b"0\r\n\r\n")
        else:
            connection.close()

    return handle


def image(stored: StoredImage, tag: str = "latest") -> dict[str, Handler]:
    """Routes of a registry that has this image; for ``by_path``, to be changed where it shall misbehave."""
    manifest = content(stored.manifest, stored.descriptor["mediaType"])
    return {
        f"/manifests/{tag}": manifest,
        f"/manifests/{stored.digest}": manifest,
        **{f"/blobs/{digest}": content(blob) for digest, blob in stored.blobs.items()},
    }
