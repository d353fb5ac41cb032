"""Connections that are turned away at accept: which of them are told why, and what the log says of them.

Any local user can connect as fast as the kernel allows, so turning away costs no thread and no line of the log. A user
who is denied is told why a few times, and then only counted. The log gets one line for the first connection and one for
all of a period. The memory is bounded, whatever the number of connections and users.

For the accept loop's thread, or under a lock.
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
"""Descriptors: connections that have their refusal and were not closed yet; one more ends the oldest."""
MAX_TOLD: Final = 32
"""How often a denied user is told so in a period: more than a client needs that tries again each second."""
MAX_NAMED: Final = 16
"""Users whom the log tells apart in a period. Whoever has subordinate uids (subuid(5)) can be 65536 of them."""
PERIOD_SECONDS: Final = 10.0

_log = logging.getLogger(__name__)


class _Tally(
    Struct,
):
    """How many connections of a user were turned away for a reason in this period."""

    level: int
    whose: str
    reason: str
    fields: dict[str, object]
    count: int = 0


class TurnedAway:
    """Takes over the sockets of those who are turned away, and closes them. A timer of the loop."""

    def __init__(self, linger_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._linger_seconds = linger_seconds
        self._clock = clock
        self._lingering: collections.deque[tuple[float, socket.socket]] = collections.deque()
        self._tallies: dict[tuple[int | None, str], _Tally] = {}
        self._period_end = 0.0
        self._crowded_until = 0.0

    @property
    def crowded_until(self) -> float:
        """When nobody will have connected in a loop for a while, as far as is known now (monotonic clock)."""
        return self._crowded_until

    def add(
        self,
        sock: socket.socket,
        peer: Peer,
        error: RefusedRequestError,
        refusal: Callable[[RefusedRequestError], bytes],
    ) -> bool:
        """Count a connection and tell it why it is turned away, by ``refusal``; False if its user has been told often
        enough.

        Who may come back later is told always.
        """
        count = self.count(1, peer, error)
        if error.retry_after is None and count > MAX_TOLD:
            self._crowded_until = self._period_end + PERIOD_SECONDS
            sock.close()
            return False
        self._tell(sock, refusal(error))
        return True

    def count(self, number: int, peer: Peer, error: RefusedRequestError) -> int:
        """Count connections that were turned away; how many there were in this period."""
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
        """Send ``answer`` without waiting and keep ``sock`` for a moment: a close at once would break the client's
        request before it reads.
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
        """When there is something to :meth:`run` for (monotonic clock)."""
        moments = [self._lingering[0][0]] if self._lingering else []
        if self._tallies:
            moments.append(self._period_end)
        return min(moments, default=None)

    def run(self) -> None:
        """Close those who had their time to read, and report on a period that is over."""
        now = self._clock()
        while self._lingering and self._lingering[0][0] <= now:
            self._close_oldest()
        if self._period_end <= now:
            self._report()

    def close(self) -> None:
        """Close all, and report what has not been reported."""
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
