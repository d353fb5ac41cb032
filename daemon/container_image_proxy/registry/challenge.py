"""``WWW-Authenticate``: reading challenges. Pure.

RFC 9110 section 11.6.1 as the registry ecosystem reads it: one challenge a header line; what follows the first
malformed parameter is ignored, so that a half-broken challenge still names its realm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_SCHEME: Final = re.compile(rf"\s*({_WORD})\s*")
_PARAMETER: Final = re.compile(rf'\s*({_WORD})=(?:"((?:[^"\\]|\\.)*)"|({_WORD}))')
_SEPARATOR: Final = re.compile(r"\s*,")
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_SCOPE_PARTS: Final = 3


@dataclass(frozen=True, slots=True)
class Challenge:
    """One demand for authentication; ``scheme`` and parameter names are lower case."""

    scheme: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """What a token is good for (distribution's token scope, without its resource class)."""

    resource_type: str
    name: str
    actions: str

    def __str__(self) -> str:
        return f"{self.resource_type}:{self.name}:{self.actions}"


def parse_challenges(header_values: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges of all ``WWW-Authenticate`` lines, in order; lines without a scheme are skipped."""
    return tuple(challenge for value in header_values if (challenge := _parse_challenge(value)) is not None)


def _parse_challenge(value: str) -> Challenge | None:
    scheme = _SCHEME.match(value)
    return Challenge(scheme[1].lower(), _parse_parameters(value, scheme.end())) if scheme else None


def _parse_parameters(value: str, position: int) -> dict[str, str]:
    parameters: dict[str, str] = {}
    while parameter := _PARAMETER.match(value, position):
        name, quoted, bare = parameter.groups()
        parameters[name.lower()] = _ESCAPE.sub(r"\1", quoted) if quoted is not None else bare
        separator = _SEPARATOR.match(value, parameter.end())
        if not separator:
            break
        position = separator.end()
    return parameters


def parse_scope(text: str) -> Scope | None:
    """``repository:library/busybox:pull`` as a :class:`Scope`; None for anything else."""
    parts = text.split(":")
    return Scope(*parts) if len(parts) == _SCOPE_PARTS and all(parts) else None


def missing_scope(challenges: Iterable[Challenge]) -> Scope | None:
    """The scope that a registry says our token lacks (RFC 6750 section 3.1 ``insufficient_scope``)."""
    for challenge in challenges:
        if challenge.scheme == "bearer" and challenge.parameters.get("error") == "insufficient_scope":
            return parse_scope(challenge.parameters.get("scope", ""))
    return None
