"""The listening sockets, and the accepting of connections from their backlogs.

A full backlog makes the next client's connect(2) fail, whoever that is, and any local user can fill one by connecting
in a loop. Accepting is therefore quick, in long turns, and a second thread helps when one does not keep up
(contrib/adr/0026). Connections that a turn did not accept stay in the backlog, for a later turn or for the next process
that systemd starts.

Must not look at who connected, which the server does. Spec: listen(2), accept(2).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import selectors
import socket
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future, ThreadPoolExecutor

BACKLOG: Final = 4096
"""Connections that wait to be accepted, as many as possible: the kernel cuts it to net.core.somaxconn."""
TURN: Final = 256
"""Connections that one thread accepts before the loop turns to everything else: a few milliseconds' work."""
_NICE: Final = -10  # of a thread (setpriority(2)): the weight of nine ordinary ones (sched(7))

_log = logging.getLogger(__name__)


class Listeners:
    """Owns ``sockets``, and watches them in ``selector`` from :meth:`resume` to :meth:`close`. A timer of the loop.

    ``receive`` is called with the connections of a turn, in two threads at once if there are many. When a turn is over,
    so are its calls. When the system has no descriptors or memory for another connection, nothing is accepted for
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
        """Begin to accept, or begin again."""
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
        """Accept nothing more. New clients are refused, or wait for the next process that systemd starts."""
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
        """Receive the connections that wait at ``listener``, up to the end of a turn."""
        if not self._accepting:  # an event before this one in the same round has closed or paused the listeners
            return
        # Accepting is mostly the kernel's work, outside the interpreter lock: two threads are nearly twice as fast.
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
        """Begin a turn of the second thread, which is made when it is first needed; None if there can be none."""
        if self._helper is None:
            from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - few hosts ever need a second thread

            self._helper = ThreadPoolExecutor(1, "accept", initializer=take_precedence)
        try:
            return self._helper.submit(lambda: self._receive(self._accept(listener)))
        except RuntimeError:  # the system has no more threads for us
            self._helper.shutdown(cancel_futures=True)
            self._helper = None
            return None

    def _accept(self, listener: socket.socket) -> Iterator[socket.socket]:
        """The connections of one thread's turn."""
        # socket.accept() without what that looks up each time: two threads share one interpreter, so all work counts.
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
    """Have this thread run before others that want its processor, if the system permits that.

    Clients that connect in a loop compete with it for processors as much as for the backlog.
    """
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) == 0:
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)


def give_way() -> None:
    """Have this thread run like any other: it inherited the precedence of the thread that started it."""
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) < 0:
            os.setpriority(os.PRIO_PROCESS, 0, 0)
