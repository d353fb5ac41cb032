"""The use case: resolve a configured image, verify it, serve its own blobs.

Owns the order of things: manifest and signatures are fetched, digests checked, policy evaluated on the reference that
the configuration names, and only a :class:`VerifiedImage` becomes a snapshot. Whatever is served comes from a snapshot.
Knows neither HTTP nor files; transports bring the bytes, ``policy`` decides.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from container_image_proxy.concurrency.memory import Memory
from container_image_proxy.concurrency.single_flight import SingleFlight
from container_image_proxy.config.instances import DEFAULT_VERIFICATION_TIMEOUT
from container_image_proxy.core.chain import fetch_chain, fetch_instance, verify_chain
from container_image_proxy.core.checkpoints import Checkpoints
from container_image_proxy.core.lease import Lease
from container_image_proxy.core.snapshots import Snapshot, Snapshots
from container_image_proxy.core.stored_image import StoredImage
from container_image_proxy.core.verified_part import VerifiedPart, open_part
from container_image_proxy.core.verified_stream import VerifiedBlob
from container_image_proxy.errors import (
    AmbiguousDigestError,
    Error,
    PolicyRejectedError,
    UnknownBlobError,
    UnknownImageError,
    UnknownManifestError,
    UpstreamError,
    VerificationTimeoutError,
    naming,
)
from container_image_proxy.image.digest import parse_digest_prefix
from container_image_proxy.image.manifest import Index, Schema1Manifest
from container_image_proxy.image.schema1_conversion import convert_schema1
from container_image_proxy.policy.budget import Budget
from container_image_proxy.policy.evaluate import UnverifiedImage, evaluate, signed_documents
from container_image_proxy.transports.source import MAX_STATE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.core.snapshot_store import SnapshotStore
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import Descriptor, IndexEntry
    from container_image_proxy.image.platform import Platform
    from container_image_proxy.image.signature import Findings, SignatureFailure
    from container_image_proxy.policy.model import Policy
    from container_image_proxy.policy.receipt import Receipt
    from container_image_proxy.transports.source import ImageSource, SourceReference

_log = logging.getLogger(__name__)


class ServedImage(Struct, frozen=True):
    """An image that the instance serves; ``fresh_for`` is in seconds."""

    name: str
    reference: SourceReference
    platform: Platform
    fresh_for: float


class Proxy:
    """The images of one configuration. Immutable but for its snapshots; safe to use from several threads."""

    def __init__(
        self,
        images: Mapping[str, ServedImage],
        policy: Policy,
        open_source: Callable[[SourceReference, ImageSource | None, bytes], ImageSource],
        store: SnapshotStore,
        memory: Memory = Memory(),  # noqa: B008 - that of the process, over all configurations
        checkpoints: Checkpoints = Checkpoints(),  # noqa: B008 - as above
        *,
        require_instance_signature: bool = False,
        accept_unnamed_bundles: bool = False,
        verification_timeout: float = DEFAULT_VERIFICATION_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._images = images
        self._policy = policy
        self._open_source = open_source
        self._snapshots = Snapshots(store, self._restore)
        self._evaluate = partial(
            evaluate,
            policy,
            require_instance_signature=require_instance_signature,
            accept_unnamed_bundles=accept_unnamed_bundles,
        )
        self._require_instance_signature = require_instance_signature
        self._memory = memory
        self._checkpoints = checkpoints
        self._verification_timeout = verification_timeout
        self._clock = clock
        self._resolutions: SingleFlight[Snapshot] = SingleFlight()

    def image(self, name: str) -> ServedImage:
        """The image of that name; :class:`UnknownImageError` if the instance serves none."""
        try:
            return self._images[name]
        except KeyError as error:
            raise UnknownImageError(
                f"this instance serves no image {name!r}; GET /images lists those it serves"
            ) from error

    def resolve(self, context: Context, name: str, platform: Platform | None = None) -> Snapshot:
        """What the reference names now, verified: a new snapshot, or the last one if it is fresh or still the same.

        Concurrent calls for one image and platform share one look at the source, and its outcome.
        """
        image = self.image(name)
        platform = platform or image.platform
        last = self._newest(context, image, platform)
        if last is not None and self._is_fresh(image, last):
            return last
        return self._resolutions.run(
            context, (name, platform), lambda context: self._resolve(context, image, platform, last)
        )

    def current(self, context: Context, name: str, platform: Platform | None = None) -> Snapshot:
        """The newest snapshot, however old; resolves only if there is none."""
        image = self.image(name)
        newest = self._newest(context, image, platform or image.platform)
        return newest or self.resolve(context, name, platform)

    def find_blob(
        self, context: Context, name: str, platform: Platform | None, wanted: str
    ) -> tuple[Snapshot, Descriptor]:
        """The image's own blob with digest ``wanted``, or with that unambiguous prefix of 7 or more hex digits.

        Looks through the kept snapshots of the image (of ``platform``, if given), newest first, so that the blobs of a
        manifest stay reachable after its tag has moved; resolves only if there is none. Raises
        :class:`InvalidDigestError`, :class:`AmbiguousDigestError` or :class:`UnknownBlobError`.
        """
        prefix = parse_digest_prefix(wanted)
        for snapshot in self.kept_or_resolved(context, name, platform):
            if descriptor := _choose_blob(snapshot, prefix):
                return snapshot, descriptor
        raise UnknownBlobError(f"{prefix} is no blob of image {name!r}; its manifest lists those that are")

    def open_blob(self, context: Context, snapshot: Snapshot, descriptor: Descriptor) -> VerifiedBlob:
        """The verified stream of one of the snapshot's blobs, which the caller closes."""
        known = self._checkpoints.record(snapshot.name, descriptor)
        return VerifiedBlob(snapshot.open_blob(context, descriptor), descriptor, known.hash_at(0))

    def open_part(
        self, context: Context, snapshot: Snapshot, descriptor: Descriptor, span: range
    ) -> VerifiedPart | None:
        """The bytes of the blob in ``span``, verified, which the caller closes; None if it takes the whole instead."""
        known = self._checkpoints.record(snapshot.name, descriptor)
        return open_part(context, partial(snapshot.open_part, context, descriptor), descriptor, known, span)

    def verify_instance(self, context: Context, snapshot: Snapshot, index: Index, entry: IndexEntry) -> Snapshot:
        """The manifest that one of the snapshot's indexes names, if policy allows that, too; nothing keeps it.

        Raises :class:`PolicyRejectedError`, and what fetching it does.
        """
        began = self._clock()
        indexes = snapshot.stored.indexes[: snapshot.stored.indexes.index(index) + 1]
        with self.reaching(context, snapshot) as (source, take):
            place = f"{snapshot.stored.reference}, manifest {entry.digest}"
            manifest = fetch_instance(context, source, entry, place, take)
            if isinstance(manifest, Index):
                raise UnknownManifestError(f"{place}: it is an index that is not on the way to the configured platform")
            signatures = {one.digest: snapshot.stored.signatures.get(one.digest, ()) for one in indexes}
            unsigned = replace(
                snapshot.stored, indexes=indexes, manifest=manifest, signatures=signatures, state=source.state
            )
            return self._verify_signed(context, unsigned, snapshot.lease, take, checked_at=began)

    @contextmanager
    def reaching(self, context: Context, snapshot: Snapshot) -> Iterator[tuple[ImageSource, Callable[[int], object]]]:
        """Where the snapshot came from, open meanwhile, and who is asked for the memory of what is fetched there."""
        with self._memory.share(context, snapshot.name) as share, snapshot.lease.held():
            yield snapshot.lease.source, share.take

    def close(self) -> None:
        """Close the sources of all snapshots, but for those from which blobs are being read."""
        self._snapshots.close()

    def kept_or_resolved(self, context: Context, name: str, platform: Platform | None = None) -> Iterator[Snapshot]:
        """The snapshots of the image, of ``platform`` if given, those of its configured one first, newest first."""
        image, is_empty = self.image(name), True
        for shelf in (image.name, _side_shelf(image)):
            for snapshot in self._snapshots.of(context, shelf, platform):
                is_empty = False
                yield snapshot
        if is_empty:
            yield self.resolve(context, name, platform)

    def _newest(self, context: Context, image: ServedImage, platform: Platform) -> Snapshot | None:
        return next(self._snapshots.of(context, _shelf(image, platform), platform), None)

    def _restore(self, context: Context, stored: StoredImage) -> Snapshot | None:
        """A kept image verified anew; None if it is not what the configuration names now."""
        image = self._images.get(stored.name)
        if image is None or (stored.reference, stored.place) != _names(image):
            return None
        verify_chain(stored.indexes, stored.manifest, image.reference, stored.platform)
        try:
            lease = self._new_lease(image, stored.state)
            return self._verify(context, stored, {}, self._new_budget(context), lease, checked_at=None)
        except PolicyRejectedError as error:
            _log_rejection(stored, error)
            raise

    def _is_fresh(self, image: ServedImage, snapshot: Snapshot) -> bool:
        if image.reference.pinned_digest is not None:
            return True
        return snapshot.checked_at is not None and self._clock() - snapshot.checked_at < image.fresh_for

    def _resolve(self, context: Context, image: ServedImage, platform: Platform, last: Snapshot | None) -> Snapshot:
        began = self._clock()
        with self._memory.share(context, image.name) as share, self._renewed(image, last) as lease:
            source = lease.source
            known = last.top_digest if last else None
            chain = fetch_chain(context, source, image.reference, platform, known, share.take)
            if chain is not None:
                state = source.state if len(source.state) <= MAX_STATE_SIZE else b""
                unsigned = StoredImage(image.name, platform, *_names(image), *chain, signatures={}, state=state)
                snapshot = self._verify_signed(context, unsigned, lease, share.take, checked_at=began)
            elif last is not None:
                snapshot = replace(last, checked_at=began, lease=lease)
            else:
                raise UnknownManifestError(f"{image.reference}: the source says 'not modified' to a first request")
            self._snapshots.add(_shelf(image, platform), snapshot)
        return snapshot

    @contextmanager
    def _renewed(self, image: ServedImage, last: Snapshot | None) -> Iterator[Lease]:
        """Hold meanwhile a lease of what the reference names now: that of ``last`` if its source still is that."""
        if last is None:
            lease = self._new_lease(image)
            with lease.held():
                yield lease
            return
        with last.lease.held():
            earlier = last.lease.opened
            source = self._open_source(image.reference, earlier, last.stored.state)
            lease = last.lease if source is earlier else self._new_lease(image, last.stored.state, source)
            with lease.held():
                yield lease

    def _new_lease(self, image: ServedImage, state: bytes = b"", opened: ImageSource | None = None) -> Lease:
        return Lease(lambda: self._open_source(image.reference, None, state), opened)

    def _verify_signed(
        self,
        context: Context,
        unsigned: StoredImage,
        lease: Lease,
        take: Callable[[int], object],
        *,
        checked_at: float,
    ) -> Snapshot:
        """What policy allows: the image as it is, or else with the signatures that the source has, as few as suffice.

        All attempts share one budget. Raises what policy has against the image with all of them. If some could not be
        had, which may have been enough, that is told with it, and decides whether it may pass.
        """
        stored = unsigned
        failures: dict[Digest, tuple[SignatureFailure, ...]] = {}
        places = self._look_for_signatures(context, unsigned, lease.source, take)
        budget = self._new_budget(context)
        while True:
            try:
                return self._verify(context, stored, failures, budget, lease, checked_at=checked_at)
            except VerificationTimeoutError as error:
                _log_rejection(stored, error)
                raise
            except PolicyRejectedError as error:
                rejection = error
            with budget.paused():
                more = next(places, None)
            if more is None:
                _log_rejection(stored, rejection)
                raise _decisive(rejection, failures) from rejection
            digest, findings = more
            failures[digest] = failures.get(digest, ()) + findings.failures
            if findings.signatures:
                kept = stored.signatures.get(digest, ())
                stored = replace(stored, signatures={**stored.signatures, digest: kept + findings.signatures})

    def _look_for_signatures(
        self, context: Context, unsigned: StoredImage, source: ImageSource, take: Callable[[int], object]
    ) -> Iterator[tuple[Digest, Findings]]:
        """Place by place: of which document signatures were found there, and what was."""
        image = self._unverified(unsigned)
        kinds = self._policy.scope_for(image.reference).needs_signatures
        for document in signed_documents(image, require_instance_signature=self._require_instance_signature):
            for findings in source.fetch_signatures(context, document.digest, kinds, take=take):
                if findings:
                    yield document.digest, findings

    def _new_budget(self, context: Context) -> Budget:
        """What the verification of one image may compute, until the last client that waits for it has left."""
        return Budget(self._verification_timeout, context.cancellation, self._clock)

    def _verify(
        self,
        context: Context,
        stored: StoredImage,
        failures: Mapping[Digest, tuple[SignatureFailure, ...]],
        budget: Budget,
        lease: Lease,
        *,
        checked_at: float | None,
    ) -> Snapshot:
        """What policy allows; :class:`PolicyRejectedError` otherwise."""
        verified = self._evaluate(replace(self._unverified(stored), failures=failures), budget)
        _log_receipt(stored, verified.receipt)
        with naming(stored.reference):
            if isinstance(verified.manifest, Schema1Manifest):
                from container_image_proxy.core.unpacking import unpack_layers  # noqa: PLC0415 - old images are rare

                unpacked = stored.unpacked or unpack_layers(context, verified.manifest, lease)
                served, config = convert_schema1(verified.manifest, unpacked)
                return Snapshot(replace(stored, unpacked=unpacked), verified, served, checked_at, lease, config)
            served = self.image(stored.name).reference.to_oci(verified.manifest, stored.state)
            return Snapshot(stored, verified, served, checked_at, lease)

    def _unverified(self, stored: StoredImage) -> UnverifiedImage:
        return UnverifiedImage(
            reference=self.image(stored.name).reference,
            index=stored.indexes[0] if stored.indexes else None,
            manifest=stored.manifest,
            signatures=stored.signatures,
        )


def _names(image: ServedImage) -> tuple[str, str]:
    """What a stored image was resolved by: the reference, and the place that it meant."""
    return str(image.reference), image.reference.policy_identity


def _decisive(rejection: PolicyRejectedError, failures: Mapping[Digest, tuple[SignatureFailure, ...]]) -> Error:
    """What a rejection comes from, in the rejection's words: a failure that may pass before any other."""
    told = [failure.error for group in failures.values() for failure in group]
    passing = [error for error in told if isinstance(error, UpstreamError) and error.retryable]
    return next((error.retold(str(rejection)) for error in (*passing, *told)), rejection)


def _shelf(image: ServedImage, platform: Platform) -> str:
    """Other platforms, which any client may ask for, have a shelf of their own and push nothing off the image's."""
    return image.name if platform == image.platform else _side_shelf(image)


def _side_shelf(image: ServedImage) -> str:
    """For snapshots of other platforms than the configured one; no image can have that name."""
    return f"{image.name}+platforms"


def _choose_blob(snapshot: Snapshot, prefix: str) -> Descriptor | None:
    found = {blob.digest: blob for blob in snapshot.manifest.blobs if str(blob.digest).startswith(prefix)}
    if len(found) > 1:
        candidates = tuple(sorted(str(digest) for digest in found))
        raise AmbiguousDigestError(f"{prefix} could be {', '.join(candidates)}", candidates)
    return next(iter(found.values()), None)


def _log_rejection(stored: StoredImage, rejection: PolicyRejectedError) -> None:
    fields = {"IMAGE": stored.name, "REFERENCE": stored.reference}
    _log.warning("rejected: %s", rejection, extra={"fields": fields})


def _log_receipt(stored: StoredImage, receipt: Receipt) -> None:
    """The decision as one record: what it was about, and the whole receipt."""
    fields = {
        "IMAGE": stored.name,
        "REFERENCE": stored.reference,
        "DIGEST": str(receipt.manifest_digest),
        "POLICY_SCOPE": receipt.scope,
        "SIGNED_BY": ", ".join(receipt.signed_by),
        "RECEIPT": json.dumps(receipt.as_json()),
    }
    _log.info("verified %s as %s", stored.reference, receipt.manifest_digest, extra={"fields": fields})
