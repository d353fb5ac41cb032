"""The OCI distribution API's GETs: URLs, the protocol an endpoint speaks, and what the statuses mean."""

from __future__ import annotations

import logging
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from container_image_proxy.errors import (
    RateLimitedError,
    RegistryUnavailableError,
    UnknownBlobError,
    UnknownManifestError,
    UpstreamError,
)
from container_image_proxy.registry.http.failures import TlsRefusedError
from container_image_proxy.registry.http.headers import parse_media_type, parse_warning
from container_image_proxy.registry.http.request import Request
from container_image_proxy.registry.http.target import parse_target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.limits import Limits
    from container_image_proxy.errors import Error
    from container_image_proxy.registry.auth.login import Login
    from container_image_proxy.registry.endpoints import Repository
    from container_image_proxy.registry.http.reply import Reply
    from container_image_proxy.registry.http.target import Target

_log = logging.getLogger(__name__)
_UNKNOWN: Final = MappingProxyType(
    {"manifest": UnknownManifestError, "blob": UnknownBlobError, "referrers": UnknownManifestError}
)
_SHOWN_WARNING: Final = 200


class DistributionApi:
    """Asks repositories for what lies under their paths. Thread-safe."""

    def __init__(self, login: Login, limits: Limits) -> None:
        self._login = login
        self._limits = limits
        self._schemes: dict[str, str] = {}

    def get(
        self,
        context: Context,
        repository: Repository,
        path: str,
        *,
        phase: str,
        headers: Mapping[str, str],
        expected: frozenset[HTTPStatus],
    ) -> Reply:
        """The answer for ``/v2/<name>/<path>`` with one of the ``expected`` statuses.

        Raises :class:`UnknownManifestError` or :class:`UnknownBlobError` for 404, :class:`UpstreamError` for the rest.
        """
        context = context.within(self._limits.answer_timeout)
        reply = self._send(context, _request(repository, path, phase, headers), repository, expected)
        for line in reply.header_lines("Warning"):
            if warning := parse_warning(line):
                _log.warning("%s warns: %r", repository.domain, warning[:_SHOWN_WARNING])
        if reply.status not in expected:
            raise _unwanted(reply, repository, context)
        return reply

    def _send(
        self, context: Context, request: Request, repository: Repository, expected: frozenset[HTTPStatus]
    ) -> Reply:
        """The answer over https, or over http where that is allowed and https was never spoken; what was good for
        something comes first the next time.
        """
        known = self._schemes.get(repository.authority)
        if known == "https" or not repository.insecure:
            return self._speak(context, "https", request, repository, expected)
        first, second = ("http", "https") if known == "http" else ("https", "http")
        try:
            reply = self._speak(context, first, request, repository, expected)
            if not _is_from_tls_port(reply, first):
                return reply
            failure = _unwanted(reply, repository, context)
        except UpstreamError as error:
            if not _could_not_connect(error, request, first):
                raise
            failure = error
        try:
            reply = self._speak(context, second, request, repository, expected)
        except UpstreamError as error:
            raise failure if _could_not_connect(error, request, second) else error from None
        if isinstance(failure, TlsRefusedError) and _is_from_tls_port(reply, second):  # which tells less of it
            reply.close()
            raise failure
        return reply

    def _speak(
        self,
        context: Context,
        scheme: str,
        request: Request,
        repository: Repository,
        expected: frozenset[HTTPStatus],
    ) -> Reply:
        try:
            reply = self._login.send(replace(request, target=_over(scheme, request.target)), repository, context)
        except UpstreamError:
            if self._schemes.get(repository.authority) == scheme == "http":
                self._schemes.pop(repository.authority, None)
            raise
        # An error in the clear need not be the registry's own: to go by it would be to speak http for good.
        if scheme == "https" or reply.status in expected:
            self._schemes[repository.authority] = scheme
        return reply


def _is_from_tls_port(reply: Reply, scheme: str) -> bool:
    """Whether this is how servers answer plain text where they expect TLS; a registry's own errors are JSON."""
    media_type = parse_media_type(reply.header("Content-Type") or "")
    return scheme == "http" and reply.status == HTTPStatus.BAD_REQUEST and not media_type.endswith("json")


def _could_not_connect(error: UpstreamError, request: Request, scheme: str) -> bool:
    """Whether the registry itself could not be reached; a host it sent us to is no reason to speak http with it."""
    return error.phase == "connect" and error.endpoint == _over(scheme, request.target).origin.authority


def _over(scheme: str, target: Target) -> Target:
    """The same over http or https."""
    return parse_target(f"{scheme}:{target.url.partition(':')[2]}")


def _request(repository: Repository, path: str, phase: str, headers: Mapping[str, str]) -> Request:
    url = f"https://{repository.authority}/v2/{repository.path}/{path}"
    return Request(target=parse_target(url), endpoint=repository, phase=phase, headers=headers)


def _unwanted(reply: Reply, repository: Repository, context: Context) -> Error:
    phase = reply.request.phase
    error = reply.error(context)
    if not repository.is_at(reply.request.target.origin):
        # A link to storage that expired, or lies: the registry can give a new one.
        kind = RateLimitedError if isinstance(error, RateLimitedError) else RegistryUnavailableError
        return kind(
            f"{reply.endpoint}, to which {repository.domain} redirects, answered {reply.status}",
            phase=phase,
            endpoint=reply.endpoint,
            upstream_status=reply.status,
            retryable=True,
            retry_after=error.retry_after,
        )
    if reply.status == HTTPStatus.NOT_FOUND and phase in _UNKNOWN and not error.retryable:
        return _UNKNOWN[phase](f"{repository.domain}/{repository.path} has no such {phase}")
    return error
