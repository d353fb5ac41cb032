"""Fetches the signatures of an image in a registry from lookaside storage, sigstore attachments and bundles.

Fetching is bounded in count, size and time, and fails closed: any answer but "there is none" is a failure that is
reported, because a signature that could not be fetched must not count as absent. A failure does not remove the
signatures that were fetched: one good signature is enough (contrib/adr/0020).
Must not verify any. Spec: containers-registries.d(5) for the places, containers-signature(5) and cosign's
SIGNATURE_SPEC for the formats.
"""

from __future__ import annotations

from functools import partial
from itertools import count
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from container_image_proxy.config.lookaside import signature_url
from container_image_proxy.config.trusted_file import load_trusted_file_if_present
from container_image_proxy.errors import (
    ConfigurationError,
    Error,
    IntegrityError,
    OverloadedError,
    SourceError,
    UpstreamError,
    UpstreamTimeoutError,
)
from container_image_proxy.image.reference import MAX_TAG_LENGTH
from container_image_proxy.image.signature import (
    MAX_SIGNATURE_SIZE,
    MAX_SIGNATURES,
    SIGNATURE_MEDIA_TYPE,
    Findings,
    SignatureFailure,
    UntrustedSignature,
    parse_signature_blob,
)
from container_image_proxy.registry.signatures.attached import fetch_attached, is_passing
from container_image_proxy.registry.signatures.bundles import fetch_bundles

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.lookaside import LookasideConfiguration
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.reference import Reference
    from container_image_proxy.image.signature import SignatureKind
    from container_image_proxy.registry.client import RegistryClient
    from container_image_proxy.registry.endpoints import Repository

    _Place = Callable[[Context], Iterator[UntrustedSignature | Error]]

MAX_TOTAL_SIZE: Final = 8 << 20
"""Bytes of all signatures of one manifest: they are kept as long as its snapshot."""
MAX_TIME: Final = 300.0
"""Seconds for all signatures of an image: each of 128 may take as long as any request, which is more than a minute."""
_PHASE: Final = "signature"
_SIGSTORE: Final[frozenset[SignatureKind]] = frozenset({"sigstore"})
_ANY_KIND: Final[frozenset[SignatureKind]] = frozenset({"simple", "sigstore"})


class SignatureStorage(Struct):
    """The places that keep the signatures of one registry image: those of its index and those of its manifest.

    ``time_left`` (seconds) is for all of them together.
    """

    lookaside: LookasideConfiguration
    registry: RegistryClient
    time_left: float = MAX_TIME

    def fetch(
        self, context: Context, repository: Repository, digest: Digest, kinds: Collection[SignatureKind]
    ) -> Iterator[Findings]:
        """The signatures of ``kinds`` for the manifest with ``digest``, which came from ``repository``.

        They are looked for in that repository, be it a mirror's, and where registries.d says for the image's name
        there. Each place is asked when its findings are wanted. Bundles are the last, because a registry has to be
        searched for them. Raises :class:`OverloadedError` alone: every other error is among the findings.
        """
        budget = _Budget()
        reference = repository.reference
        if kinds:
            place: _Place = partial(self._in_lookaside, reference=reference, digest=digest)
            yield self._collect(context, place, _ANY_KIND, budget, reference)
        if "sigstore" in kinds and self.lookaside.use_sigstore_attachments(reference):
            place = partial(self._attachments, repository=repository, digest=digest)
            yield self._collect(context, place, _SIGSTORE, budget, reference)
            place = partial(fetch_bundles, registry=self.registry, repository=repository, digest=digest)
            yield self._collect(context, place, _SIGSTORE, budget, reference)

    def _collect(
        self,
        context: Context,
        place: _Place,
        kinds: frozenset[SignatureKind],
        budget: _Budget,
        reference: Reference,
    ) -> Findings:
        """What one place has. ``kinds`` are the kinds of signatures that a failure there may have hidden."""
        signatures: list[UntrustedSignature] = []
        failures: list[Error] = []
        began, context = monotonic(), context.within(self.time_left)
        try:
            for found in place(context):
                if isinstance(found, Error):
                    failures.append(found)
                    budget.spend(0)  # it counts: each failure may have taken a request
                else:
                    budget.spend(found.size)
                    signatures.append(found)
        except OverloadedError:  # this daemon's own shortage says nothing about signatures
            raise
        except Error as error:  # the place ends here; what it gave before counts
            reason = f"the signatures of {reference} did not come within {MAX_TIME:g} s"
            failures.append(UpstreamTimeoutError(reason, retryable=True) if context.deadline.left <= 0 else error)
        finally:
            self.time_left -= monotonic() - began
        for failure in failures:
            if isinstance(failure, UpstreamError):
                failure.phase = failure.phase or _PHASE
        return Findings(tuple(signatures), tuple(SignatureFailure(error, kinds) for error in failures))

    def _in_lookaside(
        self, context: Context, reference: Reference, digest: Digest
    ) -> Iterator[UntrustedSignature | Error]:
        """signature-1, signature-2, ... until one is missing, or two in a row cannot be had.

        One that cannot be had hides no other. Two may be the end: some storage answers 403, or with some page, for
        everything that it does not have.
        """
        base = self.lookaside.lookaside_base_url(reference)
        failed_before = False
        for position in count():
            url = signature_url(base, digest, position)
            found: UntrustedSignature | Error
            try:
                blob = self._load(context, url)
                if blob is None:
                    return
                found = parse_signature_blob(blob, url)
            except (UpstreamError, IntegrityError) as error:
                if is_passing(error):
                    raise
                found = error
            yield found
            if isinstance(found, Error) and failed_before:
                return
            failed_before = isinstance(found, Error)

    def _load(self, context: Context, url: str) -> bytes | None:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"}:
            return self.registry.fetch_document(context, url, limit=MAX_SIGNATURE_SIZE)
        if parts.scheme != "file":
            raise ConfigurationError(
                url, "a signature storage has an http, https or file URL", remedy="mend registries.d"
            )
        try:
            return load_trusted_file_if_present(Path(unquote(parts.path)), limit=MAX_SIGNATURE_SIZE)
        except ConfigurationError as error:
            # One signature that cannot be read is a failure among others. A ConfigurationError would end the search.
            raise SourceError(str(error), endpoint=parts.path) from error

    def _attachments(
        self, context: Context, repository: Repository, digest: Digest
    ) -> Iterator[UntrustedSignature | Error]:
        """The layers of the image that cosign tags ``sha256-<hex>.sig`` in the same repository."""
        tag = f"{digest.algorithm}-{digest.hex}.sig"
        if len(tag) > MAX_TAG_LENGTH:  # no registry has a tag for so long a digest
            return iter(())
        return fetch_attached(context, self.registry, repository.with_tag(tag), SIGNATURE_MEDIA_TYPE)


class _Budget(Struct):
    """How many signatures of one manifest may still come, and how many bytes of them."""

    signatures: int = MAX_SIGNATURES
    size: int = MAX_TOTAL_SIZE

    def spend(self, size: int) -> None:
        """Count one signature of ``size`` bytes, or a failure. Raises :class:`SourceError` if that is one too many."""
        self.signatures -= 1
        self.size -= size
        if self.signatures < 0 or self.size < 0:
            limit = f"{MAX_SIGNATURES} signatures or {MAX_TOTAL_SIZE} bytes of them"
            raise SourceError(f"there are more than {limit}, and no more are looked at")
