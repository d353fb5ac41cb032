"""The server of the service layer in a thread of the test, and clients that speak to it byte by byte."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from container_image_proxy.faces.http.limits import ServerLimits
from container_image_proxy.service.server import Server
from tests.support.requirements import require_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from container_image_proxy.core.peer import Peer

PATIENCE = 10.0
DEFAULTS = ServerLimits()
GET = b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Running:
    server: Server
    path: Path
    thread: threading.Thread

    def connect(self) -> socket.socket:
        return connect(self.path)

    def ask(self, request: bytes = GET) -> Answer:
        """One request on a connection of its own."""
        with self.connect() as client:
            client.sendall(request)
            return read_answer(client)

    def join(self) -> None:
        """Wait until the server has ended by itself."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the server does not end"


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    body = environ["PATH_INFO"].encode("latin-1")
    start_response("200 OK", [("Content-Length", str(len(body))), ("Content-Type", "text/plain")])
    return [body]


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    try:
        client.connect(str(path))
    except OSError:
        client.close()
        raise
    return client


def listen(path: Path, backlog: int = 128) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(backlog)
    return listener


@contextlib.contextmanager
def running(
    path: Path,
    application: Callable[..., Any] = hello,
    limits: ServerLimits = DEFAULTS,
    *,
    admit: Callable[[Peer], bool] = lambda _peer: True,
    listener: socket.socket | None = None,
) -> Iterator[Running]:
    """A server on ``path`` until the end of the block; what it still does then must end by itself."""
    server = Server([listener or listen(path)], application, limits, admit)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield Running(server, path, thread)
    finally:
        server.stop()
        thread.join(PATIENCE)
    assert not thread.is_alive(), "the server does not stop"


def read_answer(client: socket.socket, *, head_only: bool = False) -> Answer:
    """One answer that has a Content-Length or ends with the connection."""
    with client.makefile("rb") as stream:
        return read_next(stream, head_only=head_only)


def read_next(stream: BinaryIO, *, head_only: bool = False) -> Answer:
    """The next of several answers, each with a Content-Length."""
    status_line = stream.readline()
    assert status_line.startswith(b"HTTP/1.1 "), f"no status line: {status_line!r}"
    headers = {}
    while (line := stream.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    body = b"" if head_only else stream.read(int(headers.get("content-length", -1)))
    return Answer(int(status_line.split()[1]), headers, body)


def read_all(client: socket.socket) -> bytes:
    """Everything until the end of the connection, by whichever side and however."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(1 << 16):
            received += data
    return bytes(received)


@contextlib.contextmanager
def abstract_listener(backlog: int = 128) -> Iterator[tuple[socket.socket, str]]:
    """A listening Unix socket without a path, which any user can reach, and its name with ``@`` for the NUL."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # autobind: the kernel chooses an abstract name (unix(7))
        listener.listen(backlog)
        listener.settimeout(PATIENCE)
        yield listener, listener.getsockname().replace(b"\0", b"@").decode("ascii")


_EXCHANGE = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1].replace("@", "\\0").encode())
client.sendall(sys.stdin.buffer.read())
while data := client.recv(1 << 16):
    sys.stdout.buffer.write(data)
"""


def exchange_as(name: str, request: bytes, uid: int, gid: int, groups: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """A process of that user that sends ``request`` to an abstract socket and prints everything that comes back."""
    require_root("another user connects")
    process = subprocess.Popen(
        [os.path.realpath(sys.executable), "-I", "-S", "-c", _EXCHANGE, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
        user=uid,
        group=gid,
        extra_groups=groups,
    )
    assert process.stdin is not None
    process.stdin.write(request)
    process.stdin.close()
    process.stdin = None
    return process
