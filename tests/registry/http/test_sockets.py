"""Sockets that keep time, and lose nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from container_image_proxy.concurrency.cancellation import SLICE, Cancellation, CancelledError
from container_image_proxy.concurrency.context import Context
from container_image_proxy.registry.http import sockets
from container_image_proxy.registry.http.sockets import PunctualSocket
from tests.support.contexts import CONTEXT

Pair = tuple[PunctualSocket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A punctual socket and its peer."""
    ours, theirs = socket.socketpair()
    with PunctualSocket(fileno=ours.detach()) as punctual, theirs:
        punctual.wait_under(CONTEXT, idle=60)
        yield punctual, theirs


@pytest.mark.demand("stall-mid-blob")
def test_what_arrived_before_a_stall_is_handed_out_and_then_the_stall_told(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"all that there is")
    ours.wait_under(CONTEXT, idle=0.05)
    with ours.makefile("rb") as stream:
        assert stream.read(1000) == b"all that there is"
        assert isinstance(ours.broken, TimeoutError)
        with pytest.raises(TimeoutError):
            stream.read(1000)


def test_a_reader_is_told_of_its_own_failure_alone(pair: Pair) -> None:
    ours, _ = pair
    before = ours.wait_under(CONTEXT, idle=60)
    later = ours.wait_under(CONTEXT.within(0), idle=60)
    assert ours.recv(1) == b""
    assert before.failure is None
    assert isinstance(later.failure, TimeoutError)


@pytest.mark.demand("slow-drip")
def test_waiting_ends_with_the_context_though_bytes_keep_coming(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"x" * 100)
    ours.wait_under(CONTEXT.within(0.0), idle=60)
    with ours.makefile("rb", buffering=0) as stream:
        assert stream.read(10) == b""
        assert isinstance(ours.broken, TimeoutError)


def test_bytes_are_received_under_the_same_bounds(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"xy")
    assert ours.recv(1) == b"x"
    ours.wait_under(CONTEXT.within(0.0), idle=60)
    assert ours.recv(1) == b""
    with pytest.raises(TimeoutError):
        ours.recv(1)


def test_a_socket_that_nobody_gave_a_context_receives_nothing() -> None:
    ours, theirs = socket.socketpair()
    with PunctualSocket(fileno=ours.detach()) as punctual, theirs, pytest.raises(AttributeError):
        punctual.recv(1)


@pytest.mark.demand("client-disconnect")
def test_a_receive_that_nobody_waits_for_any_more_ends(pair: Pair) -> None:
    token = Cancellation()
    pair[0].wait_under(Context(token), idle=3600)
    with pair[0].makefile("rb") as stream:
        canceller = threading.Timer(SLICE / 2, token.cancel)
        canceller.start()
        with pytest.raises(CancelledError):
            stream.read(1)
        canceller.join()


def test_a_wait_outlasts_the_slices_that_it_is_cut_into(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "SLICE", 0.001)
    ours, theirs = pair
    sender = threading.Timer(0.02, theirs.sendall, (b"x",))
    sender.start()
    with ours.makefile("rb") as stream:
        assert stream.read(1) == b"x"
    sender.join()
