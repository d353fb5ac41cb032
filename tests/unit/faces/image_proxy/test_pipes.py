"""Transfers into pipes: they end, whatever the reader does, and say how."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.concurrency.context import Context
from container_image_proxy.errors import DigestMismatchError, OverloadedError
from container_image_proxy.faces.image_proxy.limits import PIPE_SIZE, ImageProxyLimits, Room
from container_image_proxy.faces.image_proxy.messages import InvalidRequestError, ReaderGoneError, ReaderStalledError
from container_image_proxy.faces.image_proxy.pipes import Pipe, Pipes, Transfer

MUCH = bytes(4 * PIPE_SIZE)


@dataclass
class Content:
    """Pieces that may fail, and whether they were closed."""

    pieces: list[bytes]
    error: Exception | None = None
    is_closed: bool = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces
        if self.error:
            raise self.error

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Client:
    """A client's pipes, with little patience."""

    limits: ImageProxyLimits = field(
        default_factory=lambda: ImageProxyLimits(
            send_seconds=0.01, transfers_per_client=2, verdicts=3, opening_seconds=60
        )
    )
    cancellation: Cancellation = field(default_factory=Cancellation)
    places: threading.Semaphore = field(default_factory=lambda: threading.BoundedSemaphore(3))

    def __post_init__(self) -> None:
        self.pipes = Pipes(self.places, self.limits, Context(self.cancellation))

    def start(self, content: Content, size: int | None = None) -> tuple[int, Transfer]:
        pipe = self.pipes.make()
        transfer = Transfer(pipe, sum(map(len, content.pieces)) if size is None else size)
        try:
            self.pipes.start(transfer, lambda: content)
        except OverloadedError as error:
            transfer.fail(error)
            raise
        return self.pipes.keep(transfer), transfer


def read_all(pipe: Pipe) -> bytes:
    data = b"".join(iter(lambda: os.read(pipe.reader, 1 << 20), b""))
    pipe.close_reader()
    return data


def test_what_is_sent_is_what_is_read() -> None:
    client = Client(limits=ImageProxyLimits())
    content = Content([MUCH, b"end"])
    number, transfer = client.start(content)
    assert read_all(transfer.pipe) == MUCH + b"end"
    client.pipes.finish(number)
    assert content.is_closed
    assert not client.pipes.is_busy


def test_content_that_is_wrong_ends_the_pipe_and_is_told_once() -> None:
    client = Client()
    number, transfer = client.start(Content([b"begin"], DigestMismatchError("wrong")))
    assert read_all(transfer.pipe) == b"begin"
    with pytest.raises(DigestMismatchError, match="wrong"):
        client.pipes.finish(number)
    with pytest.raises(InvalidRequestError):
        client.pipes.finish(number)


def test_an_error_that_is_kept_holds_no_memory() -> None:
    client = Client()
    _, transfer = client.start(Content([], DigestMismatchError("wrong")))
    transfer.ended.wait()
    assert transfer.error is not None
    assert (transfer.error.__traceback__, transfer.error.__context__) == (None, None)
    transfer.pipe.close_reader()


def test_a_reader_that_does_not_read_is_given_up() -> None:
    client = Client()
    content = Content([MUCH])
    number, transfer = client.start(content)
    with pytest.raises(ReaderStalledError, match=r"for 0\.01 s"):
        client.pipes.finish(number)
    assert content.is_closed
    transfer.pipe.close_reader()


def test_a_reader_that_leaves_is_told_so() -> None:
    client = Client(limits=ImageProxyLimits())
    number, transfer = client.start(Content([MUCH]))
    os.read(transfer.pipe.reader, 1)
    transfer.pipe.close_reader()
    with pytest.raises(ReaderGoneError, match=r"broken pipe$"):
        client.pipes.finish(number)


@pytest.mark.parametrize("error", [None, DigestMismatchError("wrong")])
def test_who_leaves_what_a_pipe_holds_gets_the_verdict(error: Exception | None) -> None:
    client = Client(limits=ImageProxyLimits())
    number, transfer = client.start(Content([MUCH[:PIPE_SIZE]], error))
    transfer.pipe.close_reader()
    if error is None:
        client.pipes.finish(number)
    else:
        with pytest.raises(DigestMismatchError):
            client.pipes.finish(number)


@pytest.mark.parametrize(("read", "is_enough"), [(29, True), (20, False), (0, False)])
def test_who_leaves_but_the_end_of_a_large_blob_gets_the_verdict(read: int, is_enough: bool) -> None:  # noqa: FBT001
    """As readers of zstd:chunked do, which is content with the tar, and leaves the frames behind it."""
    client = Client(limits=ImageProxyLimits())
    content = Content([MUCH] * 8)
    number, transfer = client.start(content)
    left = read * PIPE_SIZE
    while left:
        left -= len(os.read(transfer.pipe.reader, left))
    transfer.pipe.close_reader()
    if is_enough:
        client.pipes.finish(number)
    else:
        with pytest.raises(ReaderGoneError):
            client.pipes.finish(number)


def test_when_the_client_has_left_its_transfers_end() -> None:
    client = Client(limits=ImageProxyLimits())
    content = Content([MUCH])
    number, transfer = client.start(content)
    client.cancellation.cancel()
    with pytest.raises(CancelledError):
        client.pipes.finish(number)
    client.pipes.close()
    transfer.ended.wait()
    assert content.is_closed
    transfer.pipe.close_reader()


def test_transfers_of_a_client_and_of_all_are_limited() -> None:
    client = Client(limits=ImageProxyLimits(transfers_per_client=2))
    other = Client(places=client.places)
    running = [client.start(Content([MUCH])) for _ in range(2)]
    with pytest.raises(OverloadedError, match="2 transfers of this client"):
        client.start(Content([MUCH]))
    started = other.start(Content([b""]))[1]
    started.ended.wait()
    started.pipe.close_reader()
    for number, transfer in running:
        read_all(transfer.pipe)
        client.pipes.finish(number)
    _, transfer = client.start(Content([b"again"]))
    assert read_all(transfer.pipe) == b"again"


def test_places_of_all_clients_run_out() -> None:
    places = threading.BoundedSemaphore(1)
    one, other = (Client(limits=ImageProxyLimits(), places=places) for _ in range(2))
    _, transfer = one.start(Content([MUCH]))
    with pytest.raises(OverloadedError, match="too many transfers"):
        other.start(Content([MUCH]))
    read_all(transfer.pipe)
    transfer.ended.wait()


def test_verdicts_that_nobody_asks_for_are_forgotten_from_the_oldest_on() -> None:
    client = Client()
    numbers = []
    for _ in range(5):
        number, transfer = client.start(Content([b"x"]))
        transfer.ended.wait()
        transfer.pipe.close_reader()
        numbers.append(number)
    assert numbers == sorted(set(numbers))
    client.pipes.finish(numbers[-1])
    with pytest.raises(InvalidRequestError, match="no pipe"):
        client.pipes.finish(numbers[0])


def test_what_fits_into_the_pipe_needs_no_thread() -> None:
    transfer = Transfer(Client().pipes.make(), 5)
    before = threading.active_count()
    assert transfer.try_at_once(b"small")
    assert (threading.active_count(), transfer.ended.is_set()) == (before, True)
    assert read_all(transfer.pipe) == b"small"


def test_somebody_who_must_be_told_and_cannot_be_keeps_no_pipe_open() -> None:
    def tell(_: BaseException | None) -> None:
        raise OSError("nobody hears")

    transfer = Transfer(Client().pipes.make(), 5, tell)
    with pytest.raises(OSError, match="nobody"):
        transfer.run(lambda: Content([b"small"]))
    assert transfer.ended.is_set()
    assert read_all(transfer.pipe) == b"small"


def test_a_room_is_as_large_as_it_is() -> None:
    room = Room(10)
    room.take(6)
    with pytest.raises(OverloadedError):
        room.take(5)
    room.take(4)
    room.give_back(5)
    room.take(5)
