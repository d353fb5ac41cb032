from __future__ import annotations

import array
import os
import socket

import pytest

from container_image_proxy.core.peer import MAX_GROUPS, UNAUTHENTICATED, Peer, read_peer
from tests.support.socket_server import abstract_listener, exchange_as

STRANGER = 61234


def peer_of(uid: int, gid: int, groups: tuple[int, ...]) -> tuple[Peer, int]:
    """The peer that a connection of another user has, and that user's pid."""
    with abstract_listener() as (listener, name), exchange_as(name, b"", uid, gid, groups) as process:
        connection, _ = listener.accept()
        with connection:
            peer = read_peer(connection)
        process.communicate()
    return peer, process.pid


def test_the_peer_is_the_process_that_connected() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert read_peer(ours) == Peer(os.getpid(), os.getuid(), frozenset({os.getgid(), *os.getgroups()}))


@pytest.mark.demand("PEER-uid")
def test_another_user_is_recognised() -> None:
    peer, pid = peer_of(STRANGER, STRANGER + 1, ())
    assert peer == Peer(pid, STRANGER, frozenset({STRANGER + 1}))


@pytest.mark.demand("PEER-groups")
@pytest.mark.parametrize("count", [1, 255, 256, 300])
def test_all_groups_that_the_process_has_are_seen_whatever_the_user_database_says(count: int) -> None:
    groups = tuple(range(70000, 70000 + count))
    peer, _ = peer_of(STRANGER, STRANGER, groups)
    assert peer.groups == {STRANGER, *groups}


@pytest.mark.demand("PEER-pid-reuse")
def test_a_peer_is_what_it_was_when_it_connected() -> None:
    with abstract_listener() as (listener, name), exchange_as(name, b"", STRANGER, STRANGER) as process:
        connection, _ = listener.accept()
        with connection:
            connection.shutdown(socket.SHUT_WR)
            process.communicate()
            assert (read_peer(connection).uid, process.returncode) == (STRANGER, 0)


@pytest.mark.demand("PEER-fd-passing")
def test_a_passed_descriptor_keeps_the_rights_of_who_connected() -> None:
    """Whoever may connect may also pass on what it read; so the connected descriptor stands for the connector."""
    with abstract_listener() as (listener, name), socket.socket(socket.AF_UNIX) as client:
        client.connect(name.replace("@", "\0"))
        connection, _ = listener.accept()
        ours, theirs = socket.socketpair()
        with connection, ours, theirs:
            rights = array.array("i", [client.fileno()])
            ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            _, descriptors, _, _ = socket.recv_fds(theirs, 1, 1)
            os.write(descriptors[0], b"y")
            os.close(descriptors[0])
            assert connection.recv(1) == b"y"
            assert read_peer(connection).pid == os.getpid()


def test_loopback_tcp_has_no_credentials() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        connection, _ = listener.accept()
        with connection:
            for peer in (read_peer(connection), read_peer(client)):
                assert (peer.uid, peer.pid, peer.over_tcp) == (None, None, True)
    assert str(UNAUTHENTICATED) == "unauthenticated local"


@pytest.mark.demand("PEER-groups")
@pytest.mark.parametrize(("count", "seen"), [(MAX_GROUPS, MAX_GROUPS), (MAX_GROUPS + 1, 0), (65536, 0)])
def test_more_groups_than_anybody_needs_count_as_none(count: int, seen: int) -> None:
    """Reading all 65536 that a user with subordinate ids can have would take a hundred times as long as the rest."""
    peer, _ = peer_of(STRANGER, STRANGER, tuple(range(70000, 70000 + count)))
    assert len(peer.groups) == seen + 1
