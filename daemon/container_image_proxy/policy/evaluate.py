"""The decision: an unverified image in, a verified image out, or a rejection with reasons (containers-policy.json(5)).

Only :func:`evaluate` makes a :class:`VerifiedImage`, and only that type can be served (contrib/adr/0007). The
signatures are passed in with the image; this module fetches nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import Struct, field

from container_image_proxy.errors import PolicyRejectedError, SignatureRejectedError, VerificationTimeoutError
from container_image_proxy.policy.evaluator import Evaluator, Subject
from container_image_proxy.policy.receipt import Receipt, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.image_reference import ImageReference
    from container_image_proxy.image.manifest import ImageManifest, Index
    from container_image_proxy.image.signature import SignatureFailure, UntrustedSignature
    from container_image_proxy.policy.budget import Budget
    from container_image_proxy.policy.model import Policy, Scope


class UnverifiedImage(Struct, frozen=True):
    """An image as a source delivered it, with its configured reference and the signatures that were found.

    The caller has checked by digest that ``index`` (if any) lists ``manifest``. ``signatures`` and ``failures`` (the
    signatures that could not be fetched) are keyed by the digest of the index or manifest that they are about.
    """

    reference: ImageReference
    index: Index | None
    manifest: ImageManifest
    signatures: Mapping[Digest, tuple[UntrustedSignature, ...]]
    failures: Mapping[Digest, tuple[SignatureFailure, ...]] = field(default_factory=dict)


class VerifiedImage(Struct, frozen=True):
    """An image that the policy allows, with the receipt of that decision."""

    index: Index | None
    manifest: ImageManifest
    receipt: Receipt


def evaluate(
    policy: Policy,
    image: UnverifiedImage,
    budget: Budget,
    *,
    require_instance_signature: bool = False,
    accept_unnamed_bundles: bool = False,
    now: datetime | None = None,
) -> VerifiedImage:
    """The same image as a :class:`VerifiedImage`, or :class:`PolicyRejectedError` with a reason per failed requirement.

    An image from an index is allowed if the index or the manifest satisfies all requirements; with
    ``require_instance_signature`` only the manifest counts. If neither does, the reasons are those of the manifest,
    each with what is wrong with the index's signatures. ``accept_unnamed_bundles`` lets sigstore bundles that name no
    image count for the repository and the digest (contrib/adr/0012). ``now`` is the time of verification.

    :class:`VerificationTimeoutError` if the budget is used up; one budget serves all calls about an image.
    :class:`CancelledError` if the client has left.
    """
    scope = policy.scope_for(image.reference)
    now = (now or datetime.now(UTC)).astimezone(UTC)
    evaluator = Evaluator(policy.keyrings, now, budget, accept_unnamed_bundles)
    refusal = f"{image.reference} is not allowed by {policy.file} (scope {scope.name})"
    documents = (image.manifest.raw,) if image.index is None else (image.index.raw, image.manifest.raw)
    rejected: list[tuple[Subject, tuple[Verdict, ...]]] = []
    try:
        budget.check()
        for document in signed_documents(image, require_instance_signature=require_instance_signature):
            subject = Subject(
                raw=document.raw,
                documents=documents,
                reference=image.reference.docker_reference,
                signatures=image.signatures.get(document.digest, ()),
                failures=image.failures.get(document.digest, ()),
                may_be_signed=image.reference.may_be_signed,
            )
            verdicts = tuple(evaluator.evaluate(requirement, subject) for requirement in scope.requirements)
            if all(verdict.accepted for verdict in verdicts):
                receipt = Receipt(
                    policy_file=policy.file,
                    scope=scope.name,
                    verdicts=verdicts,
                    index_digest=image.index.digest if image.index is not None else None,
                    manifest_digest=image.manifest.digest,
                    signed_digest=document.digest if any(verdict.signers for verdict in verdicts) else None,
                    verified_at=f"{now:%Y-%m-%dT%H:%M:%SZ}",
                )
                return VerifiedImage(image.index, image.manifest, receipt)
            rejected.append((subject, verdicts))
    except VerificationTimeoutError as error:
        raise VerificationTimeoutError(f"{refusal}: {error}", (str(error),)) from error
    (index, of_index), (_, of_manifest) = rejected[0], rejected[-1]
    if not index.signatures and not index.failures:
        of_index = of_manifest  # "no signature was found" is said once, not for each of the two documents
    reasons = tuple(
        f"{verdict.requirement}: {verdict.reason}"
        if other.accepted or other.reason == verdict.reason
        else f"{verdict.requirement}: of the manifest: {verdict.reason}; of the index: {other.reason}"
        for verdict, other in zip(of_manifest, of_index, strict=True)
        if not verdict.accepted
    )
    raise PolicyRejectedError(f"{refusal}: {'; '.join(reasons)}", reasons)


def prepare(policy: Policy, scope: Scope, budget: Budget) -> tuple[str, ...]:
    """Load the keys of this scope, and the libraries that use them, so that the first decision need not wait for them.

    Returns one line for each requirement that cannot be satisfied because its keys are missing, malformed, or take too
    long to load. Raises only :class:`CancelledError`.
    """
    evaluator = Evaluator(policy.keyrings, datetime.now(UTC), budget)
    complaints = []
    for requirement in scope.requirements:
        try:
            evaluator.prepare(requirement)
        except (SignatureRejectedError, VerificationTimeoutError) as error:
            complaints.append(f"{requirement.type}: {error}")
    return tuple(complaints)


def signed_documents(image: UnverifiedImage, *, require_instance_signature: bool) -> tuple[Index | ImageManifest, ...]:
    """The documents of an image whose signatures count, in the order in which they are evaluated."""
    if image.index is None or require_instance_signature:
        return (image.manifest,)
    return (image.index, image.manifest)
