"""Bearer tokens: how they are asked for, and how long they are good.

Docker registry v2 token authentication: the GET form with user and password or anonymously, the OAuth2 form with an
identity token. Tokens are kept in memory, by everything that they depend on, and their lives run on the monotonic
clock. ``realms`` decides which token services may have credentials.
"""

from __future__ import annotations

import json
import re
import threading
import time
from base64 import b64encode
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
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
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,65536}")
_MOST_TOKENS: Final = 64
"""Tokens in hand: an image takes one for each registry; what an upstream makes up takes no more memory than this."""
_LONGEST_LIFE: Final = 24 * 3600
"""Seconds: a token of which a service says that it never ends is still asked for anew each day."""
_PHASE: Final = "token"
_WITHOUT_OAUTH2: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})


class TokenRequest(Struct, frozen=True):
    """All that a token depends on; equal requests may share one. ``credentials`` None asks anonymously."""

    endpoint: Endpoint
    realm: str
    service: str
    scopes: tuple[TokenScope, ...]
    credentials: Credentials | None


class _Token(Confidential, frozen=True):
    value: str
    expires: float  # on the monotonic clock


class Tokens:
    """The tokens in hand, and the way to more. Thread-safe; one request a token, however many threads want it."""

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

    def get(self, context: Context, wanted: TokenRequest, *, rejected: str | None = None) -> str:
        """A token that is still good and is not ``rejected``.

        Raises :class:`RegistryAuthError` if it is refused to us, other :class:`UpstreamError` if it cannot be had; who
        wants the same meanwhile gets the same error.
        """
        token = self._in_hand(wanted, rejected)
        if token is None:
            try:
                key = (wanted, rejected)
                token = self._fetches.run(context, key, lambda context: self._renew(context, wanted, rejected))
            except TimeoutError:
                domain = wanted.endpoint.domain
                raise UpstreamTimeoutError(
                    f"no token for {domain} in time", phase=_PHASE, endpoint=domain, retryable=True
                ) from None
        return token.value

    def _in_hand(self, wanted: TokenRequest, rejected: str | None) -> _Token | None:
        with self._lock:
            token = self._tokens.get(wanted)
        return token if token is not None and token.expires > self._clock() and token.value != rejected else None

    def _renew(self, context: Context, wanted: TokenRequest, rejected: str | None) -> _Token:
        """A new token, unless somebody else was faster."""
        return self._in_hand(wanted, rejected) or self._keep(wanted, self._fetch(context, wanted))

    def _keep(self, wanted: TokenRequest, token: _Token) -> _Token:
        """Have ``token`` in hand, but not ever more of them: what is wanted is upstream's to make up."""
        now = self._clock()
        with self._lock:
            self._tokens.pop(wanted, None)
            good = [(known, kept) for known, kept in self._tokens.items() if kept.expires > now]
            self._tokens = dict([*good, (wanted, token)][-_MOST_TOKENS:])
        return token

    def _fetch(self, context: Context, wanted: TokenRequest) -> _Token:
        target = self._verify_realm(wanted)
        asked = self._clock()
        reply = self._ask(context, wanted, target)
        if reply.status != HTTPStatus.OK:
            raise _refusal(context, wanted, reply)
        body = reply.read_all(context, self._limits.token_size)
        value, life = _parse_token(body, reply)
        return _Token(value, asked + min(max(life, self._limits.minimum_token_lifetime), _LONGEST_LIFE))

    def _verify_realm(self, wanted: TokenRequest) -> Target:
        """The token service, if it may be asked: it never learns our credentials unless it is the registry's own."""
        endpoint, domain = wanted.endpoint, wanted.endpoint.domain
        try:
            target = parse_target(wanted.realm)
        except RegistryError:
            raise untrusted_realm(domain, "what is no http or https URL") from None
        realm = target.origin
        remedy = f" (if it may have the credentials: token-realms or --token-realms, with {realm.authority})"
        if realm.scheme != "https" and not endpoint.insecure:
            raise untrusted_realm(domain, f"{realm.authority} without TLS")
        if wanted.credentials is None:
            return target
        if realm.scheme != "https" and realm.host != endpoint.host and not self._realms.is_named(realm):
            raise untrusted_realm(domain, f"{realm.authority} without TLS", remedy)
        if not self._realms.may_have_credentials(endpoint.host, realm):
            raise untrusted_realm(domain, realm.authority, remedy)
        return target

    def _ask(self, context: Context, wanted: TokenRequest, target: Target) -> Reply:
        """The answer to the OAuth2 form if there is an identity token, and to the plain one otherwise, or where the
        service does not know the other.
        """
        credentials = wanted.credentials
        if credentials is not None and credentials.identity_token:
            reply = self._sender.send(self._request(wanted, target, form=_form(wanted, credentials)), context)
            if reply.status not in _WITHOUT_OAUTH2 or not credentials.password:
                return reply
            reply.discard(context)
        authorization = basic_authorization(credentials) if credentials is not None and credentials.password else None
        return self._sender.send(
            self._request(wanted, _with_query(wanted, target), authorization=authorization), context
        )

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
    """The ``Authorization`` of HTTP Basic (RFC 7617, in UTF-8 or whatever bytes the file has)."""
    login = f"{credentials.username}:{credentials.password}".encode("utf-8", "surrogateescape")
    return "Basic " + b64encode(login).decode("ascii")


def _form(wanted: TokenRequest, credentials: Credentials) -> dict[str, str]:
    """The OAuth2 form (distribution's oauth specification)."""
    form = {
        "grant_type": "refresh_token",
        "refresh_token": credentials.identity_token,
        "service": wanted.service,
        "scope": " ".join(map(str, wanted.scopes)),
        "client_id": _CLIENT_ID,
    }
    return {name: value for name, value in form.items() if value}


def _with_query(wanted: TokenRequest, target: Target) -> Target:
    """The realm with what is wanted; its own query, which registries do use, stays as it is."""
    query = [("service", wanted.service)] if wanted.service else []
    query += [("scope", str(scope)) for scope in wanted.scopes]
    if wanted.credentials is not None and wanted.credentials.username:
        query.append(("account", wanted.credentials.username))
    separator = "&" if "?" in target.url else "?"
    return replace(target, url=target.url + separator + urlencode(query, errors="surrogateescape")) if query else target


def _refusal(context: Context, wanted: TokenRequest, reply: Reply) -> UpstreamError:
    error = reply.error(context)
    # An identity token that was revoked or has expired is answered 400 (RFC 6749 section 5.2, invalid_grant).
    is_bad_grant = reply.status == HTTPStatus.BAD_REQUEST and reply.request.form is not None
    if isinstance(error, RegistryAuthError) or (is_bad_grant and not error.retryable):
        return denied_by_token_service(reply, wanted)
    return error


class _Answer(Confidential, frozen=True):
    """What a token service sends; there are two names for the token, and services for each of them."""

    token: Any = None
    access_token: Any = None
    expires_in: Any = None


def _parse_token(body: bytes | None, reply: Reply) -> tuple[str, float]:
    """The token and its life in seconds (0 if not told); nothing of the answer gets into an error."""
    try:
        # Not by strict_json: a life of more digits than any number should have does no harm to the token.
        answer = convert(fold_keys(json.loads(body or b""), _Answer), _Answer)
    except (ValueError, RecursionError):
        answer = _Answer()
    token = text_of(answer.token or answer.access_token).strip()
    if not _TOKEN.fullmatch(token):
        raise reply.fault(RegistryError, f"the token service at {reply.endpoint} sent no usable token")
    return token, _life(answer.expires_in)


def _life(value: object) -> float:
    """``expires_in`` in seconds, of which a day is enough; 0 for what is none. Some services send it as a text."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return 0.0
    return float(min(value, _LONGEST_LIFE)) if isinstance(value, int | float) and value > 0 else 0.0
