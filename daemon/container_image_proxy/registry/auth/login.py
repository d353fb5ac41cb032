"""A :class:`Sender` that logs in: it answers the challenges of a registry, by Basic or Bearer, and asks again.

Some registries put their challenge into the answer itself, whatever its status, others only into the answer of
``/v2/``. Both are looked at. A challenge that could be answered is remembered, so that later requests carry their
``Authorization`` from the start and cost one round trip.

Only the registry's own origin may say where credentials go (contrib/adr/0018). A place to which the registry redirects
may want a login, too: it gets the anonymous token that its challenge asks for, and never credentials.
Spec: RFC 9110 section 11, RFC 6750, distribution's token authentication.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from container_image_proxy.errors import RegistryAuthError, RegistryError, UpstreamError
from container_image_proxy.registry.auth.challenge import TokenScope, missing_scope, parse_challenges, parse_scope
from container_image_proxy.registry.auth.denials import denied_by_registry, denied_elsewhere
from container_image_proxy.registry.auth.token import TokenRequest, basic_authorization
from container_image_proxy.registry.http.request import Request
from container_image_proxy.registry.http.target import parse_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.registry.auth.challenge import Challenge
    from container_image_proxy.registry.auth.keychain import Credentials, Keychain
    from container_image_proxy.registry.auth.token import Tokens
    from container_image_proxy.registry.http.reply import Reply
    from container_image_proxy.registry.http.sender import Sender

_log = logging.getLogger(__name__)
_REFUSALS: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
# Some registries answer 404 for what exists and takes a login.
_DISGUISES: Final = _REFUSALS | {HTTPStatus.NOT_FOUND}
_YOUNG: Final = 10.0
"""Seconds for which a token is believed to have all rights that its user has. What a registry denies to an older one is
asked for once more with a new one: a right may have been granted meanwhile, and not every registry answers 401 to a
token that has expired.
"""
_OPEN_FOR: Final = 600.0
"""Seconds for which a registry whose /v2/ wants no login is believed when it answers 404. Otherwise each request for
something that it lacks, such as a signature, would cost a second one.
"""


class Login:
    """Logs in to registries. Thread-safe."""

    def __init__(
        self, inner: Sender, tokens: Tokens, keychain: Keychain, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._inner = inner
        self._tokens = tokens
        self._keychain = keychain
        self._memory = _Memory(clock)

    def send(self, request: Request, context: Context) -> Reply:
        """The registry's answer to ``request``, logged in if the registry wants that.

        Its status may be any. The registry's own 401 and 403 are returned only where they stand for a rate limit.
        Raises :class:`RegistryAuthError` if the registry does not let us in, any other :class:`UpstreamError` as
        it comes, and :class:`ConfigurationError` if the credentials cannot be read.
        """
        credentials = self._keychain.find(context, f"{request.endpoint.domain}/{request.repository}")
        return _Conversation(request, context, credentials, self._inner, self._tokens, self._memory).send()


class _Memory:
    """What one request learns for the next ones, by the registry's authority.

    Without a lock: each entry stands alone, and one that another thread has just overwritten costs a round trip.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open_until: dict[str, float] = {}
        self.challenges: dict[str, Challenge] = {}
        """The last challenge that could be answered."""

    def is_open(self, authority: str) -> bool:
        """Whether ``/v2/`` lately wanted no login."""
        return self._open_until.get(authority, 0.0) > self._clock()

    def note_open(self, authority: str) -> None:
        """Remember that ``/v2/`` wanted no login."""
        self._open_until[authority] = self._clock() + _OPEN_FOR


class _Conversation:
    """The conversation about one request.

    Each kind of second attempt is made once (``_has_...``), so that no registry can keep a request going for ever.
    """

    def __init__(
        self,
        request: Request,
        context: Context,
        credentials: Credentials | None,
        inner: Sender,
        tokens: Tokens,
        memory: _Memory,
    ) -> None:
        self._request = request
        self._context = context
        self._credentials = credentials
        self._inner = inner
        self._tokens = tokens
        self._memory = memory
        self._endpoint = request.endpoint
        self._authorization: str | None = None
        self._recalled: Challenge | None = None  # by which the authorization was found, if that was before any answer
        self._scopes = [TokenScope("repository", request.repository, "pull")]
        self._failures: list[tuple[Challenge, UpstreamError]] = []  # challenges that led nowhere are not tried again
        self._offered: tuple[str, ...] = ()  # the schemes of the registry's last challenges, for messages
        self._has_answered = False
        self._has_insisted = False
        self._has_widened = False
        self._has_renewed_elsewhere = False

    def send(self) -> Reply:
        """As :meth:`Login.send`."""
        self._authorization = self._recall()
        reply = self._inner.send(replace(self._request, authorization=self._authorization), self._context)
        while reply.status >= HTTPStatus.BAD_REQUEST:
            # What may pass, as a rate limit does whatever its status, is no denial.
            if reply.error(self._context).retryable:
                return reply
            is_registry = self._endpoint.is_at(reply.request.target.origin)
            following = self._follow_registry(reply) if is_registry else self._follow_elsewhere(reply)
            if following is None:
                # A denial is an error where a login would have helped. Any other is the answer.
                if is_registry and reply.status in _REFUSALS:
                    was_sent = self._authorization is not None
                    raise denied_by_registry(reply, self._credentials, was_sent=was_sent, offered=self._offered)
                if not is_registry and reply.status == HTTPStatus.UNAUTHORIZED and _challenges(reply):
                    raise denied_elsewhere(reply)
                return reply
            reply = self._inner.send(following, self._context)
        return reply

    def _recall(self) -> str | None:
        """The ``Authorization`` by the challenge that is remembered; None without one.

        A challenge that leads nowhere any more may be outdated, and only the registry knows a newer one.
        """
        known = self._memory.challenges.get(self._endpoint.authority)
        if known is None:
            return None
        try:
            authorization = self._authorize(known, rejected=None)
        except UpstreamError as error:
            _log.info("%s is asked for its challenge anew: %s", self._endpoint.domain, error)
            self._memory.challenges.pop(self._endpoint.authority, None)
            self._failures.append((known, error))
            return None
        self._recalled = known
        return authorization

    # --- the registry itself --------------------------------------------------------------------------------------

    def _follow_registry(self, reply: Reply) -> Request | None:
        """What to ask after the registry's denial; None if nothing more can be done."""
        # A redirect out of the API, but within the registry, took the login away: signed links take none beside their
        # own. This target is no signed link, then, and wants the login.
        if reply.request.withheld is not None and reply.status in _REFUSALS and not self._has_insisted:
            self._has_insisted = True
            return replace(reply.request, authorization=reply.request.withheld, withheld=None)
        # Another Authorization may help in four cases: ours is for too few scopes, there is none yet, it expired, or it
        # is of an earlier request.
        challenges = _challenges(reply)
        scope = missing_scope(challenges)
        if scope is not None and not self._has_widened and scope not in self._scopes:
            self._has_widened = True
            self._scopes.append(scope)
        elif not self._has_answered and (self._authorization is None or reply.status == HTTPStatus.UNAUTHORIZED):
            self._has_answered = True
        elif self._recalled is not None and reply.status in _DISGUISES:
            return self._ask_with_new_token(self._recalled)
        else:
            return None
        return self._ask_with(self._find_authorization(reply, challenges))

    def _ask_with_new_token(self, challenge: Challenge) -> Request | None:
        with suppress(UpstreamError):  # the registry's denial says more than that there is no other token
            return self._ask_with(self._authorize(challenge, rejected=self._authorization, unless_younger=_YOUNG))
        return None

    def _ask_with(self, authorization: str | None) -> Request | None:
        """The request with this ``Authorization``; None if it had that already."""
        if authorization is None or authorization == self._authorization:
            return None
        self._authorization, self._recalled = authorization, None
        return replace(self._request, authorization=authorization)

    def _find_authorization(self, reply: Reply, challenges: tuple[Challenge, ...]) -> str | None:
        """An ``Authorization`` by the challenges of the answer, or else by those of ``/v2/``; None if there is none.

        Most clients look at ``/v2/`` alone, so its challenge works where that of the answer does not.
        """
        challenge = self._choose(challenges)
        if challenge is not None:
            try:
                return self._answer(challenge)
            except UpstreamError as error:
                if error.retryable:
                    raise
        try:
            challenge = self._choose_by_ping(reply) or challenge
            return self._answer(challenge) if challenge is not None else None
        except UpstreamError as error:
            # Without credentials there is no token for what does not exist. That it does not exist is the answer.
            if self._credentials is None and reply.status not in _REFUSALS and not error.retryable:
                return None
            raise

    def _choose_by_ping(self, reply: Reply) -> Challenge | None:
        """The challenge of ``/v2/`` that can be answered; None if there is none."""
        authority = self._endpoint.authority
        is_missing = reply.status not in _REFUSALS
        if is_missing and self._memory.is_open(authority):
            return None
        ping = self._ping()
        # Where /v2/ redirects to another host, the challenge is that host's, and credentials go to the registry alone.
        if not self._endpoint.is_at(ping.request.target.origin):
            return None
        challenges = _challenges(ping)
        if is_missing and not challenges:
            self._memory.note_open(authority)
        return self._choose(challenges)

    def _choose(self, challenges: tuple[Challenge, ...]) -> Challenge | None:
        """The first challenge that can be answered."""
        self._offered = tuple(dict.fromkeys(challenge.scheme for challenge in challenges)) or self._offered
        return next((challenge for challenge in challenges if _can_answer(challenge, self._credentials)), None)

    def _answer(self, challenge: Challenge) -> str | None:
        """The ``Authorization`` that a challenge asks for; the challenge is remembered, and so is its failure."""
        failure = next((error for known, error in self._failures if known == challenge), None)
        if failure is not None:
            raise failure
        try:
            authorization = self._authorize(challenge, rejected=self._authorization)
        except UpstreamError as error:
            self._failures.append((challenge, error))
            raise
        self._memory.challenges[self._endpoint.authority] = challenge
        return authorization

    def _authorize(self, challenge: Challenge, *, rejected: str | None, unless_younger: float = 0.0) -> str | None:
        """The ``Authorization`` for a challenge; None if it takes credentials and there are none."""
        credentials = self._credentials
        if challenge.scheme != "bearer":
            return basic_authorization(credentials) if credentials is not None else None
        if credentials is not None and credentials.registry_token:
            return f"Bearer {credentials.registry_token}"
        scopes = tuple(self._scopes)
        return self._bearer(challenge, scopes, credentials, rejected=rejected, unless_younger=unless_younger)

    # --- where the registry redirects to --------------------------------------------------------------------------

    def _follow_elsewhere(self, reply: Reply) -> Request | None:
        """Ask the place to which the registry redirected once more, with an anonymous token; None if it wants none.

        Names in a domain of one's own work that way: they redirect all of ``/v2/`` to the registry that has the images.
        """
        sent = reply.request.authorization
        # A token that was in hand may have expired, for which 401 is the answer; it is renewed once.
        if self._has_renewed_elsewhere or (sent is not None and reply.status != HTTPStatus.UNAUTHORIZED):
            return None
        self._has_renewed_elsewhere = sent is not None
        challenges = _challenges(reply)
        if not any(_can_answer(challenge, None) for challenge in challenges):
            # The challenge may stand at that place's /v2/ alone. It is asked by way of the registry's own.
            if self._authorization is not None or sent is not None or reply.status not in _DISGUISES:
                return None
            ping = self._ping()
            if ping.request.target.origin != reply.request.target.origin:
                return None
            challenges = _challenges(ping)
        challenge = next((challenge for challenge in challenges if _can_answer(challenge, None)), None)
        if challenge is None:
            return None
        scope = parse_scope(challenge.parameters.get("scope", "")) or self._scopes[0]
        try:
            authorization = self._bearer(challenge, (scope,), None, rejected=sent)
        except RegistryAuthError:
            return None
        return replace(reply.request, authorization=authorization) if authorization != sent else None

    # --- both -----------------------------------------------------------------------------------------------------

    def _ping(self) -> Reply:
        """The answer of ``/v2/`` to a request without a login, its body discarded (distribution-spec, end-1)."""
        origin = self._request.target.origin
        target = parse_target(f"{origin.scheme}://{origin.authority}/v2/")
        ping = self._inner.send(
            Request(target=target, endpoint=self._endpoint, phase=self._request.phase), self._context
        )
        ping.discard(self._context)
        return ping

    def _bearer(
        self,
        challenge: Challenge,
        scopes: tuple[TokenScope, ...],
        credentials: Credentials | None,
        *,
        rejected: str | None,
        unless_younger: float = 0.0,
    ) -> str:
        """The ``Authorization`` with a token that ``challenge`` asks for, and as :meth:`Tokens.get` gives it."""
        realm, service = challenge.parameters["realm"], challenge.parameters.get("service", "")
        wanted = TokenRequest(self._endpoint, realm, service, scopes, credentials)
        stale = rejected.removeprefix("Bearer ") if rejected is not None else None
        return "Bearer " + self._tokens.get(self._context, wanted, rejected=stale, unless_younger=unless_younger)


def _challenges(reply: Reply) -> tuple[Challenge, ...]:
    """The challenges of an answer. A realm that is a path is made absolute: it is the answering host's own."""
    found = list(parse_challenges(reply.header_lines("WWW-Authenticate")))
    for position, challenge in enumerate(found):
        realm = challenge.parameters.get("realm", "")
        if challenge.scheme == "bearer" and realm.startswith("/"):
            with suppress(RegistryError):  # a realm that is no URL is refused when a token is to be had there
                absolute = parse_target(realm, reply.request.target).url
                found[position] = replace(challenge, parameters={**challenge.parameters, "realm": absolute})
    return tuple(found)


def _can_answer(challenge: Challenge, credentials: Credentials | None) -> bool:
    """Whether we know the scheme, and have what it takes."""
    if challenge.scheme == "bearer":
        return "realm" in challenge.parameters
    return (
        challenge.scheme == "basic" and credentials is not None and bool(credentials.username or credentials.password)
    )
