"""The least HTTP client there can be: GET after GET on one connection, so that the server is what is timed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from benchmarking.images import MANIFEST

if TYPE_CHECKING:
    import socket

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RECEIVE_SIZE: Final = 64 * 1024


class KeepAliveClient:
    """A client on a connected stream socket, which it does not own."""

    def __init__(self, connection: socket.socket, path: str) -> None:
        self._connection = connection
        self._request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {MANIFEST}\r\n\r\n".encode()

    def get(self) -> int:
        """Send the request and read the whole answer, which must be 200; the size of its body."""
        self._connection.sendall(self._request)
        received = b""
        while not (head := received.partition(b"\r\n\r\n"))[1]:
            received += self._receive()
        length = _LENGTH.search(head[0])
        if not received.startswith(b"HTTP/1.1 200 ") or length is None:
            raise RuntimeError(f"no manifest but: {received.decode(errors='replace')}")
        missing = int(length[1]) - len(head[2])
        while missing > 0:
            missing -= len(self._receive())
        return int(length[1])

    def _receive(self) -> bytes:
        data = self._connection.recv(_RECEIVE_SIZE)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data
