"""The table of open connections, with a limit for all and a limit for each user.

A client that closed its connection counts as departed, and its user may connect again at once. A client that merely
stopped sending does not. A Unix socket tells the two apart (``POLLHUP`` of poll(2)), and a pipe has two ends for it.
TCP does not tell them apart; the next write finds out.

The thread of a departed client counts until it ends, because not every wait for upstream can be woken
(contrib/adr/0014). It counts against the limit for all and twice the user's, so that nobody piles up threads by
connecting and leaving.

The last places are for users who have none. A few users together cannot keep everybody else out.

Must not parse, answer, or decide who may connect.
"""

from __future__ import annotations

import contextlib
import select
import threading
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from container_image_proxy.core.peer import Peer


_SHARE_RESERVED: Final = 8  # one of so many places is for users who have none


class Channel(Protocol):
    """The descriptors of a connection, as far as they concern the table."""

    @property
    def descriptor(self) -> int:
        """The descriptor that hangs up (poll(2)) when the client has left."""

    def close(self) -> None:
        """Close it."""


class Connection(Protocol):
    """A client's connection, whatever protocol it speaks. All methods but :meth:`run` are for other threads."""

    @property
    def channel(self) -> Channel:
        """The way to the client."""

    @property
    def peer(self) -> Peer:
        """The process that connected."""

    def run(self) -> None:
        """Serve until the client ends, or the server ends it."""

    def finish(self) -> None:
        """Answer what has already been asked, then end."""

    def abandon(self) -> None:
        """End the work for a client that has left."""

    def cut(self) -> None:
        """End at once, so that the client sees a failure."""


class ConnectionTable:
    """The open connections, at most ``capacity`` of all users and ``per_uid`` of one. Thread-safe.

    It can be watched by a selector: it is readable when :meth:`note_departures` has something to do.
    """

    def __init__(self, capacity: int, per_uid: int) -> None:
        self._capacity = capacity
        self._reserved = capacity // _SHARE_RESERVED
        self._per_uid = per_uid
        self._changed = threading.Condition()
        self._present: dict[int, Connection] = {}
        self._departed: set[Connection] = set()
        self._hangups = select.epoll()

    def fileno(self) -> int:
        """The descriptor to be watched."""
        return self._hangups.fileno()

    @property
    def is_empty(self) -> bool:
        """Whether no client is connected. Threads of those that have left do not count."""
        return not self._present

    def is_full(self, peer: Peer) -> bool:
        """Whether a connection of ``peer`` would be one too many."""
        with self._changed:
            present = sum(one.peer.uid == peer.uid for one in self._present.values())
            departed = sum(one.peer.uid == peer.uid for one in self._departed)
            everybody = len(self._present) + len(self._departed)
        left = self._capacity - everybody - (self._reserved if present + departed else 0)
        return left <= 0 or present >= self._per_uid or present + departed >= 2 * self._per_uid

    def add(self, connection: Connection) -> None:
        """Enter a connection."""
        with self._changed:
            descriptor = connection.channel.descriptor
            self._present[descriptor] = connection
            with contextlib.suppress(OSError):  # epoll takes no regular file, which never hangs up (--stdio < FILE)
                self._hangups.register(descriptor, 0)

    def remove(self, connection: Connection) -> None:
        """Remove a connection and close it.

        Both happen under the lock: a closed descriptor's number is given to the next connection at once.
        """
        with self._changed:
            self._forget(connection)
            self._departed.discard(connection)
            connection.channel.close()
            self._changed.notify_all()

    def withdraw(self, connection: Connection) -> None:
        """Remove a connection that was never served, and leave it open."""
        with self._changed:
            self._forget(connection)

    def note_departures(self) -> None:
        """Find the connections whose client has left, end their work, and count them as departed from now on."""
        with self._changed:
            gone = [self._present[descriptor] for descriptor, _ in self._hangups.poll(0)]
            for connection in gone:
                self._forget(connection)
                self._departed.add(connection)
        for connection in gone:
            connection.abandon()

    def _forget(self, connection: Connection) -> None:
        if self._present.pop(connection.channel.descriptor, None) and not self._hangups.closed:
            with contextlib.suppress(OSError):  # was not watched
                self._hangups.unregister(connection.channel.descriptor)

    def finish(self) -> None:
        """Have all connections answer what has been asked, and end."""
        with self._changed:
            for connection in self._present.values():
                connection.finish()

    def close(self) -> int:
        """Cut all connections. Returns how many there were. Their threads may still remove them."""
        with self._changed:
            self._hangups.close()
            for connection in self._present.values():
                connection.cut()
            return len(self._present)

    def wait(self, seconds: float) -> None:
        """Wait up to ``seconds`` for the threads of clients that have left or were cut, which log that at their end."""
        with self._changed:
            self._changed.wait_for(lambda: not self._present and not self._departed, seconds)
