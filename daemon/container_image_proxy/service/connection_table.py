"""The table of open connections, with a limit for all and a limit for each user.

A client that closed its connection counts as departed, and its user may connect again at once. A client that merely
stopped sending does not. A Unix socket tells the two apart (``POLLHUP`` of poll(2)), and a pipe has two ends for it.
TCP tells nothing; the next write finds out.

The thread of a departed client counts until it ends, because not every wait for upstream can be woken. It counts
against the limit for all and twice the user's, so that nobody piles up threads by connecting and leaving.

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


_SHARE_RESERVED: Final = 8  # of all places one in so many


class Channel(Protocol):
    """What a connection is made of, as far as it concerns the table."""

    @property
    def descriptor(self) -> int:
        """The one that hangs up (poll(2)) when the client has left."""

    def close(self) -> None:
        """Close it."""


class Connection(Protocol):
    """A client's connection, whatever it speaks. All but :meth:`run` is for other threads."""

    @property
    def channel(self) -> Channel:
        """Where the client is."""

    @property
    def peer(self) -> Peer:
        """Who it is."""

    def run(self) -> None:
        """Serve until the client or we have had enough."""

    def finish(self) -> None:
        """Have it answer what has already been asked, then end."""

    def abandon(self) -> None:
        """Tell it that nobody is there any more for the answer."""

    def cut(self) -> None:
        """Have it end in mid-answer, so that the client sees a failure."""


class ConnectionTable:
    """The connections under way, at most ``capacity``, and ``per_uid`` of one user. Thread-safe.

    It is a selectable file of its own: readable when :meth:`note_departures` has something to do.
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
        """Whether there is nobody; what is still done for those who have left does not count."""
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
            with contextlib.suppress(OSError):  # a file hangs up as little as it can be watched
                self._hangups.register(descriptor, 0)

    def remove(self, connection: Connection) -> None:
        """Strike a connection out and close it: both under the lock, so that nobody takes its descriptor for that of
        another one.
        """
        with self._changed:
            self._forget(connection)
            self._departed.discard(connection)
            connection.channel.close()
            self._changed.notify_all()

    def withdraw(self, connection: Connection) -> None:
        """Strike out one that was never served, and leave it open."""
        with self._changed:
            self._forget(connection)

    def note_departures(self) -> None:
        """Tell those whose client has left, and count them apart from now on."""
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
        """Have all answer what has been asked, and close."""
        with self._changed:
            for connection in self._present.values():
                connection.finish()

    def close(self) -> int:
        """Cut all connections, and say how many; their threads may still remove them."""
        with self._changed:
            self._hangups.close()
            for connection in self._present.values():
                connection.cut()
            return len(self._present)

    def wait(self, seconds: float) -> None:
        """Let the threads of those who have left or were cut come to their end, which is when they log it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._present and not self._departed, seconds)
