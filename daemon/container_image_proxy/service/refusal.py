"""Answers that the server gives on its own, before or instead of the application.

Owns the clients that were turned away at accept until they had time to read why; none of them costs a thread.
"""

from __future__ import annotations

import collections
import contextlib
import socket
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from container_image_proxy.service.http_date import http_date
from container_image_proxy.service.problem import problem

if TYPE_CHECKING:
    from container_image_proxy.service.request_head import RefusedRequestError

KEPT: Final = 32
_RETRYABLE: Final = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.SERVICE_UNAVAILABLE}


def refusal(error: RefusedRequestError, *, head_only: bool = False) -> tuple[bytes, bytes]:
    """Head and body of a problem document as an HTTP/1.1 answer after which the connection closes."""
    status = error.status
    headers = () if error.retry_after is None else (("Retry-After", str(error.retry_after)),)
    members = {"retryable": status in _RETRYABLE}
    answer = problem(status, error.code, str(error), members=members, headers=headers)
    lines = (*answer.headers, ("Date", http_date()), ("Connection", "close"))
    fields = "".join(f"{name}: {value}\r\n" for name, value in lines)
    head = f"HTTP/1.1 {status:d} {status.phrase}\r\n{fields}\r\n".encode("ascii")
    return head, b"" if head_only or not isinstance(answer.body, bytes) else answer.body


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
        if len(self._waiting) == KEPT:
            self._close_oldest()
        self._waiting.append((time.monotonic() + self._seconds, sock))

    def due(self) -> float | None:
        """When the next one ends (monotonic clock)."""
        return self._waiting[0][0] if self._waiting else None

    def run(self) -> None:
        """Close those whose time is over."""
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            self._close_oldest()

    def close(self) -> None:
        """Close all."""
        while self._waiting:
            self._close_oldest()

    def _close_oldest(self) -> None:
        self._waiting.popleft()[1].close()
