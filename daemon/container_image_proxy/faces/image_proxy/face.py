"""The protocol as the server uses it: a connection for each client, and an answer for those who are turned away."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from container_image_proxy.faces.image_proxy import messages
from container_image_proxy.faces.image_proxy.connection import Connection
from container_image_proxy.faces.image_proxy.limits import ImageProxyLimits, Room
from container_image_proxy.faces.image_proxy.session import Shared

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from container_image_proxy.core.opening import Images
    from container_image_proxy.core.peer import Peer
    from container_image_proxy.errors import Error


class ImageProxyFace:
    """Serves the images that ``images`` returns. An error that it raises is the answer to requests."""

    def __init__(self, images: Callable[[], Images], limits: ImageProxyLimits = ImageProxyLimits()) -> None:  # noqa: B008
        self._shared = Shared(images, limits, threading.BoundedSemaphore(limits.transfers), Room(limits.held_bytes))

    def connect(self, sock: socket.socket, peer: Peer) -> Connection:
        """The connection of a client, to be run in a thread."""
        return Connection(sock, peer, self._shared)

    def refusal(self, error: Error) -> bytes:
        """The answer to the first request of a client that is turned away."""
        return messages.failure(error)
