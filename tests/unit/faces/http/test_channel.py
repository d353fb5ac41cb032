from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.faces.http.channel import (
    Channel,
    PeerGoneError,
    PeerStalledError,
    SocketChannel,
    StdioChannel,
)
from tests.support.socket_server import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG = os.urandom(4 << 20)


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    channel = SocketChannel(ours)
    with theirs:
        yield channel, theirs
        channel.close()


def collected(sock: socket.socket) -> tuple[threading.Thread, bytearray]:
    received = bytearray()

    def collect() -> None:
        while data := sock.recv(1 << 16):
            received.extend(data)

    thread = threading.Thread(target=collect)
    thread.start()
    return thread, received


@given(st.lists(st.binary(max_size=5)), st.integers(0, 200_000))
def test_everything_is_sent_in_order(small: list[bytes], size: int) -> None:
    ours, theirs = socket.socketpair()
    channel = SocketChannel(ours)
    buffers: list[bytes | memoryview] = [memoryview(BIG)[:size], *[piece for piece in small if piece], BIG[:size]]
    with theirs:
        thread, received = collected(theirs)
        channel.send([buffer for buffer in buffers if len(buffer)], PATIENCE)
        channel.close()
        thread.join(PATIENCE)
    assert received == b"".join(buffers)


@pytest.mark.demand("client-stall")
def test_a_reader_that_takes_nothing_is_given_up(pair: tuple[Channel, socket.socket]) -> None:
    channel, _ = pair
    with pytest.raises(PeerStalledError):
        channel.send([BIG], 0.01)


@pytest.mark.demand("client-disconnect")
def test_sending_to_a_client_that_left_fails_and_kills_nobody(pair: tuple[Channel, socket.socket]) -> None:
    channel, client = pair
    client.close()
    with pytest.raises(PeerGoneError):
        channel.send([b"x"], PATIENCE)


def test_receiving_yields_bytes_then_the_end_or_gives_up(pair: tuple[Channel, socket.socket]) -> None:
    channel, client = pair
    client.send(b"abc")
    assert channel.receive(PATIENCE) == b"abc"
    with pytest.raises(PeerStalledError):
        channel.receive(0.01)
    with pytest.raises(PeerStalledError):
        channel.receive(-1)
    client.close()
    assert channel.receive(PATIENCE) == b""


def test_after_stop_reading_what_had_arrived_is_still_there(pair: tuple[Channel, socket.socket]) -> None:
    channel, client = pair
    client.send(b"abc")
    channel.stop_reading()
    assert channel.receive(PATIENCE) == b"abc"
    assert channel.receive(PATIENCE) == b""
    with pytest.raises(BrokenPipeError):
        client.send(b"later")


@pytest.mark.parametrize("ending", ["stop_reading", "abort"])
def test_another_thread_can_end_the_wait_for_bytes(pair: tuple[Channel, socket.socket], ending: str) -> None:
    channel, _ = pair
    results: list[bytes] = []
    thread = threading.Thread(target=lambda: results.append(channel.receive(PATIENCE)))
    thread.start()
    getattr(channel, ending)()
    thread.join(PATIENCE)
    assert results == [b""]


def test_another_thread_can_end_the_wait_for_room(pair: tuple[Channel, socket.socket]) -> None:
    channel, _ = pair
    errors: list[type[BaseException]] = []

    def send() -> None:
        try:
            channel.send([BIG], PATIENCE)
        except PeerGoneError as error:
            errors.append(type(error))

    thread = threading.Thread(target=send)
    thread.start()
    channel.abort()
    thread.join(PATIENCE)
    assert errors == [PeerGoneError]


def test_lingering_ends_with_the_client(pair: tuple[Channel, socket.socket]) -> None:
    channel, client = pair
    thread = threading.Thread(target=channel.linger, args=(PATIENCE,))
    thread.start()
    client.send(BIG[:1000])
    assert client.recv(1) == b""
    client.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_pipes_get_their_blocking_mode_back() -> None:
    """It belongs to the open file, which another process may use after us."""
    reading, requests = os.pipe()
    answers, writing = os.pipe()
    kept = os.dup(writing)
    channel = StdioChannel(reading, writing)
    assert not os.get_blocking(kept)
    channel.close()
    assert os.get_blocking(kept)
    for descriptor in (requests, answers, kept):
        os.close(descriptor)


def test_one_descriptor_can_be_both_directions() -> None:
    ours, theirs = socket.socketpair()
    descriptor = ours.detach()
    channel = StdioChannel(descriptor, descriptor)
    with theirs:
        theirs.send(b"abc")
        assert channel.receive(PATIENCE) == b"abc"
        channel.send([b"de", b"f"], PATIENCE)
        assert theirs.recv(10) == b"def"
        channel.close()
        assert theirs.recv(10) == b""


def test_a_stopped_pipe_yields_what_is_there_and_then_its_end() -> None:
    reading, requests = os.pipe()
    answers, writing = os.pipe()
    channel = StdioChannel(reading, writing)
    os.write(requests, b"abc")
    channel.stop_reading()
    assert (channel.receive(PATIENCE), channel.receive(PATIENCE)) == (b"abc", b"")
    channel.close()
    os.close(requests)
    os.close(answers)
