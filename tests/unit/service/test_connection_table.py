"""Who gets a place: caps for each user and for all, and the last places for those who have none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from container_image_proxy.core.peer import Peer
from container_image_proxy.faces.http.channel import StdioChannel
from container_image_proxy.faces.http.connection import Connection
from container_image_proxy.faces.http.limits import ServerLimits
from container_image_proxy.service.connection_table import ConnectionTable

Enter = Callable[[int], bool]


@pytest.fixture
def enter() -> Iterator[Enter]:
    """Whether there was room for one more connection of a user."""
    table = ConnectionTable(capacity=32, per_uid=12)
    connections = []

    def enter(uid: int) -> bool:
        peer = Peer(pid=1, uid=uid)
        if table.is_full(peer):
            return False
        channel = StdioChannel(*os.pipe())
        connections.append(Connection(channel, peer, lambda *_: [], ServerLimits()))
        table.add(connections[-1])
        return True

    yield enter
    for connection in connections:
        table.remove(connection)
    table.close()


def places(enter: Enter, uid: int) -> int:
    return sum(enter(uid) for _ in range(100))


@pytest.mark.demand("idle-1000")
def test_a_user_has_a_cap(enter: Enter) -> None:
    assert places(enter, 1000) == 12


@pytest.mark.demand("idle-1000")
def test_users_who_take_all_they_can_leave_places_for_those_who_have_none(enter: Enter) -> None:
    assert [places(enter, uid) for uid in (1000, 1001, 1002)] == [12, 12, 4]
    assert [enter(uid) for uid in range(10)] == [True] * 4 + [False] * 6


def test_the_last_places_are_one_for_each_user(enter: Enter) -> None:
    assert [places(enter, uid) for uid in (1000, 1001, 1002)] == [12, 12, 4]
    assert places(enter, 0) == 1
