"""A process that serves its parent alone, over the socket that it was given, and ends with it.

It speaks skopeo's image proxy protocol (contrib/adr/0040).
"""

from __future__ import annotations

import gc
import signal
import threading
from typing import TYPE_CHECKING

from container_image_proxy.core.peer import read_peer
from container_image_proxy.errors import ConfigurationError
from container_image_proxy.faces.image_proxy.face import ImageProxyFace
from container_image_proxy.faces.image_proxy.limits import STAND_ALONE
from container_image_proxy.service.server import Server

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from container_image_proxy.core.opening import AnyImages


def serve_parent(sock: socket.socket, load: Callable[[], AnyImages]) -> None:
    """Serve the images of ``load`` until the parent closes its end, or sends ``Shutdown`` or SIGTERM.

    An unusable configuration is the answer to ``Initialize``, because the parent may not look at standard error.
    """
    try:
        loaded: AnyImages | ConfigurationError = load()
    except ConfigurationError as error:
        loaded = error

    def warm_up() -> None:
        if not isinstance(loaded, ConfigurationError):
            loaded.warm_up()
        gc.enable()  # the start did without, see __main__

    warming = threading.Thread(target=warm_up, name="warm-up", daemon=True)

    def usable() -> AnyImages:
        if isinstance(loaded, ConfigurationError):
            raise loaded.retold(str(loaded))
        warming.join()  # in Initialize, so that no OpenImage waits for it
        return loaded

    server = Server([], packets=ImageProxyFace(usable, STAND_ALONE))
    # Clients have the kernel send SIGTERM when they end (PR_SET_PDEATHSIG).
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    warming.start()
    try:
        server.serve_connection(sock, read_peer(sock))
    finally:
        if not isinstance(loaded, ConfigurationError):
            loaded.close()
