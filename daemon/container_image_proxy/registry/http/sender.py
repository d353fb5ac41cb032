"""The one shape of the way to a registry: each layer sends a request on through the one below it.

From the top: ``Schemes`` (https, then http where that is allowed), ``Login``, ``Redirects``, ``Connections``. Redirects
are below the login, so that what they drop of a request, its credentials, no layer adds again. Above all of them is the
loop over endpoints (``registry/attempts.py``), for a request is for one endpoint.
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
        """The answer, whose head came in time; its status may be anything that the layer does not say otherwise of.

        Raises :class:`UpstreamError` if there is none.
        """
