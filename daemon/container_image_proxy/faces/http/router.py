"""Which handler answers which method and path. Pure.

A pattern is a path in which ``{name}`` matches one segment, and ``{name...}`` any number of them, slashes included. A
malformed rest of a path is thus judged by the handler, which knows what it should be. Segments are percent-decoded
once, after they were split, so that an encoded slash stays within its segment. Spec: RFC 9110 sections 9.1 and 9.3.2.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import unquote

from msgspec import Struct

from container_image_proxy.errors import InvalidInputError, NotFoundError, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

Handler = TypeVar("Handler")


class MethodNotAllowedError(InvalidInputError):
    """The path exists, but not with this method. ``allowed`` are the methods that it takes (``Allow``)."""

    def __init__(self, method: str, path: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"{method} is not possible on {path}; {', '.join(allowed)} is")
        self.allowed = allowed


class Route(Struct, Generic[Handler], frozen=True):
    """One line of the table of routes."""

    method: str
    pattern: str
    handler: Handler

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that the route takes: HEAD wherever it takes GET (RFC 9110 section 9.3.2)."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)

    def match(self, path: str) -> dict[str, str] | None:
        """The percent-decoded values of the pattern's names; None if ``path`` does not match."""
        found = _compile(self.pattern).fullmatch(path)
        return found and {name: unquote(value, errors="surrogateescape") for name, value in found.groupdict().items()}


@cache
def _compile(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression."""
    whole = re.sub(r"\\\{(\w+)\\\.\\\.\\\.\\\}", r"(?P<\1>.*)", re.escape(pattern))
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]*)", whole), re.DOTALL)


def find_route(routes: Sequence[Route[Handler]], method: str, path: str) -> tuple[Handler, dict[str, str]]:
    """The handler of the first route that fits, and the values of its pattern. ``path`` is percent-encoded.

    Raises :class:`NotFoundError`, or :class:`MethodNotAllowedError` if only the method does not fit.
    """
    allowed: list[str] = []
    for route in routes:
        values = route.match(path)
        if values is not None and method in route.methods:
            return route.handler, values
        if values is not None:
            allowed += route.methods
    if allowed:
        raise MethodNotAllowedError(method[:20], path[:200], tuple(allowed))
    raise NotFoundError(f"there is nothing at {shown(path)}; see container-image-proxy-http(7) for what there is")
