"""The errors for a registry that denies access. Pure.

A message says what really happened. Credentials that were never sent were not refused, and a service that nobody asked
did not fail to answer. A message says where credentials are from, never what they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import RegistryAuthError

if TYPE_CHECKING:
    from collections.abc import Collection

    from container_image_proxy.registry.auth.keychain import Credentials
    from container_image_proxy.registry.auth.token import TokenRequest
    from container_image_proxy.registry.http.reply import Reply

_UNAUTHORIZED: Final = 401
_MOST_SCHEMES: Final = 4  # that a message lists: an answer may offer any number


def denied_by_registry(
    reply: Reply, credentials: Credentials | None, *, was_sent: bool, offered: Collection[str]
) -> RegistryAuthError:
    """The error for a registry's 401 or 403. ``offered`` are the schemes of its challenges, ``was_sent`` says whether
    ``credentials`` were.
    """
    domain, path = reply.request.endpoint.domain, reply.request.repository
    if credentials is None:
        wish = "wants a login, and" if reply.status == _UNAUTHORIZED or offered else "denies access, and"
        reason = f"{wish} no credentials are configured for it"
    elif was_sent and reply.status == _UNAUTHORIZED:
        reason = f"does not accept the credentials from {credentials.origin}, or they have no access to {path}"
    elif was_sent:
        reason = f"gives the credentials from {credentials.origin} no access to {path}"
    else:
        if not offered:
            wish = "denies access and does not say how to log in"
        elif "basic" in offered:
            wish = "wants a user and a password, and there is an identity token alone"
        else:
            wish = f"wants a login by {', '.join(list(offered)[:_MOST_SCHEMES])}, which is not supported"
        reason = f"{wish}: the credentials from {credentials.origin} were not sent"
    return reply.fault(RegistryAuthError, f"{domain} {reason}", upstream_status=reply.status)


def denied_elsewhere(reply: Reply) -> RegistryAuthError:
    """The error for a place to which a registry redirects, and which wants a login."""
    return reply.fault(
        RegistryAuthError,
        f"{reply.endpoint}, to which {reply.request.endpoint.domain} redirects, wants a login, and no credentials go to"
        " where a registry redirects",
        upstream_status=reply.status,
    )


def denied_by_token_service(reply: Reply, wanted: TokenRequest) -> RegistryAuthError:
    """The error for a token service that gives no token."""
    credentials = wanted.credentials
    service, domain = reply.endpoint, wanted.endpoint.domain
    who = f"the token service of {domain}" if service == wanted.endpoint.authority else f"{service}, for {domain},"
    if credentials is None:
        reason = f"{domain} wants a login, and no credentials are configured for it"
    elif reply.request.form is not None:
        reason = f"{who} does not accept the identity token from {credentials.origin}"
    elif reply.request.authorization is not None:
        reason = f"{who} does not accept the credentials from {credentials.origin}"
    else:
        reason = f"{who} wants a password, and the credentials from {credentials.origin} have none"
    return reply.fault(RegistryAuthError, reason, upstream_status=reply.status)


def untrusted_realm(wanted: TokenRequest, realm: str, remedy: str = "") -> RegistryAuthError:
    """The error for a registry that named a token service that must not be asked."""
    domain = wanted.endpoint.domain
    reason = f"untrusted token realm: {domain} wants its tokens to be asked for at {realm}{remedy}"
    return wanted.fault(RegistryAuthError, reason)
