"""A relay in front of a Unix socket that loses the connection in mid-answer, as a restart or a bad cable would."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

_PIECE = 64 * 1024


@dataclass
class Cutter:
    """Listens at ``path``, with ``behind`` as what answers, from ``with`` to its end.

    The n-th connection ends after the n-th of ``cuts`` bytes of answers, later ones do not. ``requests`` holds the
    heads that came, ``sent`` how many bytes of answers went on over each connection that has ended.
    """

    path: Path
    behind: Path
    cuts: Sequence[int]
    requests: list[bytes] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._left = list(self.cuts)
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(16)
        self._accepter = threading.Thread(target=self._accept)
        self._accepter.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepter.join()
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            limit = self._left.pop(0) if self._left else None
            self._threads.append(threading.Thread(target=self._relay, args=(client, limit)))
            self._threads[-1].start()

    def _relay(self, client: socket.socket, limit: int | None) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(str(self.behind))
            asking = threading.Thread(target=self._pass_requests, args=(client, server))
            asking.start()
            self.sent.append(_pass_answers(server, client, limit))
            for side in (client, server):
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)
            asking.join()

    def _pass_requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while request := client.recv(_PIECE):
                self.requests.append(request)
                server.sendall(request)
            server.shutdown(socket.SHUT_WR)


def _pass_answers(server: socket.socket, client: socket.socket, limit: int | None) -> int:
    """Until ``limit`` bytes went on, or one side ends; how many did."""
    count = 0
    with contextlib.suppress(OSError):
        while piece := server.recv(_PIECE if limit is None else min(_PIECE, limit - count)):
            client.sendall(piece)
            count += len(piece)
    return count
