"""Redirects, followed under our rules: credentials for one origin never reach another (contrib/adr/0018).

Below the login in the stack of senders, so that nothing adds again what is dropped here. Spec: RFC 9110 section 15.4.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from container_image_proxy.errors import RegistryError
from container_image_proxy.registry.http.target import parse_target

if TYPE_CHECKING:
    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.limits import Limits
    from container_image_proxy.registry.http.reply import Reply
    from container_image_proxy.registry.http.request import Request
    from container_image_proxy.registry.http.sender import Sender

_REDIRECTS: Final = frozenset(
    {
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.SEE_OTHER,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    }
)


class Redirects:
    """A :class:`Sender` that follows redirects. All hops of a request together have the time of one."""

    def __init__(self, inner: Sender, limits: Limits) -> None:
        self._inner = inner
        self._limits = limits

    def send(self, request: Request, context: Context) -> Reply:
        """The first answer that is no redirect. Raises :class:`RegistryError` for a redirect that must not be followed,
        and what the sender below raises.
        """
        # Connecting and the TLS handshake have a connect_timeout each.
        context = context.within(2 * self._limits.connect_timeout + self._limits.first_byte_timeout)
        for _ in range(self._limits.redirects + 1):
            reply = self._inner.send(request, context)
            location = reply.header("Location")
            if reply.status not in _REDIRECTS or not location:
                return reply
            reply.discard(context)
            request = _follow(request, location)
        raise _refused(request, f"redirects more than {self._limits.redirects} times")


def _follow(request: Request, location: str) -> Request:
    """The request that a redirect asks for, without what its target must not see."""
    here = request.target
    try:
        there = parse_target(location, here)
    except RegistryError as error:
        raise _refused(request, f"redirects to a URL that cannot be asked for: {error}") from None
    if there.origin == here.origin:
        if there.is_in_api or not here.is_in_api:
            return replace(request, target=there)
        # Storage within the registry's origin: it refuses a signed link that comes with another login.
        return replace(request, target=there, authorization=None, withheld=request.authorization)
    # The form of a request for a token holds the identity token itself.
    if not request.may_leave_origin:
        raise _refused(request, "redirects to another host, where requests for tokens do not go")
    if here.origin.scheme == "https" and there.origin.scheme == "http" and not request.endpoint.insecure:
        raise _refused(request, "redirects from https to http")
    return replace(request, target=there, authorization=None, withheld=None, is_named=False, trusts_target=False)


def _refused(request: Request, reason: str) -> RegistryError:
    return request.fault(RegistryError, f"{request.endpoint.domain} {reason}", endpoint=request.endpoint.domain)
