"""Errors as answers: the one table from exception classes to HTTP, as ``application/problem+json``.

``code`` is the OCI distribution error code where one fits. An answer holds no secret, and no body that came from
upstream. The answer to a foreign exception tells nothing about it. Spec: RFC 9457, OCI distribution-spec "Error Codes".
"""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from container_image_proxy import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.core.verified_part import PartOfBlob
    from container_image_proxy.core.verified_stream import VerifiedBlob

MEDIA_TYPE: Final = "application/problem+json"
_LONGEST_DETAIL: Final = 2000  # characters: a detail may list digests and reasons
_MOMENT: Final = 1  # seconds after which there may be room again


class Answer(Struct, frozen=True):
    """An HTTP answer to GET. ``body`` is in memory, or a stream of as many bytes as ``Content-Length`` says.

    A whole blob is a function that opens its stream, because HEAD and a refusal do not need it.
    """

    status: HTTPStatus
    headers: tuple[tuple[str, str], ...]
    body: bytes | VerifiedBlob | PartOfBlob | Callable[[], VerifiedBlob]


class _Row(Struct, frozen=True):
    error: type[errors.Error]
    status: HTTPStatus
    code: str


# The first row whose class fits decides, so that the more specific ones stand first.
_TABLE: Final = (
    _Row(errors.InvalidDigestError, HTTPStatus.BAD_REQUEST, "DIGEST_INVALID"),
    _Row(errors.InvalidQueryError, HTTPStatus.BAD_REQUEST, "QUERY_INVALID"),
    _Row(errors.InvalidPlatformError, HTTPStatus.BAD_REQUEST, "QUERY_INVALID"),
    _Row(errors.InvalidInputError, HTTPStatus.BAD_REQUEST, "NAME_INVALID"),
    _Row(errors.UnsatisfiableRangeError, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "RANGE_INVALID"),
    _Row(errors.PeerDeniedError, HTTPStatus.FORBIDDEN, "DENIED"),
    _Row(errors.OverloadedError, HTTPStatus.SERVICE_UNAVAILABLE, "TOOMANYREQUESTS"),
    _Row(errors.PolicyRejectedError, HTTPStatus.FORBIDDEN, "POLICY_REJECTED"),
    _Row(errors.UnknownImageError, HTTPStatus.NOT_FOUND, "NAME_UNKNOWN"),
    _Row(errors.UnknownManifestError, HTTPStatus.NOT_FOUND, "MANIFEST_UNKNOWN"),
    _Row(errors.UnknownBlobError, HTTPStatus.NOT_FOUND, "BLOB_UNKNOWN"),
    _Row(errors.NotFoundError, HTTPStatus.NOT_FOUND, "NOT_FOUND"),
    _Row(errors.UpstreamTimeoutError, HTTPStatus.GATEWAY_TIMEOUT, "UPSTREAM_TIMEOUT"),
    _Row(errors.RateLimitedError, HTTPStatus.SERVICE_UNAVAILABLE, "TOOMANYREQUESTS"),
    _Row(errors.RegistryUnavailableError, HTTPStatus.SERVICE_UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
    _Row(errors.RegistryAuthError, HTTPStatus.BAD_GATEWAY, "UNAUTHORIZED"),
    _Row(errors.RegistryError, HTTPStatus.BAD_GATEWAY, "UPSTREAM_ERROR"),
    _Row(errors.SourceError, HTTPStatus.BAD_GATEWAY, "SOURCE_ERROR"),
    _Row(errors.UpstreamError, HTTPStatus.BAD_GATEWAY, "UPSTREAM_ERROR"),
    _Row(errors.DigestMismatchError, HTTPStatus.BAD_GATEWAY, "DIGEST_MISMATCH"),
    _Row(errors.SizeMismatchError, HTTPStatus.BAD_GATEWAY, "SIZE_MISMATCH"),
    _Row(errors.InvalidManifestError, HTTPStatus.BAD_GATEWAY, "MANIFEST_INVALID"),
    _Row(errors.IntegrityError, HTTPStatus.BAD_GATEWAY, "INTEGRITY"),
    _Row(errors.MalformedDocumentError, HTTPStatus.BAD_GATEWAY, "INTEGRITY"),
    _Row(errors.ConfigurationError, HTTPStatus.INTERNAL_SERVER_ERROR, "CONFIGURATION"),
)


def is_expected(error: BaseException) -> bool:
    """Whether the error has an answer of its own. Any other one is a defect, whose traceback belongs into the log."""
    return any(isinstance(error, row.error) for row in _TABLE)


def reason_of(error: BaseException) -> str:
    """Why a request failed, for the log: the text of an expected error; class and text of any other."""
    return str(error) if is_expected(error) else f"{type(error).__name__}: {error}"


def problem_of(error: BaseException) -> Answer:
    """The answer to a request that ended with ``error``."""
    row = next((row for row in _TABLE if isinstance(error, row.error)), None)
    if row is None:
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL", "the daemon's log says more")
    # What some errors say beyond their text: extension members (RFC 9457 section 3.2) and headers.
    members: dict[str, Any] = {}
    headers: tuple[tuple[str, str], ...] = ()
    match error:
        case errors.AmbiguousDigestError():
            members = {"candidates": list(error.candidates)}
        case errors.UnsatisfiableRangeError():
            headers = (("Content-Range", f"bytes */{error.size}"),)
        case errors.OverloadedError():
            members, headers = {"retryable": True}, _retry_after(_MOMENT)
        case errors.PolicyRejectedError():
            members = {"retryable": error.retryable, "reasons": list(error.reasons)}
        case errors.UpstreamError():
            members = {"retryable": error.retryable}
            members |= _present(phase=error.phase, endpoint=error.endpoint, upstream_status=error.upstream_status)
            headers = _retry_after(error.retry_after)
        case errors.ConfigurationError():
            members = _present(file=error.file, key=error.key, reason=error.reason, remedy=error.remedy)
    return problem(row.status, row.code, str(error), members=members, headers=headers)


def problem(
    status: HTTPStatus,
    code: str,
    detail: str,
    *,
    members: dict[str, Any] | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Answer:
    """A problem document as an answer. ``members`` are extension members (RFC 9457 section 3.2)."""
    document = (
        {
            "type": "about:blank",
            "title": status.phrase,  # as the type demands (RFC 9457 section 4.2.1); ``code`` says more
            "status": int(status),
            "detail": detail[:_LONGEST_DETAIL],
            "code": code,
            "retryable": False,
        }
        | (members or {})
    )
    body = json.dumps(document, indent=2).encode() + b"\n"
    return Answer(status, (("Content-Type", MEDIA_TYPE), ("Content-Length", str(len(body))), *headers), body)


def _present(**members: str | int | None) -> dict[str, Any]:
    """The members that have a value."""
    return {name: value for name, value in members.items() if value is not None}


def _retry_after(seconds: float | None) -> tuple[tuple[str, str], ...]:
    return () if seconds is None else (("Retry-After", str(max(0, math.ceil(seconds)))),)
