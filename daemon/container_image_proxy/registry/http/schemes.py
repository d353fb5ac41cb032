"""https, or http where that is allowed: which of the two an endpoint speaks is learned from its answers.

containers-registries.conf(5): ``insecure`` allows both. Must never speak http with any other registry.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from msgspec.structs import replace

from container_image_proxy.errors import UpstreamError
from container_image_proxy.registry.http.failures import TlsRefusedError
from container_image_proxy.registry.http.headers import parse_media_type
from container_image_proxy.registry.http.target import parse_target

if TYPE_CHECKING:
    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.registry.http.reply import Reply
    from container_image_proxy.registry.http.request import Request
    from container_image_proxy.registry.http.sender import Sender
    from container_image_proxy.registry.http.target import Target


class Schemes:
    """A :class:`Sender` that puts https or http in the place of the target's scheme. Thread-safe."""

    def __init__(self, inner: Sender) -> None:
        self._inner = inner
        self._known: dict[str, str] = {}

    def send(self, request: Request, context: Context) -> Reply:
        """The answer over https, or over http where that is allowed and https has never worked.

        The scheme that brought a useful answer comes first the next time. Raises :class:`UpstreamError`: of the first
        scheme, if neither reached the registry.
        """
        endpoint = request.endpoint
        known = self._known.get(endpoint.authority)
        if known == "https" or not endpoint.insecure:
            return self._speak("https", request, context)
        first, second = ("http", "https") if known == "http" else ("https", "http")
        failure: UpstreamError | None = None
        unfit: Reply | None = None
        try:
            reply = self._speak(first, request, context)
            if not _is_from_tls_port(reply, first):
                return reply
            reply.error(context)  # reads it to its end, for it may remain the answer
            unfit = reply
        except UpstreamError as error:
            if not _could_not_connect(error, request, first):
                raise
            failure = error
        try:
            reply = self._speak(second, request, context)
        except UpstreamError as error:
            if not _could_not_connect(error, request, second):
                raise error from None
            if unfit is not None:
                return unfit
            raise failure or error from None
        # The port does speak TLS, and did not come to terms with us: its answer in the clear tells less than that.
        if isinstance(failure, TlsRefusedError) and _is_from_tls_port(reply, second):
            reply.close()
            raise failure
        return reply

    def _speak(self, scheme: str, request: Request, context: Context) -> Reply:
        authority = request.endpoint.authority
        try:
            reply = self._inner.send(replace(request, target=_over(scheme, request.target)), context)
        except UpstreamError:
            # A registry that spoke http may speak https by now. One that spoke https is never asked in the clear again.
            if self._known.get(authority) == scheme == "http":
                self._known.pop(authority, None)
            raise
        # An error in the clear may come from whoever sits in between. Going by it would mean to speak http for good.
        if scheme == "https" or reply.status in request.expected:
            self._known[authority] = scheme
        return reply


def _is_from_tls_port(reply: Reply, scheme: str) -> bool:
    """Whether this is how a server answers plain text on a port for TLS: 400. A registry's own errors are JSON."""
    media_type = parse_media_type(reply.header("Content-Type") or "")
    return scheme == "http" and reply.status == HTTPStatus.BAD_REQUEST and not media_type.endswith("json")


def _could_not_connect(error: UpstreamError, request: Request, scheme: str) -> bool:
    """Whether it was the registry that could not be reached, and not a host to which it redirected."""
    return error.phase == "connect" and error.endpoint == _over(scheme, request.target).origin.authority


def _over(scheme: str, target: Target) -> Target:
    """The same target over ``scheme``."""
    if target.origin.scheme == scheme:
        return target
    return parse_target(f"{scheme}:{target.url.partition(':')[2]}")
