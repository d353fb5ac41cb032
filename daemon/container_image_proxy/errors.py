"""The one exception tree.

Everything that the package raises on purpose is an :class:`Error`. Foreign exceptions (``OSError``, ``requests``,
``json``) are turned into one of these in the layer that met them. An error knows what went wrong, not how a client is
told: ``faces/http/problem.py`` maps the classes to HTTP answers, ``__main__`` to exit codes. No message ever holds a
secret or a body that came from upstream.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SHOWN: Final = 200
"""Characters of a text from outside that a message repeats: enough for any digest and most references, too few to fill
the log with them.
"""

KeyPath: TypeAlias = tuple[str | int, ...]
"""The way to a place in a document: keys of mappings, and positions in arrays."""


def shown(text: str) -> str:
    """A text from outside as a message may have it: quoted, control characters escaped, cut where it is long."""
    return repr(text) if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]!r}..."


class Error(Exception):
    """Base of all. ``str(error)`` is one line that a person can act on."""

    def retold(self, text: str) -> Self:
        """The same error in other words; a new one, for several requests may have met with this one."""
        retold = type(self).__new__(type(self), text)
        vars(retold).update(vars(self))
        return retold.with_traceback(self.__traceback__)


# --- what the client or the administrator wrote -----------------------------------------------------------------------


class InvalidInputError(Error, ValueError):
    """A value that does not follow its grammar."""


class InvalidDigestError(InvalidInputError):
    """Not ``sha256:<64 hex>`` or ``sha512:<128 hex>`` (OCI image-spec descriptor.md, Digests)."""


class AmbiguousDigestError(InvalidDigestError):
    """An abbreviated digest that several blobs of the image share; ``candidates`` lists them."""

    def __init__(self, detail: str, candidates: tuple[str, ...]) -> None:
        super().__init__(detail)
        self.candidates = candidates


class InvalidReferenceError(InvalidInputError):
    """Not a reference that the named transport can read."""


class InvalidPlatformError(InvalidInputError):
    """Not ``os/architecture[/variant]``."""


class InvalidQueryError(InvalidInputError):
    """Not a query that the resource knows."""


class UnsatisfiableRangeError(Error):
    """A range that is malformed, or of which a blob of ``size`` bytes has nothing."""

    def __init__(self, detail: str, size: int) -> None:
        super().__init__(detail)
        self.size = size


class MalformedDocumentError(Error, ValueError):
    """A document that is not what its format says: where in it, why, and what to do about it if that is known.

    It knows neither what the document is for nor where it came from. Who asked for the document does, and turns this
    into an error of its own: of a configuration file, a signature, a manifest.
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
    """A configuration file that cannot be used: which file, where in it, why, and what to do about it."""

    def __init__(self, file: str, reason: str, *, key: str | None = None, remedy: str | None = None) -> None:
        place = f"{file}: {key}" if key else file
        super().__init__(f"{place}: {reason}" + (f" ({remedy})" if remedy else ""))
        self.file = file
        self.key = key
        self.reason = reason
        self.remedy = remedy


@contextmanager
def remedied_by(remedy: str) -> Iterator[None]:
    """Let ``remedy`` be what to do about a :class:`ConfigurationError` that does not know better."""
    try:
        yield
    except ConfigurationError as error:
        if error.remedy:
            raise
        better = type(error)(error.file, error.reason, key=error.key, remedy=remedy)
        raise better.with_traceback(error.__traceback__) from error.__cause__


@contextmanager
def blamed_on(file: str) -> Iterator[None]:
    """Make of a :class:`MalformedDocumentError` the :class:`ConfigurationError` of ``file``."""
    try:
        yield
    except MalformedDocumentError as error:
        raise ConfigurationError(file, error.reason, key=error.key, remedy=error.remedy) from error


@contextmanager
def rejected_because(complaint: str) -> Iterator[None]:
    """Make of a :class:`MalformedDocumentError` a :class:`SignatureRejectedError` that begins with ``complaint``."""
    try:
        yield
    except MalformedDocumentError as error:
        raise SignatureRejectedError(f"{complaint}: {error}") from error


class UnreadableFileError(ConfigurationError):
    """One that could not be opened, whatever it says."""


# --- what is not allowed ----------------------------------------------------------------------------------------------


class PeerDeniedError(Error):
    """The connecting process is not on the allow list."""


class OverloadedError(Error):
    """What was asked for takes more memory than there is room for at the moment."""


class PolicyRejectedError(Error):
    """The signature policy does not allow the image; ``reasons`` has one line for each requirement that failed."""

    retryable = False

    def __init__(self, detail: str, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.reasons = reasons


class VerificationTimeoutError(PolicyRejectedError):
    """Whether policy allows the image could not be found out in time, so it is not allowed now."""

    retryable = True


class RegistryBlockedError(PolicyRejectedError):
    """Every place that the image could come from is blocked in registries.conf; ``reasons`` names the tables."""


class SignatureRejectedError(PolicyRejectedError):
    """A signature that does not count: malformed, by nobody who is trusted, or about another image; stays in policy."""


# --- what is not there ------------------------------------------------------------------------------------------------


class NotFoundError(Error):
    """The thing asked for does not exist."""


class UnknownImageError(NotFoundError):
    """The instance serves no image of that name."""


class UnknownManifestError(NotFoundError):
    """The source has no such manifest, or none for the platform."""


class ImageNotFoundError(UnknownManifestError):
    """The reference names no image: its source is there, and says so."""


class AmbiguousImageError(UnknownManifestError):
    """The reference could name several of the images that its source has."""


class UnknownBlobError(NotFoundError):
    """The blob is none of the image's own, or the source no longer has it."""


# --- what went wrong on the way to the source -------------------------------------------------------------------------


class UpstreamError(Error):
    """Trouble with the place an image comes from.

    ``phase`` says during what ("connect", "token", "manifest", "blob", "signature", "referrers"), ``endpoint`` where
    (host and port, or path), ``upstream_status`` the HTTP status if there was one, ``retryable`` whether the same
    request may succeed later and ``retry_after`` (seconds) when.
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
    """The Docker daemon, or what speaks its API, cannot be reached, or its answer cannot be used."""


class RegistryError(UpstreamError):
    """The registry, a mirror or its token service answered with something unusable."""


class CannotResumeError(RegistryError):
    """The registry sends a blob from its beginning only, and too much of it would have to be fetched in vain."""


class RegistryAuthError(RegistryError):
    """The registry does not accept our credentials, or asks for them where they must not go."""


class RegistryUnavailableError(UpstreamError):
    """The registry cannot be reached, or says that it cannot serve now."""


class RateLimitedError(RegistryUnavailableError):
    """The registry asks us to come back later (429)."""


class UpstreamTimeoutError(UpstreamError):
    """The source did not answer, or stopped sending, within its time."""


# --- what was not what it claimed to be -------------------------------------------------------------------------------


class IntegrityError(Error):
    """Bytes that are not what their digest, size or media type promised."""


class DigestMismatchError(IntegrityError):
    """The content does not have the digest it was asked for by."""


class SizeMismatchError(IntegrityError):
    """The content is shorter or longer than its descriptor says."""


class UnreadableSignatureError(IntegrityError):
    """What a place keeps as a signature is none, or cannot be read as one."""


class InvalidManifestError(IntegrityError):
    """A manifest, index or configuration that is malformed, ambiguous, unsupported or over its size limit."""


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Say of what has been found wrong with a document meanwhile where that was."""
    try:
        yield
    except (InvalidManifestError, UnknownManifestError) as error:
        raise error.retold(f"{place}: {error}") from error
