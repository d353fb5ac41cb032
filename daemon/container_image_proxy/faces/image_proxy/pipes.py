"""Pipes to the client, and the transfers into them: each in a thread of its own, with its outcome.

A transfer closes its pipe as soon as it has ended, so that a pipe that the client does not finish costs no descriptor.
The last piece of a blob is withheld until its digest is right. A pipe that ends before the promised size therefore
tells that something was wrong, and the verdict says what.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

from container_image_proxy.concurrency.cancellation import SLICE, CancelledError
from container_image_proxy.errors import Error, IntegrityError, OverloadedError
from container_image_proxy.faces.image_proxy.limits import LEFT_BEHIND, PIPE_SIZE
from container_image_proxy.faces.image_proxy.messages import InvalidRequestError, ReaderGoneError, ReaderStalledError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.faces.image_proxy.limits import ImageProxyLimits

_LAST_SECONDS: Final = 1.0
_log = logging.getLogger(__name__)


class Content(Protocol):
    """Pieces to be sent, each valid until the next one is asked for."""

    def __iter__(self) -> Iterator[bytes | memoryview]: ...

    def close(self) -> None:
        """Free what the pieces come from."""


class Pipe:
    """A pipe whose ``reader`` is for the client. One thread writes and closes it. ``written`` is in bytes."""

    def __init__(self, patience: float, context: Context) -> None:
        self._patience = patience
        self._context = context
        self.written = 0
        self.reader, self._writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._writer, False)  # the client's end is another open file, and stays blocking
        self._writable = select.poll()
        self._writable.register(self._writer, select.POLLOUT)

    def widen(self) -> None:
        """Have it hold more at a time, if this user may have another such pipe."""
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)

    def write(self, data: bytes | memoryview) -> int:
        """Write what there is room for now; :class:`ReaderGoneError` if nobody can read it any more."""
        try:
            count = os.write(self._writer, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            # Programs know this end of the message from other proxies, and then report their own error instead.
            raise ReaderGoneError("the client closed the pipe before its end: broken pipe") from None
        self.written += count
        return count

    def write_all(self, data: bytes | memoryview) -> None:
        """Write everything; :class:`ReaderStalledError` if there is no room for anything within the patience."""
        rest = memoryview(data)
        while rest := rest[self.write(rest) :]:
            self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + self._patience
        while not self._writable.poll(SLICE * 1000):
            self._context.check()
            if time.monotonic() >= until:
                raise ReaderStalledError(f"the client did not read its pipe for {self._patience:g} s")

    def close_reader(self) -> None:
        """The client has its own, or will get none."""
        os.close(self.reader)

    def close(self) -> None:
        """Close the end that is written. May be called again."""
        writer, self._writer = self._writer, -1
        if writer != -1:
            os.close(writer)


class Transfer:
    """Content on its way into ``pipe``. ``tell`` is called at the end, with the error if there was one."""

    def __init__(self, pipe: Pipe, size: int, tell: Callable[[BaseException | None], None] = lambda _: None) -> None:
        self.pipe = pipe
        self._size = size
        self._tell = tell
        self.error: BaseException | None = None
        self.opened = threading.Event()
        """The content has begun to come, or never will."""
        self.ended = threading.Event()

    def try_at_once(self, data: bytes) -> bool:
        """Whether all of ``data`` went into the pipe without waiting; the transfer has ended then."""
        if self.pipe.write(data) < len(data):
            return False
        self._end(None)
        return True

    def run(self, open_content: Callable[[], Content]) -> None:
        """Send everything; to be called in a thread."""
        try:
            with contextlib.closing(open_content()) as content:
                self.opened.set()
                self._send(content)
        except BaseException as error:  # noqa: BLE001 - FinishPipe raises it
            self._end(error)
        else:
            self._end(None)

    def fail(self, error: Error) -> None:
        """End what never began."""
        self.pipe.close_reader()
        self._end(error)

    def _send(self, content: Content) -> None:
        pieces = iter(content)
        for piece in pieces:
            try:
                self.pipe.write_all(piece)
            except ReaderGoneError:
                if not self._is_left_behind(self._size - self.pipe.written):
                    raise
                for _ in pieces:  # whether the content was right is told all the same
                    pass
                return

    def _is_left_behind(self, left: int) -> bool:
        """Whether a reader that goes now has what it came for.

        What fits into a pipe may be in it when its reader leaves: whether it got there in time shall make no
        difference. And readers of zstd:chunked layers go at the end of the tar, before frames that only describe it.
        """
        return left <= max(PIPE_SIZE, min(LEFT_BEHIND, self._size // 8))

    def _end(self, error: BaseException | None) -> None:
        try:
            if error is not None and not isinstance(error, Error | CancelledError):
                _log.error("a transfer failed for a reason that should not exist", exc_info=error)
            self.error = None if error is None else _bare(error)
            self._tell(self.error)
        finally:
            self.pipe.close()
            self.opened.set()
            self.ended.set()


class Pipes:
    """The transfers of one client, by the numbers that it knows them by. One thread uses it, beside the transfers'.

    ``places`` are those of all clients.
    """

    def __init__(self, places: threading.Semaphore, limits: ImageProxyLimits, context: Context) -> None:
        self._places = places
        self._limits = limits
        self._context = context
        self._last = 0
        self._transfers: dict[int, Transfer] = {}
        self._apart: set[Transfer] = set()

    @property
    def is_busy(self) -> bool:
        """Whether there is a transfer under way, or one that nobody has asked about."""
        return bool(self._transfers) or any(not one.ended.is_set() for one in self._apart)

    def make(self, *, wide: bool = False) -> Pipe:
        """A new pipe; :class:`OverloadedError` if there are no more descriptors."""
        try:
            pipe = Pipe(self._limits.send_seconds, self._context)
        except OSError as error:
            raise OverloadedError(f"no pipe can be made: {error.strerror}") from error
        if wide:
            pipe.widen()
        return pipe

    def start(self, transfer: Transfer, open_content: Callable[[], Content]) -> None:
        """Run a transfer in a thread; :class:`OverloadedError` if there are too many."""
        active = sum(not one.ended.is_set() for one in (*self._transfers.values(), *self._apart))
        if active >= self._limits.transfers_per_client:
            raise OverloadedError(f"{active} transfers of this client are under way: read and finish some")
        if not self._places.acquire(blocking=False):
            raise OverloadedError("too many transfers are under way: try again when some have ended")

        def run() -> None:
            try:
                transfer.run(open_content)
            finally:
                self._places.release()

        try:
            threading.Thread(target=run, name="transfer", daemon=True).start()
        except RuntimeError as error:
            self._places.release()
            raise OverloadedError("the system has no more threads for us") from error

    def keep(self, transfer: Transfer) -> int:
        """The number under which the client may :meth:`finish` the transfer."""
        self._last += 1
        self._transfers[self._last] = transfer
        surplus = len(self._transfers) - self._limits.verdicts
        ended = (number for number, one in self._transfers.items() if one.ended.is_set())
        for number in [number for number, _ in zip(ended, range(surplus), strict=False)]:
            del self._transfers[number]
        return self._last

    def close(self) -> None:
        """Wait a moment for the transfers of a client that is gone, which have been cancelled, to end and be logged."""
        until = time.monotonic() + _LAST_SECONDS
        for transfer in (*self._transfers.values(), *self._apart):
            transfer.ended.wait(max(0.0, until - time.monotonic()))

    def keep_apart(self, transfer: Transfer) -> None:
        """Count a transfer that the client learns the end of by itself."""
        self._apart = {one for one in self._apart if not one.ended.is_set()} | {transfer}

    def finish(self, number: int) -> None:
        """Wait for the end of a transfer and forget it; raises what went wrong.

        The wait is bounded by what bounds a transfer: the patience with the client, and that with the source.
        """
        transfer = self._transfers.get(number)
        if transfer is None:
            raise InvalidRequestError(f"there is no pipe {number} to be finished")
        self._wait(transfer.ended)
        del self._transfers[number]
        if transfer.error is not None:
            raise transfer.error

    def wait_opened(self, transfer: Transfer) -> None:
        """Wait a moment for the beginning of a transfer; raises why there is none if that is known by then.

        That the content is wrong is no such reason: clients expect it of :meth:`finish`.
        """
        self._wait(transfer.opened, self._limits.opening_seconds)
        if transfer.ended.is_set() and transfer.error is not None and not isinstance(transfer.error, IntegrityError):
            raise transfer.error

    def _wait(self, event: threading.Event, seconds: float | None = None) -> None:
        until = None if seconds is None else time.monotonic() + seconds
        while not event.wait(SLICE if until is None else max(0.0, min(SLICE, until - time.monotonic()))):
            self._context.check()
            if until is not None and time.monotonic() >= until:
                return


def _bare(error: BaseException) -> BaseException:
    """The error without the frames that it came through: they hold the blob's buffers for as long as it is kept."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
