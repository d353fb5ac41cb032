"""What goes wrong, as exceptions: the daemon's problem documents by their code, and what this side finds out itself.

``str(error)`` is a sentence for a person; ``remedy`` says what to do next, where something can be said.
Must not print, and must not choose exit codes: cli does. Spec: RFC 9457.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST: Final = 2000  # characters of a text that came from outside

_LOG: Final = "the daemon's log says more: journalctl -u 'container-image-proxy@*'"
_LATER: Final = "try again later"
# What to do next about a problem of this code, where the daemon itself does not say it.
_REMEDIES: Final[Mapping[str, str]] = {
    "BLOB_UNKNOWN": "cip manifest shows the blobs of the image",
    "CONFIGURATION": "container-image-proxy --check --instance NAME shows what is wrong",
    "DENIED": "who may have an image is said by [access] in the instance file, container-image-proxy.toml(5)",
    "DIGEST_INVALID": "cip manifest shows the blobs of the image",
    "DIGEST_MISMATCH": _LOG,
    "INTEGRITY": _LOG,
    "INTERNAL": _LOG,
    "MANIFEST_INVALID": _LOG,
    "MANIFEST_UNKNOWN": "look whether the reference in the instance file is right, and whether it has this platform",
    "NAME_INVALID": "cip images lists the images that you may have",
    "NAME_UNKNOWN": "cip images lists the images that you may have",
    "POLICY_REJECTED": "which signatures an image needs is said by policy.json, containers-policy.json(5)",
    "QUERY_INVALID": "write a platform as linux/arm64/v8",
    "SIZE_MISMATCH": _LOG,
    "SOURCE_ERROR": _LOG,
    "TOOMANYREQUESTS": _LATER,
    "UNAUTHORIZED": "log in to the registry, or say where its credentials are: authfile in the instance file",
    "UPSTREAM_ERROR": _LOG,
    "UPSTREAM_TIMEOUT": _LATER,
    "UPSTREAM_UNAVAILABLE": _LATER,
}


class ImageClientError(Exception):
    """The root of all errors of this package."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class DaemonUnreachableError(ImageClientError):
    """Nobody answers at the socket, or the socket may not be used."""


class IncompleteAnswerError(ImageClientError):
    """The connection ended before the answer did: what arrived is no answer."""


class UnexpectedAnswerError(ImageClientError):
    """What answers does not speak the daemon's API."""


class WrongContentError(ImageClientError):
    """Content is not what its digest, or the form of its kind, demands."""


class MalformedArchiveError(WrongContentError):
    """What should be a tar archive is none, or breaks off."""


class UnsupportedImageError(ImageClientError):
    """The image is not of a kind that the request makes sense for."""


class PathInImageError(ImageClientError):
    """The image has no such path, or none of the wanted kind."""

    def __init__(self, message: str) -> None:
        super().__init__(message, remedy="cip ls -R lists the paths of the image")


class DestinationError(ImageClientError):
    """The place to write to is taken, or cannot be used."""


class ProblemError(ImageClientError):
    """The daemon's answer is a problem document. ``members`` has all of it."""

    def __init__(self, status: int, members: Mapping[str, Any], *, retry_after: float | None = None) -> None:
        detail = members.get("detail") or members.get("title") or f"status {status}"
        self.code = str(members.get("code", ""))
        remedy = members.get("remedy") or _REMEDIES.get(self.code, "")
        super().__init__(str(detail)[:_LONGEST], remedy=str(remedy)[:_LONGEST])
        self.status = status
        self.retryable = members.get("retryable") is True
        self.retry_after = retry_after
        self.members = dict(members)


class RequestError(ProblemError):
    """The request is malformed: a digest, a name, a platform."""


class DeniedError(ProblemError):
    """This user is not on the list of the image."""


class PolicyRejectedError(ProblemError):
    """The signature policy does not allow the image. ``reasons`` has one for each requirement that failed."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why, one for each requirement."""
        reasons = self.members.get("reasons")
        return tuple(map(str, reasons)) if isinstance(reasons, list) else ()


class NotFoundError(ProblemError):
    """There is no such image, manifest or blob."""


class ConfigurationError(ProblemError):
    """The daemon's configuration cannot be used; ``members`` say file, key and reason."""


class SourceError(ProblemError):
    """The source of the image is broken, unreachable, or sent the wrong content."""


class DaemonError(ProblemError):
    """A defect of the daemon; its log says more."""


_BY_CODE: Mapping[str, type[ProblemError]] = {
    "DENIED": DeniedError,
    "POLICY_REJECTED": PolicyRejectedError,
    "CONFIGURATION": ConfigurationError,
}
_BY_STATUS: Mapping[int, type[ProblemError]] = {403: DeniedError, 404: NotFoundError, 500: DaemonError}


def parse_problem(status: int, body: bytes, *, retry_after: str | None = None) -> ProblemError:
    """The error that an answer of 400 and above is; also if its body is no problem document."""
    try:
        members = json.loads(body)
    except ValueError:
        members = None
    if not isinstance(members, dict):
        members = {"detail": f"the answer has status {status} and does not say why"}
    kind = _BY_CODE.get(str(members.get("code")), _BY_STATUS.get(status))
    if kind is None:
        kind = SourceError if status > 500 else RequestError  # noqa: PLR2004 - the classes of HTTP
    return kind(status, members, retry_after=_seconds(retry_after))


def _seconds(value: str | None) -> float | None:
    """``Retry-After`` as the daemon writes it: seconds, never a date."""
    return float(value) if value and value.isascii() and value.isdigit() and len(value) < 7 else None  # noqa: PLR2004
