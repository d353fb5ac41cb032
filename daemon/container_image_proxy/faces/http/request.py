"""A request as handlers see it, and the image that it is about. Must not answer."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from msgspec import Struct

from container_image_proxy.config.instances import is_image_name
from container_image_proxy.errors import InvalidInputError, InvalidQueryError, PeerDeniedError, UnknownImageError, shown
from container_image_proxy.faces.http.exchange import CONTEXT, LOG_FIELDS, PEER, RAW_PATH
from container_image_proxy.image.platform import parse_platform

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from wsgiref.types import WSGIEnvironment

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.core.peer import Peer
    from container_image_proxy.core.serving import Serving
    from container_image_proxy.image.platform import Platform


class ClientRequest(Struct, frozen=True):
    """What handlers need to know of a request. ``path`` is percent-encoded. ``log`` takes fields for the access log."""

    method: str
    path: str
    query: str
    host: str
    if_none_match: str | None
    if_range: str | None
    range: str | None
    peer: Peer
    context: Context
    log: MutableMapping[str, str]

    @classmethod
    def of(cls, environ: WSGIEnvironment) -> ClientRequest:
        """The request in a WSGI environment that our server made."""
        return cls(
            method=environ["REQUEST_METHOD"],
            path=environ[RAW_PATH],
            query=environ.get("QUERY_STRING", ""),
            host=environ.get("HTTP_HOST", ""),
            if_none_match=environ.get("HTTP_IF_NONE_MATCH"),
            if_range=environ.get("HTTP_IF_RANGE"),
            range=environ.get("HTTP_RANGE") if environ["REQUEST_METHOD"] == "GET" else None,  # RFC 9110 section 14.2
            peer=environ[PEER],
            context=environ[CONTEXT],
            log=environ[LOG_FIELDS],
        )

    def platform(self) -> Platform | None:
        """The platform that the query asks for; None without one. There is no other parameter.

        Raises :class:`InvalidQueryError` or :class:`InvalidPlatformError`.
        """
        if not self.query:
            return None
        try:
            parameters = parse_qsl(self.query, keep_blank_values=True, strict_parsing=True, max_num_fields=2)
        except ValueError as error:
            raise InvalidQueryError("the query is not name=value") from error
        if [name for name, _ in parameters] != ["platform"]:
            raise InvalidQueryError("the query may say platform=os/architecture[/variant] once, and nothing else")
        return parse_platform(parameters[0][1])


def choose_image(request: ClientRequest, serving: Serving, name: str | None) -> str:
    """The name of the image that the request is about: ``name``, or the default one without it.

    Raises :class:`InvalidInputError`, :class:`UnknownImageError`, and :class:`PeerDeniedError` if the peer may not have
    it.
    """
    if name is not None and not is_image_name(name):
        raise InvalidInputError(f"{shown(name)} cannot be the name of an image")
    chosen = serving.default if name is None else name
    if chosen is None:
        raise UnknownImageError("this instance has several images and no default: ask for /images/NAME/...")
    request.log["IMAGE"] = serving.proxy.image(chosen).name
    if not serving.permits(request.peer, chosen):
        raise PeerDeniedError(f"{request.peer} is not allowed to have image {chosen!r}")
    return chosen
