"""The daemon's life: start, answer, reload on SIGHUP, drain on SIGTERM, leave when idle.

Knows no option and no file by itself: it is given a function that reads the configuration anew and the sockets to
serve.
"""

from __future__ import annotations

import logging
import signal
import threading
from typing import TYPE_CHECKING

from container_image_proxy.errors import Error
from container_image_proxy.service.app import Application
from container_image_proxy.service.notifier import Watchdog
from container_image_proxy.service.server import Server

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from container_image_proxy.service.limits import ServerLimits
    from container_image_proxy.service.notifier import Notifier
    from container_image_proxy.service.peer import Peer
    from container_image_proxy.service.serving import Serving

_log = logging.getLogger(__name__)


class Daemon:
    """Serves one instance. ``load`` gives a whole new configuration or raises; ``owner`` is the uid that may stop a
    stand-alone one.
    """

    def __init__(
        self,
        serving: Serving,
        load: Callable[[], Serving],
        listeners: Sequence[socket.socket],
        limits: ServerLimits,
        notifier: Notifier,
        *,
        owner: int | None,
    ) -> None:
        self._load = load
        self._serving = serving
        self._notifier = notifier
        stop = None if owner is None else self._stop
        application = Application(lambda: self._serving, stop=stop, owner=owner or 0)
        chores = (notifier, Watchdog(notifier))
        self._server = Server(listeners, application, limits, self._admits, chores)

    @property
    def server(self) -> Server:
        """The server, whose ways of serving are the caller's choice."""
        return self._server

    def run(self, serve: Callable[[], None]) -> None:
        """Answer requests until told to stop, or idle for so long; ``serve`` is one of the server's ways to do so."""
        # A handler runs between any two instructions of whatever the main thread is at, so it only leaves word.
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        signal.signal(signal.SIGINT, lambda *_: self._stop())
        signal.signal(signal.SIGHUP, lambda *_: self._server.call_soon(self.reload))
        self._notifier.ready(self._status())
        self._warm_up()
        try:
            serve()
        finally:
            self._notifier.stopping()
            self._notifier.close()
            self._serving.close()

    def reload(self) -> None:
        """Put a whole new configuration in force, or keep the old one and say so. Running requests end under the one
        they began with.
        """
        self._notifier.reloading()
        old = self._serving
        try:
            self._serving = self._load()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the new one, the old one works
            foreign = error if not isinstance(error, Error) else None
            _log.error("the new configuration is not usable, the old one stays in force: %s", error, exc_info=foreign)
            self._notifier.ready(f"Old configuration in force; the new one is wrong: {error}")
        else:
            _log.info("the configuration was read anew")
            old.close()
            self._server.idle_exit_seconds = self._serving.settings.idle_exit
            self._notifier.ready(self._status())
            self._warm_up()

    def _admits(self, peer: Peer) -> bool:
        return self._serving.admits(peer)

    def _stop(self) -> None:
        """For any thread and signal handlers."""
        self._server.call_soon(self._notifier.stopping)
        self._server.stop()

    def _status(self) -> str:
        images = self._serving.images
        return f"Serving {len(images)} image{'s' * (len(images) != 1)}: {', '.join(images)}"

    def _warm_up(self) -> None:
        """Neither before READY=1 nor during the first request: while nobody waits."""
        try:
            threading.Thread(target=self._serving.warm_up, name="warm-up", daemon=True).start()
        except RuntimeError as error:  # no more threads: the first request does what there is to do
            _log.warning("nothing is prepared for the first request: %s", error)
