"""Sockets that keep time, and lose nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from container_image_proxy.registry.wire import PunctualSocket, step

Pair = tuple[PunctualSocket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A punctual socket and its peer."""
    ours, theirs = socket.socketpair()
    with PunctualSocket(fileno=ours.detach()) as punctual, theirs:
        yield punctual, theirs


@pytest.mark.demand("stall-mid-blob")
def test_what_arrived_before_a_stall_is_handed_out_and_then_the_stall_told(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"all that there is")
    with ours.makefile("rb") as stream, step(60, idle=0.05) as running:
        assert stream.read(1000) == b"all that there is"
        assert isinstance(running.failure, TimeoutError)
        with pytest.raises(TimeoutError):
            stream.read(1000)


@pytest.mark.demand("slow-drip")
def test_a_step_ends_though_bytes_keep_coming(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"x" * 100)
    with ours.makefile("rb", buffering=0) as stream, step(0.0, idle=60) as running:
        assert stream.read(10) == b""
        assert isinstance(running.failure, TimeoutError)


def test_an_inner_step_ends_with_the_outer_one(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"x")
    with ours.makefile("rb", buffering=0) as stream, step(0.0, idle=60), step(60, idle=60) as inner:
        assert stream.read(10) == b""
        assert inner.failure is not None


def test_outside_of_a_step_a_socket_is_as_any_other(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"x")
    assert ours.recv_into(bytearray(10)) == 1
    ours.settimeout(0.01)
    with pytest.raises(TimeoutError):
        ours.recv_into(bytearray(10))
