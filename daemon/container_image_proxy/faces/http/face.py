"""HTTP as the server uses it: a connection for each client, and an answer for those who are turned away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from container_image_proxy.faces.http.channel import SocketChannel
from container_image_proxy.faces.http.connection import Connection
from container_image_proxy.faces.http.refusal import refusal

if TYPE_CHECKING:
    import socket

    from container_image_proxy.core.peer import Peer
    from container_image_proxy.faces.http.channel import Channel
    from container_image_proxy.faces.http.exchange import Application
    from container_image_proxy.faces.http.limits import ServerLimits
    from container_image_proxy.faces.http.request_head import RefusedRequestError


class HttpFace:
    """Answers requests by ``application``, a WSGI application (PEP 3333)."""

    def __init__(self, application: Application, limits: ServerLimits) -> None:
        self._application = application
        self._limits = limits

    def connect(self, sock: socket.socket, peer: Peer) -> Connection:
        """The connection of a client, to be run in a thread."""
        return self.speak(SocketChannel(sock), peer)

    def speak(self, channel: Channel, peer: Peer) -> Connection:
        """The same for a client that is no socket."""
        return Connection(channel, peer, self._application, self._limits)

    def refusal(self, error: RefusedRequestError) -> bytes:
        """The whole answer to a client that is turned away."""
        return b"".join(refusal(error))
