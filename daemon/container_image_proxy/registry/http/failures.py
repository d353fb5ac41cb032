"""From what went wrong to the error that says so: HTTP statuses and foreign exceptions become our own classes.

A message names endpoint, phase and status. Of what upstream sent it repeats only the error codes of the OCI
distribution-spec, so that neither secrets nor somebody else's text get into logs and answers.
Must not decide whether to try again: ``retryable`` says what may pass. Spec: RFC 9110 section 15, OCI distribution-spec
"Error Codes".
"""

from __future__ import annotations

import errno
import http.client
import json
import logging
import re
import socket
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import urllib3.exceptions

from container_image_proxy.errors import (
    Error,
    RateLimitedError,
    RegistryAuthError,
    RegistryError,
    RegistryUnavailableError,
    UpstreamError,
    UpstreamTimeoutError,
)
from container_image_proxy.registry.http.response import FramingError
from container_image_proxy.registry.http.socks import SocksError
from container_image_proxy.registry.http.tls_failures import explain, is_plain_text, may_pass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from container_image_proxy.registry.http.request import Request

_log = logging.getLogger(__name__)
_CODES: Final = frozenset(
    [
        "BLOB_UNKNOWN",
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "DENIED",
        "DIGEST_INVALID",
        "MANIFEST_BLOB_UNKNOWN",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "MANIFEST_UNVERIFIED",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "SIZE_INVALID",
        "TAG_INVALID",
        "TOOMANYREQUESTS",
        "UNAUTHORIZED",
        "UNAVAILABLE",
        "UNKNOWN",
        "UNSUPPORTED",
    ]
)
_RATE_LIMIT: Final = "TOOMANYREQUESTS"
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})  # what is short here, not there
_Kind = type[BaseException] | tuple[type[BaseException], ...]
_TUNNEL_REFUSED: Final = re.compile(r"Tunnel connection failed: (\d{3})\b")  # http.client's words, with the status
_PLAIN_HTTP: Final = "it does not speak TLS (to allow that, insecure = true in registries.conf, or --tls-verify=false)"
_NEVER_BETTER: Final = frozenset({HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED})


class ConnectionLostError(RegistryUnavailableError):
    """The connection ended within an answer, or a kept one just before its next use. It is sensible to ask again at
    once.
    """


class TlsRefusedError(RegistryError):
    """Both sides speak TLS, and cannot agree."""


# Kind, the error that it becomes, the reason in its message, and whether it may pass. The first match counts: urllib3
# derives its failures to connect from its time-outs, so they come first.
_KINDS: Final[tuple[tuple[_Kind, type[UpstreamError], str, bool], ...]] = (
    (socket.gaierror, RegistryUnavailableError, "its name cannot be resolved ({})", True),
    (urllib3.exceptions.NewConnectionError, RegistryUnavailableError, "cannot connect ({})", True),
    (
        (TimeoutError, urllib3.exceptions.TimeoutError),
        UpstreamTimeoutError,
        "no answer, or no end of it, in time",
        True,
    ),
    ((ConnectionError, http.client.IncompleteRead), ConnectionLostError, "the connection was lost", True),
    (FramingError, RegistryError, "{}", False),
    (http.client.HTTPException, RegistryError, "its answer is malformed", False),
)


def parse_error_codes(body: bytes) -> tuple[str, ...]:
    """The known codes of an error document (distribution-spec, "Error Codes"); empty for anything else.

    Some registries send a lone error without the list around it, a code in lower case, or a rate limit as plain text.
    """
    try:
        document = json.loads(body.decode("utf-8-sig", "replace"))  # a message may be in any encoding
    except (ValueError, RecursionError):
        return (_RATE_LIMIT,) if body.lstrip()[: len(_RATE_LIMIT)].upper() == _RATE_LIMIT.encode() else ()
    errors = document.get("errors", document) if isinstance(document, dict) else ()
    entries = errors if isinstance(errors, list) else [errors]
    codes = [str(entry.get("code")).upper() for entry in entries if isinstance(entry, dict)]
    return tuple(dict.fromkeys(code for code in codes if code in _CODES))


def error_for_status(
    request: Request, status: int, codes: tuple[str, ...] = (), *, retry_after: float | None = None
) -> UpstreamError:
    """The error that an unwanted answer to ``request`` stands for. ``retry_after`` is in seconds."""
    endpoint = request.target.origin.authority
    kind, retryable = _classify(status, codes)
    named = f" ({', '.join(codes)})" if codes else ""
    # Only a proxy answers 407 (RFC 9110 section 15.5.8).
    who = f"the proxy on the way to {endpoint}" if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED else endpoint
    return request.fault(
        kind,
        f"{who} answered {status}{named} to the {request.phase} request",
        upstream_status=status,
        retryable=retryable,
        retry_after=retry_after if retryable else None,
    )


def _classify(status: int, codes: tuple[str, ...]) -> tuple[type[UpstreamError], bool]:
    """The class of the error, and whether the same request may succeed later."""
    # Some registries send the code of a rate limit with another status, even 401 or 403.
    if status == HTTPStatus.TOO_MANY_REQUESTS or _RATE_LIMIT in codes:
        return RateLimitedError, True
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return RegistryAuthError, False
    if status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GATEWAY_TIMEOUT}:
        return UpstreamTimeoutError, True
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in _NEVER_BETTER:
        return RegistryUnavailableError, True
    return RegistryError, False


def error_for_exception(request: Request, error: BaseException) -> UpstreamError:
    """The error that an exception of the HTTP library or the system stands for, which ``request`` met with."""
    kind, reason, retryable = diagnose(error, request.phase)
    return request.fault(kind, f"{request.target.origin.authority}: {reason}", retryable=retryable)


def own_error(error: Exception, endpoint: str) -> Error:
    """What it means that a conversation with ``endpoint`` ended by ``error``: our own errors, which then name the
    endpoint, mean what they say.

    That this process has no more files or memory passes, whatever could not be opened because of it: it becomes
    :class:`RegistryUnavailableError`. Any other foreign exception is a defect of ours, and its traceback goes to the
    log. It becomes :class:`RegistryError`, so that whoever provoked it cannot keep other endpoints from being asked.
    """
    if isinstance(error, UpstreamError):
        error.endpoint = error.endpoint or endpoint
        return error
    if any(isinstance(cause, OSError) and cause.errno in _EXHAUSTED for cause in _causes(error)):
        reason = f"{endpoint} cannot be asked: this host has no more files or memory for the daemon"
        return RegistryUnavailableError(reason, endpoint=endpoint, retryable=True)
    if isinstance(error, Error):
        return error
    _log.error("%s: an answer was not understood", endpoint, exc_info=error)
    return RegistryError(f"{endpoint}: its answer cannot be processed", endpoint=endpoint)


def diagnose(error: BaseException, phase: str) -> tuple[type[UpstreamError], str, bool]:
    """The class of error for an exception, the reason in words, and whether it may pass.

    ``phase`` is "connect" if the connection was not open yet.
    """
    # A proxy's failures hold those of TLS and of sockets, and TLS failures are OSErrors: in this order.
    causes = tuple(_causes(error))
    if any(isinstance(cause, urllib3.exceptions.ProxyError) for cause in causes):
        return _diagnose_proxy(causes)
    tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if tls is not None and not isinstance(tls, TimeoutError):
        in_handshake = phase == "connect"
        if in_handshake and is_plain_text(tls):
            return RegistryError, _PLAIN_HTTP, False
        if not may_pass(tls, in_handshake=in_handshake):
            return TlsRefusedError, explain(tls), False
        return (RegistryUnavailableError if in_handshake else ConnectionLostError), explain(tls), True
    for kind, told, reason, retryable in _KINDS:
        cause = next((cause for cause in causes if isinstance(cause, kind)), None)
        if cause is not None:
            return told, reason.format(_words(causes, cause)), retryable
    return ConnectionLostError, "the connection was lost", True


def _diagnose_proxy(causes: tuple[BaseException, ...]) -> tuple[type[UpstreamError], str, bool]:
    """As :func:`diagnose`, for what failed at a proxy. If the proxy gave an answer, that decides."""
    refusals = (_TUNNEL_REFUSED.match(str(cause)) for cause in causes if isinstance(cause, OSError))
    status = next((int(refusal[1]) for refusal in refusals if refusal), None)
    if status is not None:
        kind, retryable = _classify(status, ())
        if issubclass(kind, RegistryAuthError):  # it was the proxy that wanted a login, not the registry
            kind = RegistryError
        return kind, f"the proxy on the way to it answered {status}", retryable
    socks = next((cause for cause in causes if isinstance(cause, SocksError)), None)
    if socks is not None:
        kind = RegistryUnavailableError if socks.may_pass else RegistryError
        return kind, f"the proxy on the way to it gives no connection: {socks.reason}", socks.may_pass
    untrusted = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if untrusted is not None and not may_pass(untrusted, in_handshake=True):
        return RegistryError, f"the proxy on the way to it: {explain(untrusted)}", False
    return RegistryUnavailableError, f"the proxy on the way to it fails ({_words(causes, causes[0])})", True


def _words(causes: tuple[BaseException, ...], cause: BaseException) -> str:
    """The failure in the system's words or ours; nothing that was received."""
    if isinstance(cause, FramingError):
        return str(cause)
    return next(
        (error.strerror for error in causes if isinstance(error, OSError) and error.strerror), "no reason given"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that it wraps. urllib3 and requests put causes into ``reason`` and ``args``, too."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        current = waiting.pop()
        if isinstance(current, BaseException) and id(current) not in seen:
            seen.add(id(current))
            yield current
            waiting += [current.__context__, current.__cause__, getattr(current, "reason", None), *current.args]
