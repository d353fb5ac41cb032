"""Connections that are turned away at accept: which of them are told why, and what the log says of them.

Any local user can connect as fast as the kernel allows, so turning away costs no thread and no line of the log. A user
who is denied is told why a few times, and then only counted. The log gets one line for the first connection, and one
for all of a period. The memory is bounded, whatever the number of connections and users.
Must not decide who is turned away, which the server does.
"""

from __future__ import annotations

import collections
import logging
import socket
import time
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.core.peer import Peer
    from container_image_proxy.faces.http.request_head import RefusedRequestError

MAX_LINGERING: Final = 32
"""Connections that have their refusal and are not closed yet. One more closes the oldest."""
MAX_TOLD: Final = 32
"""Refusals that a denied user is sent in a period: more than a client gets that tries again each second."""
MAX_NAMED: Final = 16
"""Users that the log tells apart in a period. Whoever has subordinate uids (subuid(5)) can be 65536 users."""
PERIOD_SECONDS: Final = 10.0
"""Seconds for which connections are counted together."""

_log = logging.getLogger(__name__)


class _Tally(Struct):
    """The number of connections of a user that were turned away for one reason in this period, and how to log it."""

    level: int
    whose: str
    reason: str
    fields: dict[str, object]
    count: int = 0


class TurnedAway:
    """Takes over the sockets of peers that are turned away, and closes them. A timer of the loop.

    The loop's thread uses it, or several under a lock.
    """

    def __init__(self, linger_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._linger_seconds = linger_seconds
        self._clock = clock
        self._lingering: collections.deque[tuple[float, socket.socket]] = collections.deque()
        self._tallies: dict[tuple[int | None, str], _Tally] = {}
        self._period_end = 0.0
        self._crowded_until = 0.0

    @property
    def crowded_until(self) -> float:
        """Until when peers count as connecting in a loop, as far as is known now (monotonic clock)."""
        return self._crowded_until

    def add(
        self,
        sock: socket.socket,
        peer: Peer,
        error: RefusedRequestError,
        refusal: Callable[[RefusedRequestError], bytes],
    ) -> bool:
        """Count a connection, send it its ``refusal``, and close it after a moment.

        Returns False if its user has been told often enough: then it is closed at once. A peer that may come back later
        is always told.
        """
        count = self.count(1, peer, error)
        if error.retry_after is None and count > MAX_TOLD:
            self._crowded_until = self._period_end + PERIOD_SECONDS
            sock.close()
            return False
        self._tell(sock, refusal(error))
        return True

    def count(self, number: int, peer: Peer, error: RefusedRequestError) -> int:
        """Count ``number`` connections that were turned away. Returns how many there were in this period."""
        tally = self._tallies.get((peer.uid, error.code)) or self._begin_tally(peer, error)
        tally.count += number
        return tally.count

    def _begin_tally(self, peer: Peer, error: RefusedRequestError) -> _Tally:
        if not self._tallies:
            self._period_end = self._clock() + PERIOD_SECONDS
        if len(self._tallies) >= MAX_NAMED:
            return self._tallies.setdefault((None, ""), _Tally(logging.INFO, "other users", "as others before", {}))
        fields: dict[str, object] = {"PEER_UID": peer.uid}
        level = logging.INFO if error.retry_after is None else logging.WARNING
        _log.log(level, "turned away %s: %s", peer, error, extra={"fields": {**fields, "PEER_PID": peer.pid}})
        tally = self._tallies[peer.uid, error.code] = _Tally(level, peer.user, str(error), fields)
        return tally

    def _tell(self, sock: socket.socket, answer: bytes) -> None:
        """Send ``answer`` without waiting, and keep ``sock`` open for a moment.

        If it were closed at once, the client's request would fail (EPIPE) before it reads the answer.
        """
        try:
            sock.settimeout(0)
            sock.send(answer)
            sock.shutdown(socket.SHUT_WR)
        except OSError:  # gone already
            sock.close()
            return
        if len(self._lingering) == MAX_LINGERING:
            self._close_oldest()
        self._lingering.append((self._clock() + self._linger_seconds, sock))

    def due(self) -> float | None:
        """When the next socket is to be closed or a period ends, on the monotonic clock."""
        moments = [self._lingering[0][0]] if self._lingering else []
        if self._tallies:
            moments.append(self._period_end)
        return min(moments, default=None)

    def run(self) -> None:
        """Close the sockets whose peers had their time to read, and log a period that is over."""
        now = self._clock()
        while self._lingering and self._lingering[0][0] <= now:
            self._close_oldest()
        if self._period_end <= now:
            self._report()

    def close(self) -> None:
        """Close all sockets, and log what has not been logged."""
        while self._lingering:
            self._close_oldest()
        self._report()

    def _close_oldest(self) -> None:
        _, sock = self._lingering.popleft()
        sock.close()

    def _report(self) -> None:
        for tally in self._tallies.values():
            if tally.count > 1:
                values = (tally.count, tally.whose, PERIOD_SECONDS, tally.reason)
                fields = {**tally.fields, "CONNECTIONS": tally.count}
                text = "turned away %d connections of %s in the last %d s: %s"
                _log.log(tally.level, text, *values, extra={"fields": fields})
        self._tallies.clear()
