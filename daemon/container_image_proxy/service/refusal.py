"""Answers that the server gives on its own, before or instead of the application.

Owns the clients that were turned away at accept until they had time to read why; none of them costs a thread.
"""

from __future__ import annotations

import collections
import contextlib
import json
import socket
import time
from http import HTTPStatus
from typing import Final

_KEPT: Final = 32


def plain_problem(status: int, title: str, detail: str, code: str, *fields: str, head_only: bool = False) -> bytes:
    """An RFC 9457 problem as a whole HTTP/1.1 answer that closes; ``fields`` are more header lines."""
    problem = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}
    body = json.dumps(problem).encode()
    lines = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *fields,
    )
    return "\r\n".join((*lines, "", "")).encode("ascii") + (b"" if head_only else body)


class TurnedAway:
    """Connections that have their refusal and stay open for a moment: a close at once would break the client's request.

    At most 32 wait; one more ends the oldest.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: collections.deque[tuple[float, socket.socket]] = collections.deque()

    def add(self, sock: socket.socket, answer: bytes) -> None:
        """Send ``answer`` without waiting and keep ``sock`` for its time."""
        with contextlib.suppress(OSError):  # gone already
            sock.settimeout(0)
            sock.send(answer)
            sock.shutdown(socket.SHUT_WR)
        if len(self._waiting) == _KEPT:
            self._close_oldest()
        self._waiting.append((time.monotonic() + self._seconds, sock))

    def due(self) -> float | None:
        """When the next one ends (monotonic clock)."""
        return self._waiting[0][0] if self._waiting else None

    def close_due(self) -> None:
        """Close those whose time is over."""
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            self._close_oldest()

    def close(self) -> None:
        """Close all."""
        while self._waiting:
            self._close_oldest()

    def _close_oldest(self) -> None:
        self._waiting.popleft()[1].close()
