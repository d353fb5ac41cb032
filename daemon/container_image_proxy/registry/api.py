"""One GET of the OCI distribution API: its URL, and what the status of its answer means.

Must not retry, nor choose whom to ask. Spec: OCI distribution-spec, "Endpoints" and "Error Codes".
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import (
    RateLimitedError,
    RegistryUnavailableError,
    UnknownBlobError,
    UnknownManifestError,
)
from container_image_proxy.registry.http.headers import parse_warning
from container_image_proxy.registry.http.request import Request
from container_image_proxy.registry.http.target import parse_target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.limits import Limits
    from container_image_proxy.errors import Error
    from container_image_proxy.registry.endpoints import Repository
    from container_image_proxy.registry.http.reply import Reply
    from container_image_proxy.registry.http.sender import Sender

_log = logging.getLogger(__name__)
_UNKNOWN: Final = MappingProxyType(
    {"manifest": UnknownManifestError, "blob": UnknownBlobError, "referrers": UnknownManifestError}
)
_SHOWN_WARNING: Final = 200
"""Characters of a registry's warning that the log repeats."""


class DistributionApi:
    """Asks a repository for what lies under a path of it. Thread-safe."""

    def __init__(self, sender: Sender, limits: Limits) -> None:
        self._sender = sender
        self._limits = limits

    def get(
        self,
        context: Context,
        repository: Repository,
        path: str,
        *,
        phase: str,
        headers: Mapping[str, str],
        expected: frozenset[int],
    ) -> Reply:
        """The answer for ``/v2/<name>/<path>``, whose status is one of the ``expected`` ones.

        ``phase`` says in messages what is asked for; for "manifest", "blob" and "referrers" a 404 means that it is not
        there. Raises :class:`UnknownManifestError` or :class:`UnknownBlobError` then, and :class:`UpstreamError` for
        any other status and for no answer.
        """
        request = Request(
            target=parse_target(f"https://{repository.authority}/v2/{repository.path}/{path}"),
            endpoint=repository.endpoint,
            repository=repository.path,
            phase=phase,
            headers=headers,
            expected=expected,
        )
        context = context.within(self._limits.answer_timeout)
        reply = self._sender.send(request, context)
        for line in reply.header_lines("Warning"):
            if warning := parse_warning(line):
                # %r: a registry's text must not look like lines of the log.
                _log.warning("%s warns: %r", repository.domain, warning[:_SHOWN_WARNING])
        if reply.status not in expected:
            raise _unwanted(reply, repository, context)
        return reply


def _unwanted(reply: Reply, repository: Repository, context: Context) -> Error:
    """The error that an answer with an unexpected status stands for."""
    phase = reply.request.phase
    error = reply.error(context)
    if not repository.is_at(reply.request.target.origin):
        # Storage to which the registry redirects says nothing about the repository. The link may have expired, and the
        # registry can give a new one.
        return reply.fault(
            RateLimitedError if isinstance(error, RateLimitedError) else RegistryUnavailableError,
            f"{reply.endpoint}, to which {repository.domain} redirects, answered {reply.status}",
            upstream_status=reply.status,
            retryable=True,
            retry_after=error.retry_after,
        )
    if reply.status == HTTPStatus.NOT_FOUND and phase in _UNKNOWN and not error.retryable:
        return _UNKNOWN[phase](f"{repository.domain}/{repository.path} has no such {phase}")
    return error
