"""A SOCKS5 proxy on loopback (RFC 1928), which alone knows where the names of a test are."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


@dataclass
class SocksServer:
    """``ways`` leads from a host that is asked for to the address that is connected to.

    ``login`` is demanded if it is set; ``reply`` other than 0 is what every request gets; ``answer`` replaces the whole
    conversation by these bytes.
    """

    ways: Mapping[str, str] = field(default_factory=dict)
    login: tuple[bytes, bytes] | None = None
    reply: int = 0
    answer: bytes | None = None
    asked: list[tuple[str, int]] = field(default_factory=list)
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> Self:
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._sockets):
            one.close()

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._sockets.append(client)
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self.answer is not None:
                client.recv(1024)
                client.sendall(self.answer)
                client.shutdown(socket.SHUT_WR)
                client.recv(1024)
                return
            there = self._negotiate(client)
            self._sockets.append(there)
            self._start(_pump, there, client)
            _pump(client, there)
            return
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _negotiate(self, client: socket.socket) -> socket.socket:
        version, count = _take(client, 2)
        methods = _take(client, count)
        wanted = 2 if self.login else 0
        client.sendall(bytes([version, wanted if wanted in methods else 0xFF]))
        if wanted == 2:
            self._log_in(client)
        _, command, _, kind = _take(client, 4)
        size = {1: 4, 4: 16}.get(kind) or _take(client, 1)[0]
        raw, port = _take(client, size), int.from_bytes(_take(client, 2), "big")
        host = raw.decode() if kind == 3 else str(ipaddress.ip_address(raw))
        self.asked.append((host, port))
        bound = b"\x03\x05proxy" if self.ways else b"\x01\0\0\0\0"  # a name as the address is unusual, and allowed
        client.sendall(bytes([5, self.reply, 0]) + bound + b"\0\0")
        if self.reply or command != 1:
            raise ValueError
        return socket.create_connection((self.ways.get(host, host), port))

    def _log_in(self, client: socket.socket) -> None:
        _, size = _take(client, 2)
        user = _take(client, size)
        password = _take(client, _take(client, 1)[0])
        self.logins.append((user, password))
        client.sendall(b"\x01" + (b"\0" if (user, password) == self.login else b"\1"))


def _take(client: socket.socket, size: int) -> bytes:
    """So many bytes, one by one: nothing may depend on how they come."""
    received = b""
    while len(received) < size:
        piece = client.recv(1)
        if not piece:
            raise ValueError
        received += piece
    return received


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
