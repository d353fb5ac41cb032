"""The bound on large documents that are being sent (contrib/adr/0024).

A body stays in memory until the slowest of its clients has read it, even when its snapshot is gone. The bound is
therefore on all bodies together. A client that would exceed it is refused at once: if it waited, it would wait with a
body in memory. Blobs are not counted here, because each flows through a buffer of its own.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from container_image_proxy.concurrency.memory import SMALL
from container_image_proxy.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SIZE: Final = 16 << 20
"""Bytes of all large bodies together: four of the largest manifest."""


class LargeAnswers:
    """The large bodies that are being sent. One that several clients take, as one object, counts once. Thread-safe."""

    def __init__(self, max_size: int = MAX_SIZE) -> None:
        self._max_size = max_size
        self._lock = threading.Lock()
        self._clients: dict[int, tuple[bytes, int]] = {}  # by identity: the body, and how many clients take it

    def hold(self, body: bytes) -> bytes | HeldBody:
        """The body as it is to be sent. Raises :class:`OverloadedError` if there is no room for it."""
        if len(body) <= SMALL:  # the number of connections bounds these
            return body
        with self._lock:
            _, clients = self._clients.get(id(body), (body, 0))
            others = sum(len(other) for other, _ in self._clients.values() if other is not body)
            if others and others + len(body) > self._max_size:
                raise OverloadedError("too many clients are taking large answers at the moment")
            self._clients[id(body)] = body, clients + 1
        return HeldBody(self, body)

    def release(self, body: bytes) -> None:
        """Take note that one client less takes ``body``."""
        with self._lock:
            _, clients = self._clients.pop(id(body))
            if clients > 1:
                self._clients[id(body)] = body, clients - 1


class HeldBody:
    """A large body as a WSGI application returns it (PEP 3333)."""

    def __init__(self, answers: LargeAnswers, body: bytes) -> None:
        self._answers = answers
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        yield self._body

    def close(self) -> None:
        """Release the body: it has been sent, or will not be."""
        self._answers.release(self._body)
