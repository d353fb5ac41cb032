"""What turning away costs: a few answers for a user, and a few lines of the log for however many connections."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from container_image_proxy.core.peer import Peer
from container_image_proxy.faces.http.refusal import refusal
from container_image_proxy.faces.http.request_head import RefusedRequestError
from container_image_proxy.service.turned_away import MAX_LINGERING, MAX_NAMED, MAX_TOLD, PERIOD_SECONDS, TurnedAway


def in_http(error: RefusedRequestError) -> bytes:
    return b"".join(refusal(error))


DENIED = RefusedRequestError(HTTPStatus.FORBIDDEN, "not you", "DENIED")
FULL = RefusedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, "too many", "TOOMANYREQUESTS", retry_after=1)
STRANGER = Peer(pid=7, uid=1000)
LINGER = 1.0


class Door:
    """Somebody at a clock of his own who turns away one connection after the other."""

    def __init__(self) -> None:
        self.now = 100.0
        self.turned_away = TurnedAway(LINGER, lambda: self.now)

    def turn_away(self, peer: Peer = STRANGER, error: RefusedRequestError = DENIED) -> bytes:
        """What the client gets to read at once."""
        ours, theirs = socket.socketpair()
        with theirs:
            self.turned_away.add(ours, peer, error, in_http)
            theirs.settimeout(0)
            try:
                return theirs.recv(1 << 16)
            except BlockingIOError:
                return b"(open)"

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.turned_away.run()


@pytest.fixture
def door(caplog: pytest.LogCaptureFixture) -> Iterator[Door]:
    caplog.set_level("INFO")
    door = Door()
    yield door
    door.turned_away.close()


def test_a_user_is_told_a_few_times_in_a_period_and_then_only_closed(door: Door) -> None:
    answers = [door.turn_away() for _ in range(MAX_TOLD + 3)]
    assert {answer[:12] for answer in answers[:MAX_TOLD]} == {b"HTTP/1.1 403"}
    assert answers[MAX_TOLD:] == [b""] * 3
    door.pass_time(PERIOD_SECONDS)
    assert door.turn_away().startswith(b"HTTP/1.1 403")


def test_whoever_connects_in_a_loop_is_a_crowd_until_a_period_without(door: Door) -> None:
    for _ in range(MAX_TOLD):
        door.turn_away()
    assert door.turned_away.crowded_until < door.now
    door.turn_away()
    assert door.turned_away.crowded_until == door.now + 2 * PERIOD_SECONDS


def test_who_may_come_back_later_is_always_told(door: Door) -> None:
    answers = {door.turn_away(error=FULL)[:12] for _ in range(2 * MAX_TOLD)}
    assert answers == {b"HTTP/1.1 503"}


def test_the_log_has_a_line_for_the_first_and_one_for_all_of_a_period(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        door.turn_away()
    assert caplog.messages == ["turned away uid 1000 (pid 7): not you"]
    door.pass_time(PERIOD_SECONDS)
    assert caplog.messages[1:] == ["turned away 1000 connections of uid 1000 in the last 10 s: not you"]
    assert caplog.records[1].fields == {"PEER_UID": 1000, "CONNECTIONS": 1000}  # type: ignore[attr-defined]
    door.pass_time(PERIOD_SECONDS)
    assert len(caplog.messages) == 2


def test_a_single_connection_is_one_line(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    door.turn_away()
    door.pass_time(PERIOD_SECONDS)
    assert len(caplog.messages) == 1


def test_what_was_counted_is_told_at_the_end(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    door.turn_away()
    door.turned_away.count(5, STRANGER, DENIED)
    door.turned_away.close()
    assert "turned away 6 connections" in caplog.messages[-1]


def test_users_and_reasons_are_told_apart(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    for peer, error in ((STRANGER, DENIED), (STRANGER, FULL), (Peer(pid=8, uid=1001), DENIED)):
        door.turn_away(peer, error)
        door.turn_away(peer, error)
    door.pass_time(PERIOD_SECONDS)
    assert len(caplog.messages) == 6
    assert [record.levelno for record in caplog.records[3:]] == [logging.INFO, logging.WARNING, logging.INFO]


@pytest.mark.demand("LOG-injection")
def test_any_number_of_users_makes_a_bounded_number_of_lines(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    for uid in range(100_000, 101_000):
        for _ in range(2):
            door.turn_away(Peer(pid=1, uid=uid))
    door.pass_time(PERIOD_SECONDS)
    assert len(caplog.messages) == 2 * MAX_NAMED + 1
    rest = 2 * (1000 - MAX_NAMED)
    assert f"turned away {rest} connections of other users" in caplog.messages[-1]


@pytest.mark.demand("fd-exhaustion")
def test_only_so_many_linger_and_none_beyond_its_time(door: Door) -> None:
    pairs = [socket.socketpair() for _ in range(MAX_LINGERING + 1)]
    for ours, _ in pairs:
        door.turned_away.add(ours, STRANGER, FULL, in_http)
    assert [ours.fileno() for ours, _ in pairs].count(-1) == 1
    assert door.turned_away.due() == door.now + LINGER
    door.pass_time(LINGER)
    assert {ours.fileno() for ours, _ in pairs} == {-1}
    for _, theirs in pairs:
        theirs.close()


def test_a_client_that_is_gone_already_does_not_linger(door: Door) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    door.turned_away.add(ours, STRANGER, FULL, in_http)
    assert ours.fileno() == -1
