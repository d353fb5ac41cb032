"""Asking a registry with whatever login it wants: none, Basic or Bearer, as its challenges say.

A challenge is looked for where registries put it: in the answer itself, whatever it denies and how, and at ``/v2/``. It
is remembered as long as it can be answered, so that later requests carry their ``Authorization`` from the start and
cost one round trip. A token that expired is renewed once in a request, a scope that is missing is added once.

Only the registry's own origin may say where credentials go. Where a registry redirects to wants a login, too, at times:
it gets the anonymous token that its challenge asks for, and never credentials.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field
from msgspec.structs import replace

from container_image_proxy.errors import RegistryAuthError, RegistryError, UpstreamError
from container_image_proxy.registry.auth.challenge import (
    Challenge,
    TokenScope,
    missing_scope,
    parse_challenges,
    parse_scope,
)
from container_image_proxy.registry.auth.denials import denied_by_registry, denied_elsewhere
from container_image_proxy.registry.auth.token import TokenRequest, basic_authorization
from container_image_proxy.registry.http.request import Request
from container_image_proxy.registry.http.target import parse_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.registry.auth.keychain import Credentials, Keychain
    from container_image_proxy.registry.auth.token import Tokens
    from container_image_proxy.registry.endpoints import Endpoint
    from container_image_proxy.registry.http.reply import Reply
    from container_image_proxy.registry.http.sender import Sender
    from container_image_proxy.registry.http.target import Target

_log = logging.getLogger(__name__)
# Some registries deny the existence of what a stranger may not see.
_DISGUISES: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})
_REFUSALS: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
# Seconds for which a registry that let strangers in at /v2/ is believed that it lacks what it says it lacks.
_OPEN_FOR: Final = 600.0


class _Visit(Struct):
    """One request's way in: who we are there, what we ask for, and what was tried.

    ``failures`` are challenges that led nowhere, so that none is followed twice; ``offered`` are the schemes by which
    the registry lets people log in.
    """

    endpoint: Endpoint
    repository: str
    context: Context
    credentials: Credentials | None
    scopes: list[TokenScope]
    authorization: str | None = None
    failures: list[tuple[Challenge, UpstreamError]] = field(default_factory=list)
    offered: tuple[str, ...] = ()
    has_answered: bool = False
    has_renewed_elsewhere: bool = False
    has_insisted: bool = False
    has_widened: bool = False

    def __repr__(self) -> str:
        return f"_Visit({self.endpoint!r}, {self.repository!r})"  # the rest has secrets in it


class Login:
    """A :class:`Sender` that answers the challenges of registries. Thread-safe."""

    def __init__(
        self, inner: Sender, tokens: Tokens, keychain: Keychain, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._inner = inner
        self._tokens = tokens
        self._keychain = keychain
        self._clock = clock
        self._challenges: dict[str, Challenge] = {}
        self._open_until: dict[str, float] = {}

    def send(self, request: Request, context: Context) -> Reply:
        """The registry's answer to ``request``, logged in if it wants that; its status may be anything but 401 and 403,
        unless these are rate limits.

        Raises :class:`RegistryAuthError` if we are not let in, other :class:`UpstreamError` as they come.
        """
        visit = _Visit(
            request.endpoint,
            request.repository,
            context,
            self._keychain.find(context, f"{request.endpoint.domain}/{request.repository}"),
            [TokenScope("repository", request.repository, "pull")],
        )
        visit.authorization = self._recall(visit)
        reply = self._inner.send(replace(request, authorization=visit.authorization), context)
        while reply.status >= HTTPStatus.BAD_REQUEST:
            if reply.error(context).retryable:  # what may pass, as a rate limit does whatever its status, is no denial
                return reply
            following = self._follow_up(request, reply, visit)
            if following is None:
                return _conclude(reply, visit)
            reply = self._inner.send(following, context)
        return reply

    def _recall(self, visit: _Visit) -> str | None:
        """The ``Authorization`` by the last challenge; None without one, or if it leads nowhere any more: it may be
        outdated, and only the registry knows a newer.
        """
        known = self._challenges.get(visit.endpoint.authority)
        if known is None:
            return None
        try:
            return self._authorize(known, visit)
        except UpstreamError as error:
            _log.info("%s is asked for its challenge anew: %s", visit.endpoint.domain, error)
            self._challenges.pop(visit.endpoint.authority, None)
            visit.failures.append((known, error))
            return None

    def _follow_up(self, request: Request, reply: Reply, visit: _Visit) -> Request | None:
        """What to ask after a denial; None if that was all."""
        if not visit.endpoint.is_at(reply.request.target.origin):
            return self._follow_elsewhere(request, reply, visit)
        if reply.request.withheld is not None and reply.status in _REFUSALS and not visit.has_insisted:
            visit.has_insisted = True
            return replace(reply.request, authorization=reply.request.withheld, withheld=None)
        if not self._is_answerable(reply, visit):
            return None
        before = visit.authorization
        visit.authorization = self._find_way(request, reply, visit) or before
        return replace(request, authorization=visit.authorization) if visit.authorization != before else None

    def _is_answerable(self, reply: Reply, visit: _Visit) -> bool:
        """Whether a better ``Authorization`` may help: a first, one for more, or a newer one."""
        scope = missing_scope(_challenges(reply))
        if scope is not None and not visit.has_widened and scope not in visit.scopes:
            visit.has_widened = True
            visit.scopes.append(scope)
            return True
        if visit.has_answered or (visit.authorization is not None and reply.status != HTTPStatus.UNAUTHORIZED):
            return False
        visit.has_answered = True
        return True

    def _find_way(self, request: Request, reply: Reply, visit: _Visit) -> str | None:
        """An ``Authorization`` by the challenges of the answer, or else by those of ``/v2/``, which is where most
        clients look; None if there is none.
        """
        challenge = _choose(_challenges(reply), visit)
        if challenge is not None:
            try:
                return self._answer(challenge, visit)
            except UpstreamError as error:
                if error.retryable:
                    raise
        try:
            challenge = self._choose_at_door(request, reply, visit) or challenge
            return self._answer(challenge, visit) if challenge is not None else None
        except UpstreamError as error:
            if visit.credentials is None and reply.status not in _REFUSALS and not error.retryable:
                return None  # strangers get no token there, and have got their answer
            raise

    def _choose_at_door(self, request: Request, reply: Reply, visit: _Visit) -> Challenge | None:
        """The challenge of ``/v2/`` (distribution-spec, end-1)."""
        authority = visit.endpoint.authority
        is_missing = reply.status not in _REFUSALS
        if is_missing and self._open_until.get(authority, 0.0) > self._clock():
            return None
        door = self._knock(request, visit)
        if not visit.endpoint.is_at(door.request.target.origin):
            return None
        challenges = _challenges(door)
        if is_missing and not challenges:
            self._open_until[authority] = self._clock() + _OPEN_FOR
        return _choose(challenges, visit)

    def _knock(self, request: Request, visit: _Visit) -> Reply:
        """The answer of the registry's ``/v2/`` to a stranger."""
        origin = request.target.origin
        target = parse_target(f"{origin.scheme}://{origin.authority}/v2/")
        door = self._inner.send(Request(target=target, endpoint=request.endpoint, phase=request.phase), visit.context)
        door.discard(visit.context)
        return door

    def _answer(self, challenge: Challenge, visit: _Visit) -> str | None:
        """The ``Authorization`` that a challenge asks for, which is remembered if there is one."""
        failure = next((error for known, error in visit.failures if known == challenge), None)
        if failure is not None:
            raise failure
        try:
            authorization = self._authorize(challenge, visit, rejected=visit.authorization)
        except UpstreamError as error:
            visit.failures.append((challenge, error))
            raise
        self._challenges[visit.endpoint.authority] = challenge
        return authorization

    def _authorize(self, challenge: Challenge, visit: _Visit, *, rejected: str | None = None) -> str | None:
        credentials = visit.credentials
        if challenge.scheme == "bearer":
            if credentials is not None and credentials.registry_token:
                return f"Bearer {credentials.registry_token}"
            wanted = _token_request(visit, challenge, tuple(visit.scopes), credentials)
            return self._bearer(wanted, visit, rejected=rejected)
        return basic_authorization(credentials) if credentials is not None else None

    def _bearer(self, wanted: TokenRequest, visit: _Visit, *, rejected: str | None) -> str:
        stale = rejected.removeprefix("Bearer ") if rejected is not None else None
        return "Bearer " + self._tokens.get(visit.context, wanted, rejected=stale)

    def _follow_elsewhere(self, request: Request, reply: Reply, visit: _Visit) -> Request | None:
        """Ask the place to which the registry redirected with an anonymous token, if its challenge wants one.

        The challenge may be at that place's ``/v2/``, if the registry redirects its own there.
        """
        sent = reply.request.authorization  # a token that was in hand, and is not good any more
        if visit.has_renewed_elsewhere or (sent is not None and reply.status != HTTPStatus.UNAUTHORIZED):
            return None
        visit.has_renewed_elsewhere = sent is not None
        challenge = _choose_bearer(_challenges(reply))
        if challenge is None and visit.authorization is None and sent is None and reply.status in _DISGUISES:
            door = self._knock(request, visit)
            is_theirs = door.request.target.origin == reply.request.target.origin
            challenge = _choose_bearer(_challenges(door)) if is_theirs else None
        if challenge is None:
            return None
        scope = parse_scope(challenge.parameters.get("scope", "")) or visit.scopes[0]
        wanted = _token_request(visit, challenge, (scope,), None)
        try:
            authorization = self._bearer(wanted, visit, rejected=sent)
        except RegistryAuthError:
            return None
        return replace(reply.request, authorization=authorization) if authorization != sent else None


def _conclude(reply: Reply, visit: _Visit) -> Reply:
    """The answer that stays, or the error that it is."""
    if not visit.endpoint.is_at(reply.request.target.origin):
        if reply.status == HTTPStatus.UNAUTHORIZED and _challenges(reply):
            raise denied_elsewhere(reply)
        return reply
    if reply.status in _REFUSALS:
        raise denied_by_registry(
            reply,
            visit.credentials,
            was_sent=visit.authorization is not None,
            offered=visit.offered,
        )
    return reply


def _token_request(
    visit: _Visit, challenge: Challenge, scopes: tuple[TokenScope, ...], credentials: Credentials | None
) -> TokenRequest:
    parameters = challenge.parameters
    return TokenRequest(visit.endpoint, parameters["realm"], parameters.get("service", ""), scopes, credentials)


def _challenges(reply: Reply) -> tuple[Challenge, ...]:
    """An answer's challenges; a realm that is a path is the answering host's own."""
    found = parse_challenges(reply.header_lines("WWW-Authenticate"))
    return tuple(_resolve_realm(challenge, reply.request.target) for challenge in found)


def _resolve_realm(challenge: Challenge, base: Target) -> Challenge:
    realm = challenge.parameters.get("realm", "")
    if challenge.scheme != "bearer" or not realm.startswith("/"):
        return challenge
    with suppress(RegistryError):  # what is no URL is told when it is asked for
        return replace(challenge, parameters={**challenge.parameters, "realm": parse_target(realm, base).url})
    return challenge


def _choose(challenges: Iterable[Challenge], visit: _Visit) -> Challenge | None:
    """The first challenge that can be answered."""
    challenges = tuple(challenges)
    visit.offered = tuple(dict.fromkeys(challenge.scheme for challenge in challenges)) or visit.offered
    return next((challenge for challenge in challenges if _can_answer(challenge, visit.credentials)), None)


def _choose_bearer(challenges: Iterable[Challenge]) -> Challenge | None:
    return next((challenge for challenge in challenges if _can_answer(challenge, None)), None)


def _can_answer(challenge: Challenge, credentials: Credentials | None) -> bool:
    if challenge.scheme == "bearer":
        return "realm" in challenge.parameters
    return (
        challenge.scheme == "basic" and credentials is not None and bool(credentials.username or credentials.password)
    )
