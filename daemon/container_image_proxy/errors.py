"""The exception tree of the package.

Every exception that the package raises on purpose is an :class:`Error`. Foreign exceptions (``OSError``, those of
``requests``, ``json``) become one of these in the layer that catches them. An error says what went wrong, not how a
client is told: ``faces/http/problem.py`` maps the classes to HTTP responses, ``cli/exit_codes.py`` to exit codes. A
message never contains a secret or the body of an upstream response.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_SHOWN: Final = 200
"""Characters of an untrusted text that a message repeats. A digest of sha512 and most references fit; a text that fills
the log does not.
"""
_MAX_NAMES: Final = 20

KeyPath: TypeAlias = tuple[str | int, ...]
"""The path to a value in a document: keys of mappings, and positions in arrays."""


def shown(text: str) -> str:
    """An untrusted text for a message: quoted, with control characters escaped, and cut if it is long."""
    return repr(text) if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]!r}..."


def listed(names: Sequence[str]) -> str:
    """Names for a message, which is a readable line: the first ones, if there are many."""
    return ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")


class Error(Exception):
    """Base of all errors. ``str(error)`` is one line that tells a person what to do or what happened."""

    def retold(self, text: str) -> Self:
        """A copy of this error with another text. The error itself may be shared by several requests."""
        retold = type(self).__new__(type(self), text)
        vars(retold).update(vars(self))
        return retold.with_traceback(self.__traceback__)


# --- what the client or the administrator wrote -----------------------------------------------------------------------


class InvalidInputError(Error, ValueError):
    """A value that does not follow its grammar."""


class InvalidDigestError(InvalidInputError):
    """Not ``sha256:<64 hex>`` or ``sha512:<128 hex>`` (OCI image-spec, descriptor.md "Digests")."""


class AmbiguousDigestError(InvalidDigestError):
    """An abbreviated digest that fits several blobs of the image, which are ``candidates``."""

    def __init__(self, detail: str, candidates: tuple[str, ...]) -> None:
        super().__init__(detail)
        self.candidates = candidates


class InvalidReferenceError(InvalidInputError):
    """Not a reference of the named transport."""


class InvalidPlatformError(InvalidInputError):
    """Not ``os/architecture[/variant]``."""


class InvalidQueryError(InvalidInputError):
    """Not a query that the resource knows."""


class UnsatisfiableRangeError(Error):
    """A range that is malformed, or outside a blob of ``size`` bytes (RFC 9110 section 15.5.17)."""

    def __init__(self, detail: str, size: int) -> None:
        super().__init__(detail)
        self.size = size


class MalformedDocumentError(Error, ValueError):
    """A document that does not follow its format: the place in it, the reason, and a remedy if one is known.

    The parser knows neither the purpose of the document nor its origin. The caller does, and turns this into an error
    about a configuration file, a signature or a manifest.
    """

    def __init__(self, reason: str, path: KeyPath = (), *, remedy: str | None = None) -> None:
        self.path = path
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"{self.key}: {reason}" if path else reason)

    @property
    def key(self) -> str | None:
        """The path as people write it, ``layers[0].size``; None if there is none."""
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path)
        return "".join(steps).removeprefix(".") or None


class ConfigurationError(Error):
    """A configuration that cannot be used: file, key, reason, and a remedy if one is known."""

    def __init__(self, file: str, reason: str, *, key: str | None = None, remedy: str | None = None) -> None:
        place = f"{file}: {key}" if key else file
        super().__init__(f"{place}: {reason}" + (f" ({remedy})" if remedy else ""))
        self.file = file
        self.key = key
        self.reason = reason
        self.remedy = remedy


@contextmanager
def remedied_by(remedy: str) -> Iterator[None]:
    """A block whose :class:`ConfigurationError` gets this remedy if it has none."""
    try:
        yield
    except ConfigurationError as error:
        if error.remedy:
            raise
        better = type(error)(error.file, error.reason, key=error.key, remedy=remedy)
        raise better.with_traceback(error.__traceback__) from error.__cause__


@contextmanager
def blamed_on(file: str) -> Iterator[None]:
    """A block whose :class:`MalformedDocumentError` becomes a :class:`ConfigurationError` about ``file``."""
    try:
        yield
    except MalformedDocumentError as error:
        raise ConfigurationError(file, error.reason, key=error.key, remedy=error.remedy) from error


@contextmanager
def rejected_because(complaint: str) -> Iterator[None]:
    """A block whose :class:`MalformedDocumentError` becomes a :class:`SignatureRejectedError` after ``complaint``."""
    try:
        yield
    except MalformedDocumentError as error:
        raise SignatureRejectedError(f"{complaint}: {error}") from error


@contextmanager
def located(place: str) -> Iterator[None]:
    """A block whose :class:`SourceError` gets ``place`` as its endpoint if it has none."""
    try:
        yield
    except SourceError as error:
        error.endpoint = error.endpoint or place
        raise


class UnreadableFileError(ConfigurationError):
    """A configuration file that could not be opened or read, so that its content is unknown."""


# --- what is not allowed ----------------------------------------------------------------------------------------------


class PeerDeniedError(Error):
    """The connecting process is not on the allow list."""


class OverloadedError(Error):
    """The request needs more memory than is free at the moment."""


class PolicyRejectedError(Error):
    """The signature policy does not allow the image; ``reasons`` has one line for each requirement that failed."""

    retryable = False

    def __init__(self, detail: str, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.reasons = reasons


class VerificationTimeoutError(PolicyRejectedError):
    """Policy evaluation did not end in time, so that the image is not allowed now."""

    retryable = True


class RegistryBlockedError(PolicyRejectedError):
    """Every place that the image could come from is blocked in registries.conf; ``reasons`` names the tables."""


class SignatureRejectedError(PolicyRejectedError):
    """A signature that does not count: malformed, not by a trusted signer, or about another image.

    It is caught within the room ``policy``.
    """


# --- what is not there ------------------------------------------------------------------------------------------------


class NotFoundError(Error):
    """The thing asked for does not exist."""


class UnknownImageError(NotFoundError):
    """The instance serves no image of that name."""


class UnknownManifestError(NotFoundError):
    """The source has no such manifest, or none for the platform."""


class ImageNotFoundError(UnknownManifestError):
    """The source can be read, and has no image of this name."""


class AmbiguousImageError(UnknownManifestError):
    """The reference fits several images of its source."""


class UnknownBlobError(NotFoundError):
    """The blob does not belong to the image, or the source no longer has it."""


# --- what went wrong on the way to the source -------------------------------------------------------------------------


class UpstreamError(Error):
    """A problem with the source of an image.

    ``phase`` is what was attempted ("connect", "token", "manifest", "blob", "signature", "referrers"), ``endpoint`` the
    host and port or the path, and ``upstream_status`` the HTTP status if there was one. ``retryable`` says whether the
    same request may succeed later, and ``retry_after`` after how many seconds.
    """

    def __init__(
        self,
        detail: str,
        *,
        phase: str | None = None,
        endpoint: str | None = None,
        upstream_status: int | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.phase = phase
        self.endpoint = endpoint
        self.upstream_status = upstream_status
        self.retryable = retryable
        self.retry_after = retry_after


class SourceError(UpstreamError):
    """A local source (layout, archive, directory) that is broken or cannot be read."""


class EngineError(SourceError):
    """The Docker daemon, or another engine with its API, cannot be reached, or its response is unusable."""


class RegistryError(UpstreamError):
    """The response of the registry, a mirror or its token service is unusable."""


class CannotResumeError(RegistryError):
    """The registry sends a blob only from its beginning, and too much of it would have to be discarded."""


class RegistryAuthError(RegistryError):
    """The registry does not accept our credentials, or wants them sent where they must not go (contrib/adr/0018)."""


class RegistryUnavailableError(UpstreamError):
    """The registry cannot be reached, or says that it cannot serve now."""


class RateLimitedError(RegistryUnavailableError):
    """The registry limits the rate of requests (429)."""


class UpstreamTimeoutError(UpstreamError):
    """The source did not answer in time, or stopped sending."""


# --- what was not what it claimed to be -------------------------------------------------------------------------------


class IntegrityError(Error):
    """Content that does not have the digest, size or media type that it should have."""


class DigestMismatchError(IntegrityError):
    """The content does not have the digest by which it was requested."""


class SizeMismatchError(IntegrityError):
    """The content is shorter or longer than its descriptor says."""


class UnreadableSignatureError(IntegrityError):
    """Content that was stored as a signature is no signature, or is malformed."""


class InvalidManifestError(IntegrityError):
    """A manifest, index or configuration that is malformed, ambiguous, unsupported or over its size limit."""


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Say of what has been found wrong with a document meanwhile where that was."""
    try:
        yield
    except (InvalidManifestError, UnknownManifestError) as error:
        raise error.retold(f"{place}: {error}") from error
