"""The listening sockets, and the accepting of connections from their backlogs.

A full backlog makes the next client's connect(2) fail, whoever that is, and any local user can fill one by connecting
in a loop. Accepting is therefore quick, in long turns, and a second thread helps when one does not keep up. A turn has
an end. Connections that it did not accept stay in the backlog, for a later turn or for the next process that systemd
starts.

Must not look at who connected: that is the server's.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import selectors
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

BACKLOG: Final = 4096
"""As long as can be (listen(2)): the kernel cuts it to net.core.somaxconn."""
TURN: Final = 256
"""Connections that one thread accepts before the loop turns to everything else: a few milliseconds' worth."""
_NICE: Final = -10  # setpriority(2), here of a thread: the weight of nine ordinary ones

_log = logging.getLogger(__name__)


class Listeners:
    """Owns ``sockets`` and watches them in ``selector``, from :meth:`resume` to :meth:`close`.

    ``receive`` gets the connections of a turn, and may be called in two threads at once; when a turn is over, so are
    its calls. When the system has no descriptors or memory for another connection, nothing is accepted for
    ``pause_seconds``: the sockets would stay readable, and the loop would spin.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        selector: selectors.BaseSelector,
        receive: Callable[[Iterator[socket.socket]], None],
        pause_seconds: float,
    ) -> None:
        self._sockets = list(sockets)
        self._selector = selector
        self._receive = receive
        self._pause_seconds = pause_seconds
        self._accepting = False
        self._resume_at: float | None = None
        self._crowded = False
        self._failure: OSError | None = None
        self._helper: ThreadPoolExecutor | None = None

    def __bool__(self) -> bool:
        return bool(self._sockets)

    def resume(self) -> None:
        """Accept, from now on or again."""
        if self._accepting:
            return
        self._accepting = True
        self._resume_at = None
        for listener in self._sockets:
            listener.settimeout(0)
            listener.listen(BACKLOG)
            self._selector.register(listener, selectors.EVENT_READ, functools.partial(self._take_turn, listener))

    def due(self) -> float | None:
        """When a pause is over (monotonic clock)."""
        return self._resume_at

    def run(self) -> None:
        """Resume if a pause is over."""
        if self._resume_at is not None and self._resume_at <= time.monotonic():
            self.resume()

    def close(self) -> None:
        """Accept nothing more; whoever connects from now on is refused, or waits for systemd's next start."""
        self._stop()
        self._resume_at = None
        for listener in self._sockets:
            listener.close()
        self._sockets.clear()
        if self._helper is not None:
            self._helper.shutdown()
            self._helper = None

    def _stop(self) -> None:
        if self._accepting:
            for listener in self._sockets:
                self._selector.unregister(listener)
        self._accepting = False

    def _take_turn(self, listener: socket.socket) -> None:
        """Receive what waits. Accepting is mostly the kernel's work, outside the interpreter lock, so that two threads
        do it nearly twice as fast.
        """
        if not self._accepting:  # closed or paused by what was ready before this listener
            return
        helping = self._ask_helper(listener) if self._crowded else None
        self._receive(self._accept(listener))
        if helping is not None:
            helping.result()
        if self._failure is not None:
            _log.error("no connection can be accepted for now: %s", self._failure.strerror)
            self._failure = None
            self._stop()
            self._resume_at = time.monotonic() + self._pause_seconds

    def _ask_helper(self, listener: socket.socket) -> Future[None] | None:
        """A turn of the second thread, which is there from the first time on that it is needed."""
        if self._helper is None:
            self._helper = ThreadPoolExecutor(1, "accept", initializer=take_precedence)
        try:
            return self._helper.submit(lambda: self._receive(self._accept(listener)))
        except RuntimeError:  # the system has no more threads for us
            self._helper.shutdown(cancel_futures=True)
            self._helper = None
            return None

    def _accept(self, listener: socket.socket) -> Iterator[socket.socket]:
        """The connections of a thread's turn.

        What is done for each one counts: two threads share one interpreter. So this is ``socket.accept()`` without what
        that looks up each time.
        """
        accept = listener._accept  # type: ignore[attr-defined]  # noqa: SLF001 - see above
        family, kind, protocol = int(listener.family), int(listener.type), listener.proto
        for _ in range(TURN):
            try:
                descriptor, _ = accept()
            except BlockingIOError:
                self._crowded = False
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:  # EMFILE, ENFILE, ENOBUFS, ENOMEM
                self._failure = error
                return
            yield socket.socket(family, kind, protocol, fileno=descriptor)
        self._crowded = True


def take_precedence() -> None:
    """Have this thread run before others that want its processor, if the system permits that or did so at the start.

    Who connects in a loop competes with it for processors as much as for the backlog.
    """
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) == 0:
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)


def give_way() -> None:
    """Have this thread, which inherited the precedence of the one that started it, be one like others."""
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) < 0:
            os.setpriority(os.PRIO_PROCESS, 0, 0)
