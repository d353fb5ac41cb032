"""The one shape of all layers on the way to a registry: each sends a request on through the layer below it.

From the top: ``Schemes`` (https, then http where that is allowed), ``Login``, ``Redirects``, ``Connections``. Redirects
are below the login, because they drop the credentials from a request, and no layer below may add them again. A request
is for one endpoint, so the loop over endpoints is above all layers (``registry/attempts.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.registry.http.reply import Reply
    from container_image_proxy.registry.http.request import Request


class Sender(Protocol):
    """A layer, or all that are below one. Thread-safe."""

    def send(self, request: Request, context: Context) -> Reply:
        """The answer, its head read and its body not. Its status may be any, unless the layer says otherwise.

        Raises :class:`UpstreamError` if there is no answer.
        """
