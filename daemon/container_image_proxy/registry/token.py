"""Bearer tokens: where they may be asked for, how, and how long they are good.

Docker registry v2 token authentication: the GET form with user and password or anonymously, the OAuth2 form with an
identity token. Tokens are kept in memory, by everything that they depend on, and their lives run on the monotonic
clock.
"""

from __future__ import annotations

import json
import re
import threading
import time
from base64 import b64encode
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from container_image_proxy.errors import RegistryAuthError, RegistryError, UpstreamError
from container_image_proxy.registry.origin import is_own_site
from container_image_proxy.registry.request import Request
from container_image_proxy.registry.target import Target, parse_target
from container_image_proxy.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from container_image_proxy.config.keychain import Credentials
    from container_image_proxy.config.limits import Limits
    from container_image_proxy.registry.challenge import Challenge, TokenScope
    from container_image_proxy.registry.endpoints import Endpoint
    from container_image_proxy.registry.reply import Reply
    from container_image_proxy.registry.session import HttpSession

_CLIENT_ID: Final = "container-image-proxy"
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,65536}")
_MOST_TOKENS: Final = 64
_LONGEST_LIFE: Final = 24 * 3600.0
_PHASE: Final = "token"
_REMEDY: Final = " (if it may have the credentials: trusted-token-realms, see container-image-proxy.toml(5))"


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """All that a token depends on; equal requests may share one."""

    endpoint: Endpoint
    realm: str
    service: str
    scopes: tuple[TokenScope, ...]
    credentials: Credentials | None


@dataclass(frozen=True, slots=True)
class _Token:
    value: str = field(repr=False)
    expires: float  # on the monotonic clock


class Tokens:
    """The tokens in hand, and the way to more. Thread-safe; one request a token, however many threads want it."""

    def __init__(
        self,
        session: HttpSession,
        limits: Limits,
        *,
        trusted_realms: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._limits = limits
        self._trusted_realms = frozenset(host.lower() for host in trusted_realms)
        self._clock = clock
        self._tokens: dict[TokenRequest, _Token] = {}
        self._fetches: SingleFlight[_Token] = SingleFlight()
        self._lock = threading.Lock()

    def get(self, wanted: TokenRequest, *, rejected: str | None = None) -> str:
        """A token that is still good and is not ``rejected``.

        Raises :class:`RegistryAuthError` if it is refused to us, other :class:`UpstreamError` if it cannot be had; who
        wants the same meanwhile gets the same error.
        """
        token = self._in_hand(wanted, rejected)
        if token is None:
            token = self._fetches.run((wanted, rejected), partial(self._renew, wanted, rejected))
        return token.value

    def _in_hand(self, wanted: TokenRequest, rejected: str | None) -> _Token | None:
        with self._lock:
            token = self._tokens.get(wanted)
        return token if token is not None and token.expires > self._clock() and token.value != rejected else None

    def _renew(self, wanted: TokenRequest, rejected: str | None) -> _Token:
        """A new token, unless somebody else was faster."""
        return self._in_hand(wanted, rejected) or self._keep(wanted, self._fetch(wanted))

    def _keep(self, wanted: TokenRequest, token: _Token) -> _Token:
        """Have ``token`` in hand, but not ever more of them: what is wanted is upstream's to make up."""
        now = self._clock()
        with self._lock:
            self._tokens.pop(wanted, None)
            good = [(known, kept) for known, kept in self._tokens.items() if kept.expires > now]
            self._tokens = dict([*good, (wanted, token)][-_MOST_TOKENS:])
        return token

    def _fetch(self, wanted: TokenRequest) -> _Token:
        target = self._verify_realm(wanted)
        asked = self._clock()
        reply = self._session.send(_compose(wanted, target))
        if reply.status != HTTPStatus.OK:
            raise _refusal(wanted, reply)
        body = reply.read_all(self._limits.token_size)
        value, life = _parse_token(body, reply.endpoint)
        return _Token(value, asked + min(max(life, self._limits.minimum_token_lifetime), _LONGEST_LIFE))

    def _verify_realm(self, wanted: TokenRequest) -> Target:
        """The token service, if it may be asked: it never learns our credentials unless it is the registry's own."""
        endpoint = wanted.endpoint
        try:
            target = parse_target(wanted.realm)
        except RegistryError:
            raise self._untrusted(endpoint, "no http or https URL") from None
        if target.origin.scheme != "https" and not (endpoint.insecure and target.origin.host == endpoint.host):
            raise self._untrusted(endpoint, f"{target.origin.authority} without TLS")
        if wanted.credentials is not None and not self._is_trusted(endpoint, target):
            raise self._untrusted(endpoint, target.origin.authority, _REMEDY)
        return target

    def _is_trusted(self, endpoint: Endpoint, target: Target) -> bool:
        host = target.origin.host
        return is_own_site(endpoint.host, host) or not self._trusted_realms.isdisjoint({host, target.origin.authority})

    @staticmethod
    def _untrusted(endpoint: Endpoint, realm: str, remedy: str = "") -> RegistryAuthError:
        return RegistryAuthError(
            f"untrusted token realm: {endpoint.domain} wants its tokens to be asked for at {realm}{remedy}",
            phase=_PHASE,
            endpoint=endpoint.domain,
        )


def basic_authorization(credentials: Credentials) -> str:
    """The ``Authorization`` of HTTP Basic (RFC 7617, UTF-8)."""
    return "Basic " + b64encode(f"{credentials.username}:{credentials.password}".encode()).decode("ascii")


def token_request(
    endpoint: Endpoint, challenge: Challenge, scopes: Collection[TokenScope], credentials: Credentials | None
) -> TokenRequest:
    """What a Bearer challenge asks us to get."""
    realm = challenge.parameters.get("realm", "")
    return TokenRequest(endpoint, realm, challenge.parameters.get("service", ""), tuple(scopes), credentials)


def _compose(wanted: TokenRequest, target: Target) -> Request:
    """The OAuth2 form for an identity token, the plain one otherwise."""
    credentials = wanted.credentials
    if credentials is not None and credentials.identity_token:
        form = {
            "grant_type": "refresh_token",
            "refresh_token": credentials.identity_token,
            "service": wanted.service,
            "scope": " ".join(map(str, wanted.scopes)),
            "client_id": _CLIENT_ID,
        }
        return _request(wanted, target, form=form)
    query = [("service", wanted.service)] if wanted.service else []
    query += [("scope", str(scope)) for scope in wanted.scopes]
    if credentials is not None:
        query.append(("account", credentials.username))
    separator = "&" if "?" in target.url else "?"
    asked = replace(target, url=target.url + separator + urlencode(query)) if query else target
    return _request(wanted, asked, authorization=basic_authorization(credentials) if credentials else None)


def _request(
    wanted: TokenRequest, target: Target, *, authorization: str | None = None, form: dict[str, str] | None = None
) -> Request:
    return Request(
        target=target,
        endpoint=wanted.endpoint,
        phase=_PHASE,
        headers={"Accept": "application/json"},
        authorization=authorization,
        form=form,
        trusts_target=wanted.credentials is not None,
        may_leave_origin=False,
    )


def _refusal(wanted: TokenRequest, reply: Reply) -> UpstreamError:
    error = reply.error()
    if not isinstance(error, RegistryAuthError):
        return error
    return rejected_login(wanted.endpoint, wanted.credentials, phase=_PHASE, status=reply.status)


def rejected_login(
    endpoint: Endpoint, credentials: Credentials | None, *, phase: str, status: int
) -> RegistryAuthError:
    """Our credentials, or our having none, were not good enough. Says where they are from, never what they are."""
    if credentials is None:
        reason = "wants a login, and no credentials are configured for it"
    else:
        reason = f"does not accept, or gives no access to, the credentials from {credentials.origin}"
    return RegistryAuthError(
        f"{endpoint.domain} {reason}", phase=phase, endpoint=endpoint.domain, upstream_status=status
    )


def _parse_token(body: bytes | None, endpoint: str) -> tuple[str, float]:
    """The token and its life in seconds (0 if not told); nothing of the answer gets into an error."""
    try:
        document = json.loads(body or b"")
        value = document.get("token") or document.get("access_token")
        life = document.get("expires_in", 0)
    except (ValueError, AttributeError, RecursionError):
        value, life = None, 0
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise RegistryError(f"the token service at {endpoint} sent no usable token", phase=_PHASE, endpoint=endpoint)
    return value, float(life) if isinstance(life, int | float) and 0 <= life <= _LONGEST_LIFE else 0.0
