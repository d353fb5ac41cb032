"""The daemon's life: start, answer, reload on SIGHUP, drain on SIGTERM, exit when idle.

As long as no configuration can be used it is degraded: it answers every request with the reason, and reads the files
again until they are mended (contrib/adr/0023). No client waits for that, and nothing has to be started anew.
Must not know options or files: it is given the sockets, and a function that reads the configuration anew.
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
"""Seconds after which a degraded daemon reads the files again although nobody has connected."""
_LAST_SECONDS: Final = 1.0
"""Seconds for work that is done for no request to end, with the programs that it runs."""
_REREAD_PAUSE: Final = 10
"""After reading the files for a peer that may not have the answer, none is read for such a peer for so many times the
processor time that it took: however often it connects, it gets less than a tenth of a processor.
"""


class Daemon:
    """Serves one instance.

    ``state`` is the configuration at the start, or the reason why there is none. ``load`` returns a new one of these.
    ``owner`` is the uid that may stop a stand-alone daemon; None for one that only the service manager stops.
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
        packets: Face | None = None
        if any(listener.type == socket.SOCK_SEQPACKET for listener in listeners):
            from container_image_proxy.faces.image_proxy.face import ImageProxyFace  # noqa: PLC0415 - few have such a socket

            packets = ImageProxyFace(lambda: NamedImages(self._serving()))
        self._server = Server(listeners, application, limits, self._admits, timers, packets)
        self._server.idle_exit_seconds = state.idle_exit

    @property
    def server(self) -> Server:
        """The server. The caller chooses by which of its methods it serves."""
        return self._server

    def run(self, serve: Callable[[], None]) -> None:
        """Answer requests until told to stop, or idle for its time. ``serve`` is one of the server's methods.

        Raises :class:`ConfigurationError` if the daemon is idle while there is still no usable configuration.
        """
        # A handler runs between any two instructions of the main thread, so it only leaves a message for the loop.
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        signal.signal(signal.SIGINT, lambda *_: self._stop())
        signal.signal(signal.SIGHUP, lambda *_: self._server.call_soon(self.reload))
        # The start did without a garbage collector. What it made stays; requests make cycles, in errors for one.
        if not gc.isenabled():
            gc.freeze()
            gc.enable()
        self._begin()
        try:
            serve()
        finally:
            if self._is_told_to_stop:
                self._health.report("")  # a stopped daemon has no fault that monitoring should show
            self._notifier.stopping()
            self._notifier.close()
            self._state.close()
            if self._warming is not None:
                self._warming.join(_LAST_SECONDS)
        if isinstance(self._state, Degraded) and not self._is_told_to_stop:
            raise self._state.error

    # --- for any thread -----------------------------------------------------------------------------------------------

    def _serving(self) -> Serving:
        """The configuration in force. Raises :class:`ConfigurationError` if there is none."""
        state = self._state
        if isinstance(state, Degraded):
            raise state.error.retold(str(state.error))
        return state

    def _stop(self) -> None:
        """Begin to stop. Signal handlers call it, too."""
        self._is_told_to_stop = True
        self._server.call_soon(self._leave)
        self._server.stop()

    # --- for the loop, and the second thread that accepts while the loop waits for it ---------------------------------

    def _leave(self) -> None:
        self._rereading.cancel()
        self._notifier.stopping()

    def _admits(self, peer: Peer) -> bool:
        """Whether the peer may talk to us. A degraded daemon first looks whether the files have been mended."""
        if isinstance(self._state, Degraded):
            self._rereading.for_somebody(is_told=self._state.admits(peer))
        return self._state.admits(peer)

    def reload(self) -> None:
        """Put a new configuration in force, or keep the old one and report that.

        Running requests end under the configuration that they began with.
        """
        askers = self._askers.note()  # before anything is read: whoever asks later wants files that are newer
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
        """Read the configuration again, and put it in force if it can be used now."""
        old, new = self._state, self._load()
        self._replace(new)
        if isinstance(old, Degraded) and isinstance(new, Degraded) and str(old.error) == str(new.error):
            return
        self._begin()
        if isinstance(old, Degraded) and not isinstance(new, Degraded):
            _log.info("the configuration can be used now")
            self._rereading.later()  # once more: a file may have been only half written

    def _replace(self, new: Serving | Degraded) -> None:
        old, self._state = self._state, new
        old.close()
        self._server.idle_exit_seconds = new.idle_exit

    def _begin(self) -> None:
        """Report what is in force from now on, to the service manager, to monitoring and in the log."""
        state = self._state
        if isinstance(state, Degraded):
            text = "without a configuration that can be used, every request is answered with this: %s"
            _log.error(text, state.error, exc_info=state.defect)
            self._notifier.ready(f"Degraded: {state.error}")
            self._health.report(str(state.error))
            self._rereading.later()
        else:
            images = "1 image" if len(state.images) == 1 else f"{len(state.images)} images"
            self._notifier.ready(f"Serving {images}: {', '.join(state.images)}")
            self._health.report("")
            self._rereading.cancel()
            self._warming = _warm_up(state)


def _warm_up(serving: Serving) -> threading.Thread | None:
    """Prepare for the first request in a thread: neither READY=1 nor that request waits for it."""
    thread = threading.Thread(target=serving.warm_up, name="warm-up", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # no more threads: the first request does what there is to do
        _log.warning("nothing is prepared for the first request: %s", error)
        return None
    return thread


class _Rereading:
    """When a degraded daemon reads its files again, as a timer of the loop."""

    def __init__(self, read: Callable[[], None]) -> None:
        self._read = read
        self._next: float | None = None
        self._earliest = 0.0

    def due(self) -> float | None:
        """When to read if nobody connects before, on the monotonic clock."""
        return self._next

    def run(self) -> None:
        """Read again if that is due."""
        if self._next is not None and time.monotonic() >= self._next:
            self._now()

    def for_somebody(self, *, is_told: bool) -> None:
        """Read again before a peer is answered. For a peer that is not told the reason, not too often."""
        if is_told or time.monotonic() >= self._earliest:
            self._now()

    def later(self) -> None:
        """Read again in a while."""
        self._next = time.monotonic() + _REREAD_SECONDS

    def cancel(self) -> None:
        """Do not read again."""
        self._next = None

    def _now(self) -> None:
        began = time.thread_time()
        self._next = time.monotonic() + _REREAD_SECONDS
        self._read()
        self._earliest = time.monotonic() + _REREAD_PAUSE * (time.thread_time() - began)
