"""Bearer tokens: how they are asked for, and how long they are good.

A token is asked for by GET, with user and password or anonymously, or by the form of OAuth2 with an identity token.
Tokens are kept in memory, by everything that they depend on.
Must not decide which token services may have credentials, which ``realms`` does.
Spec: distribution's token authentication and OAuth2 token authentication, RFC 6749.
"""

from __future__ import annotations

import json
import re
import threading
import time
from base64 import b64encode
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlencode

from msgspec import Struct
from msgspec.structs import replace

from container_image_proxy.concurrency.single_flight import SingleFlight
from container_image_proxy.errors import (
    RegistryAuthError,
    RegistryError,
    UpstreamError,
    UpstreamTimeoutError,
)
from container_image_proxy.image.confidential import Confidential
from container_image_proxy.image.documents import convert, fold_keys, text_of
from container_image_proxy.registry.auth.denials import denied_by_token_service, untrusted_realm
from container_image_proxy.registry.auth.realms import TokenRealms
from container_image_proxy.registry.http.request import Request
from container_image_proxy.registry.http.target import Target, parse_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.limits import Limits
    from container_image_proxy.registry.auth.challenge import TokenScope
    from container_image_proxy.registry.auth.keychain import Credentials
    from container_image_proxy.registry.endpoints import Endpoint
    from container_image_proxy.registry.http.reply import Reply
    from container_image_proxy.registry.http.sender import Sender

_CLIENT_ID: Final = "container-image-proxy"
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,65536}")  # anything else could end the header that carries it
_MOST_TOKENS: Final = 64
"""Tokens that are kept. An image takes one for each registry. A registry can name any number of realms and scopes, and
each would be a token.
"""
_LONGEST_LIFE: Final = 24 * 3600
"""Seconds. A token that never ends by the service's word is still asked for anew each day."""
_PHASE: Final = "token"
# How services answer that know the GET form alone (distribution's oauth specification).
_WITHOUT_OAUTH2: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})
_E = TypeVar("_E", bound=UpstreamError)


class TokenRequest(Struct, frozen=True):
    """All that a token depends on: equal requests may share one token. Without ``credentials`` it is anonymous."""

    # The credentials are among it, so that nobody gets a token that was given to somebody else.

    endpoint: Endpoint
    realm: str
    service: str
    scopes: tuple[TokenScope, ...]
    credentials: Credentials | None

    def fault(self, kind: type[_E], reason: str, *, retryable: bool = False) -> _E:
        """The error of ``kind`` for what goes wrong before the token service is asked: the registry's error."""
        return kind(reason, phase=_PHASE, endpoint=self.endpoint.domain, retryable=retryable)


class _Token(Confidential, frozen=True):
    value: str
    asked: float  # both on the monotonic clock
    expires: float


class Tokens:
    """Keeps tokens, and asks for new ones. Thread-safe. Threads that want the same token share one request."""

    def __init__(
        self,
        sender: Sender,
        limits: Limits,
        *,
        realms: TokenRealms = TokenRealms(),  # noqa: B008 - frozen
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sender = sender
        self._limits = limits
        self._realms = realms
        self._clock = clock
        self._tokens: dict[TokenRequest, _Token] = {}
        self._fetches: SingleFlight[_Token] = SingleFlight()
        self._lock = threading.Lock()

    def get(
        self, context: Context, wanted: TokenRequest, *, rejected: str | None = None, unless_younger: float = 0.0
    ) -> str:
        """A token that is still good, and is not the ``rejected`` one unless that is younger than so many seconds.

        Raises :class:`RegistryAuthError` if the service refuses it or must not be asked, and any other
        :class:`UpstreamError` if it cannot be had. All threads that wait for the same token get the same error.
        """
        token = self._find(wanted, rejected, unless_younger)
        if token is None:
            try:
                # With the rejected one in the key: a request that others began before might bring that one again.
                key = (wanted, rejected)
                token = self._fetches.run(context, key, lambda context: self._renew(context, wanted, rejected))
            except TimeoutError:
                reason = f"no token for {wanted.endpoint.domain} in time"
                raise wanted.fault(UpstreamTimeoutError, reason, retryable=True) from None
        return token.value

    def _find(self, wanted: TokenRequest, rejected: str | None, unless_younger: float = 0.0) -> _Token | None:
        with self._lock:
            token = self._tokens.get(wanted)
        now = self._clock()
        if token is None or token.expires <= now:
            return None
        return token if token.value != rejected or now - token.asked < unless_younger else None

    def _renew(self, context: Context, wanted: TokenRequest, rejected: str | None) -> _Token:
        # Another thread may have fetched it between the look before and the turn of this one.
        token = self._find(wanted, rejected)
        if token is not None:
            return token
        target = self._verify_realm(wanted)
        asked = self._clock()  # a life that is counted from the request never ends too late
        reply = self._ask(context, wanted, target)
        if reply.status != HTTPStatus.OK:
            error = reply.error(context)
            # An identity token that was revoked or has expired is answered 400 (RFC 6749 section 5.2, invalid_grant).
            is_bad_grant = reply.status == HTTPStatus.BAD_REQUEST and reply.request.form is not None
            if isinstance(error, RegistryAuthError) or (is_bad_grant and not error.retryable):
                raise denied_by_token_service(reply, wanted)
            raise error
        value, life = _parse_token(reply.read_all(context, self._limits.token_size), reply)
        token = _Token(value, asked, asked + min(max(life, self._limits.minimum_token_lifetime), _LONGEST_LIFE))
        now = self._clock()
        with self._lock:
            self._tokens.pop(wanted, None)  # so that the new one comes last, as the youngest
            good = [(known, kept) for known, kept in self._tokens.items() if kept.expires > now]
            self._tokens = dict([*good, (wanted, token)][-_MOST_TOKENS:])
        return token

    def _verify_realm(self, wanted: TokenRequest) -> Target:
        """The URL of the token service. Raises :class:`RegistryAuthError` unless it may be asked (contrib/adr/0018)."""
        endpoint = wanted.endpoint
        try:
            target = parse_target(wanted.realm)
        except RegistryError:
            raise untrusted_realm(wanted, "an address that is no http or https URL") from None
        realm = target.origin
        remedy = f" (if it may have the credentials: token-realms or --token-realms, with {realm.authority})"
        if realm.scheme != "https" and not endpoint.insecure:
            raise untrusted_realm(wanted, f"{realm.authority} without TLS")
        if wanted.credentials is None:  # nothing secret is sent
            return target
        if realm.scheme != "https" and realm.host != endpoint.host and not self._realms.is_named(realm):
            raise untrusted_realm(wanted, f"{realm.authority} without TLS", remedy)
        if not self._realms.may_have_credentials(endpoint.host, realm):
            raise untrusted_realm(wanted, realm.authority, remedy)
        return target

    def _ask(self, context: Context, wanted: TokenRequest, target: Target) -> Reply:
        """The service's answer: to the OAuth2 form for an identity token, to the GET form for everything else.

        A service that does not know the OAuth2 form is asked by the other one if there is a password as well.
        """
        credentials, scopes = wanted.credentials, [str(scope) for scope in wanted.scopes]
        if credentials is not None and credentials.identity_token:
            form = {  # RFC 6749 section 6
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "service": wanted.service,
                "scope": " ".join(scopes),
                "client_id": _CLIENT_ID,
            }
            form = {name: value for name, value in form.items() if value}
            reply = self._sender.send(self._request(wanted, target, form=form), context)
            if reply.status not in _WITHOUT_OAUTH2 or not credentials.password:
                return reply
            reply.discard(context)
        # Service and scopes are the registry's words. Encoded, they end neither a parameter nor the request line.
        query = [("service", wanted.service)] if wanted.service else []
        query += [("scope", scope) for scope in scopes]
        if credentials is not None and credentials.username:
            query.append(("account", credentials.username))
        if query:  # after the realm's own query, which stays as it is
            separator = "&" if "?" in target.url else "?"
            target = replace(target, url=target.url + separator + urlencode(query, errors="surrogateescape"))
        authorization = basic_authorization(credentials) if credentials is not None and credentials.password else None
        return self._sender.send(self._request(wanted, target, authorization=authorization), context)

    def _request(
        self,
        wanted: TokenRequest,
        target: Target,
        *,
        authorization: str | None = None,
        form: dict[str, str] | None = None,
    ) -> Request:
        return Request(
            target=target,
            endpoint=wanted.endpoint,
            phase=_PHASE,
            headers={"Accept": "application/json"},
            authorization=authorization,
            form=form,
            is_named=self._realms.is_named(target.origin),
            trusts_target=wanted.credentials is not None,
            may_leave_origin=False,
        )


def basic_authorization(credentials: Credentials) -> str:
    """The ``Authorization`` of HTTP Basic (RFC 7617), in UTF-8 or in whatever bytes the file of credentials has."""
    login = f"{credentials.username}:{credentials.password}".encode("utf-8", "surrogateescape")
    return "Basic " + b64encode(login).decode("ascii")


class _Answer(Confidential, frozen=True):
    """What a token service sends. The token has two names, and some services know the one, some the other."""

    token: Any = None
    access_token: Any = None
    expires_in: Any = None


def _parse_token(body: bytes | None, reply: Reply) -> tuple[str, float]:
    """The token, and its life in seconds (0 if not told). Raises :class:`RegistryError`, which shows nothing of it."""
    try:
        # Not by strict_json, which refuses a number of too many digits: a long life does no harm to the token. Nor does
        # a user's name that is no UTF-8.
        text = (body or b"").decode("utf-8-sig", "replace")
        answer = convert(fold_keys(json.loads(text), _Answer), _Answer)
    except (ValueError, RecursionError):
        answer = _Answer()
    token = text_of(answer.token or answer.access_token).strip()
    if not _TOKEN.fullmatch(token):
        raise reply.fault(RegistryError, f"the token service at {reply.endpoint} sent no usable token")
    life = answer.expires_in
    if isinstance(life, str):  # as some services send it
        try:
            life = float(life)
        except ValueError:
            life = 0
    # The minimum is taken before float(), which fails for an integer of too many digits.
    return token, float(min(life, _LONGEST_LIFE)) if isinstance(life, int | float) and life > 0 else 0.0
