"""The daemon's life: start, answer, reload on SIGHUP, drain on SIGTERM, leave when idle.

As long as no configuration can be used it is degraded: it answers every request with the reason, and reads the files
again until they are mended. Nobody who connects has to wait for that, and nothing has to be started anew.

Knows no option and no file by itself: it is given a function that reads the configuration anew and the sockets to
serve.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Final

from container_image_proxy.core.opening import NamedImages
from container_image_proxy.core.serving import Degraded
from container_image_proxy.faces.http.application import Application
from container_image_proxy.service.notifier import Watchdog
from container_image_proxy.service.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from container_image_proxy.core.peer import Peer
    from container_image_proxy.core.serving import Serving
    from container_image_proxy.faces.http.limits import ServerLimits
    from container_image_proxy.service.health import Health
    from container_image_proxy.service.notifier import Notifier
    from container_image_proxy.service.reloading import Askers
    from container_image_proxy.service.server import Face

_log = logging.getLogger(__name__)

_REREAD_SECONDS: Final = 2.0
"""After so long the files are read again though nobody came."""
_LAST_SECONDS: Final = 1.0
"""For what is done for no request to end, and the programs that it runs."""
_REREAD_PAUSE: Final = 10
"""For those who may not know, reading is followed by a pause of so many times the computing that it took: however often
they knock, they get less than a tenth of a processor.
"""


def _face_of_packets(serving: Callable[[], Serving]) -> Face:
    from container_image_proxy.faces.image_proxy.face import ImageProxyFace  # noqa: PLC0415 - few daemons have such a socket

    return ImageProxyFace(lambda: NamedImages(serving()))


class Daemon:
    """Serves one instance. ``load`` gives a whole new configuration, or the reason why there is none, as ``state`` does
    for the beginning; ``owner`` is the uid that may stop a stand-alone one.
    """

    def __init__(
        self,
        state: Serving | Degraded,
        load: Callable[[], Serving | Degraded],
        listeners: Sequence[socket.socket],
        limits: ServerLimits,
        notifier: Notifier,
        askers: Askers,
        health: Health,
        *,
        owner: int | None,
    ) -> None:
        self._state = state
        self._load = load
        self._notifier = notifier
        self._askers = askers
        self._health = health
        self._rereading = _Rereading(self._reread)
        self._is_told_to_stop = False
        self._warming: threading.Thread | None = None
        stop = None if owner is None else self._stop
        application = Application(self._serving, stop=stop, owner=owner or 0)
        timers = (notifier, Watchdog(notifier), health, self._rereading)
        has_packets = any(listener.type == socket.SOCK_SEQPACKET for listener in listeners)
        packets = _face_of_packets(self._serving) if has_packets else None
        self._server = Server(listeners, application, limits, self._admits, timers, packets)
        self._server.idle_exit_seconds = state.idle_exit

    @property
    def server(self) -> Server:
        """The server, whose ways of serving are the caller's choice."""
        return self._server

    def run(self, serve: Callable[[], None]) -> None:
        """Answer requests until told to stop, or idle for so long; ``serve`` is one of the server's ways to do so.

        :class:`ConfigurationError` if idleness ends it while there is still no configuration that can be used.
        """
        # A handler runs between any two instructions of whatever the main thread is at, so it only leaves word.
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        signal.signal(signal.SIGINT, lambda *_: self._stop())
        signal.signal(signal.SIGHUP, lambda *_: self._server.call_soon(self.reload))
        _collect_garbage()
        self._begin()
        try:
            serve()
        finally:
            if self._is_told_to_stop:
                self._health.report("")  # of what is stopped nothing is wrong
            self._notifier.stopping()
            self._notifier.close()
            self._state.close()
            if self._warming is not None:
                self._warming.join(_LAST_SECONDS)
        if isinstance(self._state, Degraded) and not self._is_told_to_stop:
            raise self._state.error

    # --- for any thread -----------------------------------------------------------------------------------------------

    def _serving(self) -> Serving:
        """The configuration in force; raises why there is none."""
        state = self._state
        if isinstance(state, Degraded):
            raise state.error.retold(str(state.error))
        return state

    def _stop(self) -> None:
        """For signal handlers, too."""
        self._is_told_to_stop = True
        self._server.call_soon(self._leave)
        self._server.stop()

    # --- for the loop, and the second thread that accepts while the loop waits for it ---------------------------------

    def _leave(self) -> None:
        self._rereading.cancel()
        self._notifier.stopping()

    def _admits(self, peer: Peer) -> bool:
        if isinstance(self._state, Degraded):
            self._rereading.for_somebody(is_told=self._state.admits(peer))
        return self._state.admits(peer)

    def reload(self) -> None:
        """Put a whole new configuration in force, or keep the old one and say so. Running requests end under the one
        they began with.
        """
        askers = self._askers.note()  # before anything is read
        self._notifier.reloading()
        new = self._load()
        if isinstance(new, Degraded) and not isinstance(self._state, Degraded):
            text = "the new configuration is not usable, the old one stays in force: %s"
            _log.error(text, new.error, exc_info=new.defect)
            self._notifier.ready(f"Old configuration in force; the new one is wrong: {new.error}")
            self._health.report(str(new.error))
        else:
            _log.info("the configuration was read anew")
            self._replace(new)
            self._begin()
        self._askers.tell(askers, str(new.error) if isinstance(new, Degraded) else "")

    def _reread(self) -> None:
        """Look whether what could not be used has been mended."""
        old, new = self._state, self._load()
        self._replace(new)
        if isinstance(old, Degraded) and isinstance(new, Degraded) and str(old.error) == str(new.error):
            return
        self._begin()
        if isinstance(old, Degraded) and not isinstance(new, Degraded):
            _log.info("the configuration can be used now")
            self._rereading.later()  # once more: it may have been only half written

    def _replace(self, new: Serving | Degraded) -> None:
        old, self._state = self._state, new
        old.close()
        self._server.idle_exit_seconds = new.idle_exit

    def _begin(self) -> None:
        """Tell what is in force from now on."""
        state = self._state
        if isinstance(state, Degraded):
            text = "without a configuration that can be used, every request is answered with this: %s"
            _log.error(text, state.error, exc_info=state.defect)
            self._notifier.ready(f"Degraded: {state.error}")
            self._health.report(str(state.error))
            self._rereading.later()
        else:
            self._notifier.ready(f"Serving {_count(len(state.images))}: {', '.join(state.images)}")
            self._health.report("")
            self._rereading.cancel()
            self._warming = _warm_up(state)


def _count(images: int) -> str:
    return f"{images} image{'s' * (images != 1)}"


def _warm_up(serving: Serving) -> threading.Thread | None:
    """Neither before READY=1 nor during the first request: while nobody waits."""
    thread = threading.Thread(target=serving.warm_up, name="warm-up", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # no more threads: the first request does what there is to do
        _log.warning("nothing is prepared for the first request: %s", error)
        return None
    return thread


def _collect_garbage() -> None:
    """From now on, and only what is made from now on: that of requests, whose errors are cycles at times."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


class _Rereading:
    """When to read again, as a timer of the loop."""

    def __init__(self, read: Callable[[], None]) -> None:
        self._read = read
        self._next: float | None = None
        self._earliest = 0.0

    def due(self) -> float | None:
        """When, if nobody comes."""
        return self._next

    def run(self) -> None:
        """Read again if that is due."""
        if self._next is not None and time.monotonic() >= self._next:
            self._now()

    def for_somebody(self, *, is_told: bool) -> None:
        """Read again before somebody is answered; for who ``is_told`` nothing, not if that has just been done."""
        if is_told or time.monotonic() >= self._earliest:
            self._now()

    def later(self) -> None:
        """Have it done in a while."""
        self._next = time.monotonic() + _REREAD_SECONDS

    def cancel(self) -> None:
        """There is no need any more."""
        self._next = None

    def _now(self) -> None:
        began = time.thread_time()
        self._next = time.monotonic() + _REREAD_SECONDS
        self._read()
        self._earliest = time.monotonic() + _REREAD_PAUSE * (time.thread_time() - began)
