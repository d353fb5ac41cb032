"""Sockets that keep time, and lose nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from container_image_proxy.concurrency import cancellation
from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.registry.http.sockets import PunctualSocket, step

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


@pytest.mark.demand("client-disconnect")
def test_a_receive_that_nobody_waits_for_any_more_ends(pair: Pair) -> None:
    token = Cancellation()
    with cancellation.under(token), pair[0].makefile("rb") as stream, step(3600, idle=3600):
        canceller = threading.Timer(cancellation.SLICE / 2, token.cancel)
        canceller.start()
        with pytest.raises(CancelledError):
            stream.read(1)
        canceller.join()


def test_a_wait_outlasts_the_slices_that_it_is_cut_into(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellation, "SLICE", 0.001)
    ours, theirs = pair
    sender = threading.Timer(0.02, theirs.sendall, (b"x",))
    sender.start()
    with ours.makefile("rb") as stream, step(60, idle=60):
        assert stream.read(1) == b"x"
    sender.join()
