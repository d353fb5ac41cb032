"""From a resolved image to a snapshot of it: signatures are looked for, policy decides, and the OCI form is made.

The only maker of snapshots. An image is judged by the reference that the configuration names, never by the place that
it was fetched from (contrib/adr/0007). Signatures are fetched place by place, and no more than policy needs.
Must not keep snapshots, nor know protocols.
"""

from __future__ import annotations

import json
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from container_image_proxy.core.snapshots import Snapshot
from container_image_proxy.errors import PolicyRejectedError, UpstreamError, VerificationTimeoutError, naming
from container_image_proxy.image.manifest import Schema1Manifest
from container_image_proxy.image.schema1_conversion import convert_schema1
from container_image_proxy.policy.budget import Budget
from container_image_proxy.policy.evaluate import UnverifiedImage, evaluate, signed_documents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.core.lease import Lease
    from container_image_proxy.core.stored_image import StoredImage
    from container_image_proxy.errors import Error
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.signature import Findings, SignatureFailure
    from container_image_proxy.policy.model import Policy
    from container_image_proxy.transports.source import ImageSource, SourceReference

    _Failures = Mapping[Digest, tuple[SignatureFailure, ...]]

_log = logging.getLogger(__name__)


class Verifier:
    """Verifies images under one configuration. Thread-safe.

    ``require_instance_signature`` asks for a signature of the manifest itself where an index is signed.
    ``accept_unnamed_bundles`` lets bundles count that name no image. ``timeout`` bounds what the verification of one
    image may compute, in seconds (contrib/adr/0019).
    """

    def __init__(
        self,
        policy: Policy,
        *,
        require_instance_signature: bool,
        accept_unnamed_bundles: bool,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._evaluate = partial(
            evaluate,
            policy,
            require_instance_signature=require_instance_signature,
            accept_unnamed_bundles=accept_unnamed_bundles,
        )
        self._require_instance_signature = require_instance_signature
        self._timeout = timeout
        self._clock = clock

    def verify_kept(self, context: Context, reference: SourceReference, stored: StoredImage, lease: Lease) -> Snapshot:
        """The snapshot of an image that was kept, judged anew with the signatures that were kept with it.

        Raises :class:`PolicyRejectedError`.
        """
        try:
            return self._judge(context, reference, stored, {}, self._new_budget(context), lease, checked_at=None)
        except PolicyRejectedError as error:
            _log_rejection(stored, error)
            raise

    def verify(
        self,
        context: Context,
        reference: SourceReference,
        unsigned: StoredImage,
        lease: Lease,
        take: Callable[[int], object],
        *,
        checked_at: float,
    ) -> Snapshot:
        """The snapshot of an image that was fetched, with as few of the source's signatures as policy needs.

        ``unsigned`` has those that are known already. ``take`` is called with the size in bytes of each document
        before it is read. ``checked_at`` is when the source was asked, on the monotonic clock.
        Raises what policy has against the image with all signatures that can be had. If one that could not be had may
        have been enough, the error is that failure, in the words of the rejection.
        """
        stored = unsigned
        failures: dict[Digest, tuple[SignatureFailure, ...]] = {}
        places = self._look_for_signatures(context, reference, unsigned, lease.source, take)
        budget = self._new_budget(context)  # one for all attempts
        while True:
            try:
                return self._judge(context, reference, stored, failures, budget, lease, checked_at=checked_at)
            except VerificationTimeoutError as error:  # more signatures would take more time
                _log_rejection(stored, error)
                raise
            except PolicyRejectedError as error:
                rejection = error
            with budget.paused():  # fetching has bounds of its own
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
        self,
        context: Context,
        reference: SourceReference,
        unsigned: StoredImage,
        source: ImageSource,
        take: Callable[[int], object],
    ) -> Iterator[tuple[Digest, Findings]]:
        """Place by place, the findings there, and the digest of the document that they are about."""
        kinds = self._policy.scope_for(reference).needs_signatures
        image = _unverified(reference, unsigned)
        for document in signed_documents(image, require_instance_signature=self._require_instance_signature):
            for findings in source.fetch_signatures(context, document.digest, kinds, take=take):
                if findings:
                    yield document.digest, findings

    def _new_budget(self, context: Context) -> Budget:
        return Budget(self._timeout, context.cancellation, self._clock)

    def _judge(
        self,
        context: Context,
        reference: SourceReference,
        stored: StoredImage,
        failures: _Failures,
        budget: Budget,
        lease: Lease,
        *,
        checked_at: float | None,
    ) -> Snapshot:
        """The snapshot if policy allows the image with the signatures in hand; else :class:`PolicyRejectedError`."""
        verified = self._evaluate(replace(_unverified(reference, stored), failures=failures), budget)
        receipt = verified.receipt
        fields = {
            "IMAGE": stored.name,
            "REFERENCE": stored.reference,
            "DIGEST": str(receipt.manifest_digest),
            "POLICY_SCOPE": receipt.scope,
            "SIGNED_BY": ", ".join(receipt.signed_by),
            "RECEIPT": json.dumps(receipt.as_json()),
        }
        _log.info("verified %s as %s", stored.reference, receipt.manifest_digest, extra={"fields": fields})
        with naming(stored.reference):
            if isinstance(verified.manifest, Schema1Manifest):
                from container_image_proxy.core.unpacking import unpack_layers  # noqa: PLC0415 - old images are rare

                unpacked = stored.unpacked or unpack_layers(context, verified.manifest, lease)
                served, config = convert_schema1(verified.manifest, unpacked)
                return Snapshot(replace(stored, unpacked=unpacked), verified, served, checked_at, lease, config)
            served = reference.to_oci(verified.manifest, stored.state)
            return Snapshot(stored, verified, served, checked_at, lease)


def _unverified(reference: SourceReference, stored: StoredImage) -> UnverifiedImage:
    return UnverifiedImage(
        reference=reference,
        index=stored.indexes[0] if stored.indexes else None,
        manifest=stored.manifest,
        signatures=stored.signatures,
    )


def _decisive(rejection: PolicyRejectedError, failures: _Failures) -> Error:
    """The error to raise for a rejection: a signature's failure in its words if there was one, or else itself.

    A failure that may pass comes first, so that the client learns that it may succeed later.
    """
    told = [failure.error for group in failures.values() for failure in group]
    passing = [error for error in told if isinstance(error, UpstreamError) and error.retryable]
    return next((error.retold(str(rejection)) for error in (*passing, *told)), rejection)


def _log_rejection(stored: StoredImage, rejection: PolicyRejectedError) -> None:
    fields = {"IMAGE": stored.name, "REFERENCE": stored.reference}
    _log.warning("rejected: %s", rejection, extra={"fields": fields})
