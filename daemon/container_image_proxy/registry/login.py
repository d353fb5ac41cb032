"""Asking a registry with whatever login it wants: none, Basic or Bearer, as its challenges say.

A registry's challenge is remembered as long as it can be answered, so that later requests carry their
``Authorization`` from the start and cost one round trip. A token that expired is renewed once in a request, a scope
that is missing is added once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import UpstreamError
from container_image_proxy.registry.challenge import Challenge, TokenScope, missing_scope, parse_challenges
from container_image_proxy.registry.endpoints import Endpoint
from container_image_proxy.registry.target import parse_target
from container_image_proxy.registry.token import basic_authorization, rejected_login, token_request

if TYPE_CHECKING:
    from collections.abc import Iterable

    from container_image_proxy.config.keychain import Credentials, Keychain
    from container_image_proxy.registry.endpoints import Repository
    from container_image_proxy.registry.reply import Reply
    from container_image_proxy.registry.request import Request
    from container_image_proxy.registry.session import HttpSession
    from container_image_proxy.registry.token import Tokens

_log = logging.getLogger(__name__)
_DENIALS: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_DISGUISES: Final = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})


@dataclass(slots=True)
class _Visit:
    """One request's way in: who we are there, what we asked for, and what was tried."""

    endpoint: Endpoint
    credentials: Credentials | None
    scopes: list[TokenScope]
    authorization: str | None = field(default=None, repr=False)
    has_answered: bool = False
    has_widened: bool = False
    dead_end: Challenge | None = None
    failure: UpstreamError | None = None


class Login:
    """Sends requests to registries and answers their challenges. Thread-safe."""

    def __init__(self, session: HttpSession, tokens: Tokens, keychain: Keychain) -> None:
        self._session = session
        self._tokens = tokens
        self._keychain = keychain
        self._challenges: dict[str, Challenge] = {}

    def send(self, request: Request, repository: Repository) -> Reply:
        """The registry's answer to ``request``, logged in if it wants that; its status may be anything but a denial.

        Raises :class:`RegistryAuthError` if we are not let in, other :class:`UpstreamError` as they come.
        """
        visit = self._begin(repository)
        reply = self._ask(request, visit)
        if _hides_challenge(reply, visit):
            reply.discard()
            reply = self._knock(request, visit) or reply
        while reply.status in _DENIALS and _is_own(reply, visit):
            reply.discard()
            if not self._answer(reply, visit):
                raise rejected_login(visit.endpoint, visit.credentials, phase=request.phase, status=reply.status)
            reply = self._ask(request, visit)
        return reply

    def _begin(self, repository: Repository) -> _Visit:
        endpoint = Endpoint(domain=repository.domain, insecure=repository.insecure)
        visit = _Visit(
            endpoint,
            self._keychain.credentials_for(repository.reference),
            [TokenScope("repository", repository.path, "pull")],
        )
        visit.authorization = self._recall(visit)
        return visit

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
            visit.dead_end, visit.failure = known, error
            return None

    def _ask(self, request: Request, visit: _Visit) -> Reply:
        return self._session.send(replace(request, authorization=visit.authorization))

    def _knock(self, request: Request, visit: _Visit) -> Reply | None:
        """Ask ``/v2/`` (distribution-spec, end-1) for the challenge, and again with its answer; None without one."""
        origin = request.target.origin
        door = self._session.send(replace(request, target=parse_target(f"{origin.scheme}://{origin.authority}/v2/")))
        door.discard()
        return self._ask(request, visit) if self._answer(door, visit) else None

    def _answer(self, reply: Reply, visit: _Visit) -> bool:
        """Find a better ``Authorization`` by the challenges of a denial; False if there is none."""
        challenges = _challenges(reply)
        scope = missing_scope(challenges)
        if scope is not None and not visit.has_widened and scope not in visit.scopes:
            visit.has_widened = True
            visit.scopes.append(scope)
        elif reply.status != HTTPStatus.UNAUTHORIZED or visit.has_answered:
            return False
        else:
            visit.has_answered = True
        return self._improve(challenges, visit)

    def _improve(self, challenges: Iterable[Challenge], visit: _Visit) -> bool:
        challenge = next((challenge for challenge in challenges if _can_answer(challenge, visit.credentials)), None)
        if challenge is None:
            return False
        if visit.failure is not None and challenge == visit.dead_end:
            raise visit.failure
        self._challenges[visit.endpoint.authority] = challenge
        before, visit.authorization = (
            visit.authorization,
            self._authorize(challenge, visit, rejected=visit.authorization),
        )
        return visit.authorization != before

    def _authorize(self, challenge: Challenge, visit: _Visit, *, rejected: str | None = None) -> str | None:
        credentials = visit.credentials
        if challenge.scheme == "bearer":
            wanted = token_request(visit.endpoint, challenge, visit.scopes, credentials)
            stale = rejected.removeprefix("Bearer ") if rejected is not None else None
            return "Bearer " + self._tokens.get(wanted, rejected=stale)
        return basic_authorization(credentials) if credentials is not None else None


def _can_answer(challenge: Challenge, credentials: Credentials | None) -> bool:
    if challenge.scheme == "bearer":
        return "realm" in challenge.parameters
    return challenge.scheme == "basic" and credentials is not None and not credentials.identity_token


def _challenges(reply: Reply) -> tuple[Challenge, ...]:
    return parse_challenges(reply.header_lines("WWW-Authenticate"))


def _hides_challenge(reply: Reply, visit: _Visit) -> bool:
    """Some registries deny the existence of what a stranger may not see, and challenge only at the door."""
    is_stranger = visit.authorization is None and visit.credentials is not None
    return is_stranger and reply.status in _DISGUISES and _is_own(reply, visit) and not _challenges(reply)


def _is_own(reply: Reply, visit: _Visit) -> bool:
    """Whether the registry itself answered, not somebody it redirected us to."""
    return visit.endpoint.is_at(reply.request.target.origin)
