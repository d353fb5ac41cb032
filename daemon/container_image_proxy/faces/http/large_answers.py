"""The bound on answers with a large body that clients are taking.

A body stays in memory until the slowest of its clients has read it, even when its snapshot is gone. The bound is
therefore on all bodies together. A client that exceeds it is refused at once: if it waited, it would wait with a body
in memory. A blob is no such body, because it flows through a buffer of its own.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from container_image_proxy.concurrency.memory import SMALL
from container_image_proxy.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SIZE: Final = 16 << 20  # bytes


class LargeAnswers:
    """The bodies under way. One that several clients take, since it is the same object, counts once. Thread-safe."""

    def __init__(self, max_size: int = MAX_SIZE) -> None:
        self._max_size = max_size
        self._lock = threading.Lock()
        self._clients: dict[int, tuple[bytes, int]] = {}  # by identity: how many take it

    def hold(self, body: bytes) -> bytes | HeldBody:
        """The body as it is to be sent; :class:`OverloadedError` if there is no room for it."""
        if len(body) <= SMALL:  # bounded by how many clients there can be
            return body
        with self._lock:
            _, clients = self._clients.get(id(body), (body, 0))
            others = sum(len(other) for other, _ in self._clients.values() if other is not body)
            if others and others + len(body) > self._max_size:
                raise OverloadedError("too many clients are taking large answers at the moment")
            self._clients[id(body)] = body, clients + 1
        return HeldBody(self, body)

    def release(self, body: bytes) -> None:
        """One client less takes it."""
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
        """It has been sent, or will not be."""
        self._answers.release(self._body)
