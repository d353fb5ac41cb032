"""``WWW-Authenticate``: reading challenges, and the scopes that they ask for. Pure.

The value of each line is a list of challenges. Registries and the proxies before them write such lists in many ways, so
reading is tolerant of spaces around ``=``, empty list elements, missing commas, and values that should have been
quoted. Something that cannot be read ends its line; the challenges before it count.
Must not decide which challenge is answered, nor whether it may be.
Spec: RFC 9110 sections 11.2 and 11.6.1, RFC 6750 section 3, distribution's token scopes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.registry.http.headers import QUOTED_CONTENT, TOKEN, unquote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_GAP: Final = re.compile(r"[\s,]*")
# A scheme stands alone; a word before "=" is a parameter's name.
_SCHEME: Final = re.compile(rf"({TOKEN})(?=[\s,]|$)\s*")
# "Negotiate oRQwEqADCg==": one value without a name, up to the next comma.
_TOKEN68: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*\s*(?=,|$)")
# Without quotes a value may only be a word, but realms are URLs and some registries forget the quotes.
_PARAMETER: Final = re.compile(rf'({TOKEN})\s*=\s*(?:"({QUOTED_CONTENT})"|([^\s,"]+))')
_SCOPE_PARTS: Final = 3


class Challenge(Struct, frozen=True):
    """One demand for authentication. ``scheme`` and the names of parameters are lower case, values are unquoted."""

    scheme: str
    parameters: Mapping[str, str]


class TokenScope(Struct, frozen=True, order=True):
    """What a token is good for: ``repository:library/busybox:pull`` (distribution's token scope, without its class)."""

    resource_type: str
    name: str
    actions: str

    def __str__(self) -> str:
        return f"{self.resource_type}:{self.name}:{self.actions}"


def parse_challenges(header_values: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges of all ``WWW-Authenticate`` lines, in order."""
    return tuple(challenge for value in header_values for challenge in _parse_line(value))


def _parse_line(value: str) -> Iterator[Challenge]:
    position = _skip_gap(value, 0)
    while scheme := _SCHEME.match(value, position):
        parameters: dict[str, str] = {}
        position = scheme.end()
        if token := _TOKEN68.match(value, position):
            position = token.end()
        position = _skip_gap(value, position)
        while parameter := _PARAMETER.match(value, position):
            name, quoted, bare = parameter.groups()
            parameters[name.lower()] = unquote(quoted) if quoted is not None else bare
            position = _skip_gap(value, parameter.end())
        yield Challenge(scheme[1].lower(), parameters)


def _skip_gap(value: str, position: int) -> int:
    """The position behind the white space and commas at ``position``."""
    gap = _GAP.match(value, position)
    return gap.end() if gap else position


def parse_scope(text: str) -> TokenScope | None:
    """Read ``repository:library/busybox:pull``; None for anything that is not three words with colons between them."""
    parts = text.split(":")
    return TokenScope(*parts) if len(parts) == _SCOPE_PARTS and all(parts) else None


def missing_scope(challenges: Iterable[Challenge]) -> TokenScope | None:
    """The scope that a registry says our token lacks (RFC 6750 section 3.1, ``insufficient_scope``); None if none."""
    for challenge in challenges:
        if challenge.scheme == "bearer" and challenge.parameters.get("error") == "insufficient_scope":
            return parse_scope(challenge.parameters.get("scope", ""))
    return None
