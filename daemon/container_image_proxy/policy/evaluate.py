"""The decision: from an unverified image to a verified one, or a rejection that says why (containers-policy.json(5)).

Only :func:`evaluate` makes a :class:`VerifiedImage`; nothing may serve an :class:`UnverifiedImage`. No network: the
signatures come with the image.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import Struct, field

from container_image_proxy.errors import PolicyRejectedError, SignatureRejectedError, VerificationTimeoutError
from container_image_proxy.policy.evaluator import Evaluator, Subject
from container_image_proxy.policy.receipt import Receipt, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.image_reference import ImageReference
    from container_image_proxy.image.manifest import ImageManifest, Index
    from container_image_proxy.image.signature import SignatureFailure, UntrustedSignature
    from container_image_proxy.policy.budget import Budget
    from container_image_proxy.policy.model import Policy, Scope


class UnverifiedImage(Struct, frozen=True):
    """An image as a source delivered it, with the reference it is judged by and the signatures that were found.

    That ``manifest`` is one of ``index``'s (if it was chosen from one) is the caller's to see to, by digest.
    ``signatures`` are keyed by the digest that they are attached to: the index's, the manifest's, or both; so are
    ``failures``, which tell what could not be had.
    """

    reference: ImageReference
    index: Index | None
    manifest: ImageManifest
    signatures: Mapping[Digest, tuple[UntrustedSignature, ...]]
    failures: Mapping[Digest, tuple[SignatureFailure, ...]] = field(default_factory=dict)


class VerifiedImage(Struct, frozen=True):
    """An image that policy allowed, and why."""

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
    """Allow the image or raise :class:`PolicyRejectedError` with one reason for each requirement that is not satisfied.

    An image that was chosen from an index is allowed if index or manifest satisfies all requirements; with
    ``require_instance_signature`` the manifest must. If neither does, the reasons are the manifest's, and beside each
    what is wrong with the index's signatures. ``accept_unnamed_bundles`` lets sigstore bundles that name no image
    count for the image's digest.

    :class:`VerificationTimeoutError` if the budget is used up, which is one budget for all calls about an image;
    :class:`CancelledError` if nobody waits for the decision any more.
    """
    scope = policy.scope_for(image.reference)
    judge = Evaluator(policy.keyrings, now or datetime.now(UTC), budget, accept_unnamed_bundles)
    rejected: list[tuple[Subject, tuple[Verdict, ...]]] = []
    try:
        budget.check()
        for document in signed_documents(image, require_instance_signature=require_instance_signature):
            subject = _subject(image, document)
            verdicts = tuple(judge.judge(requirement, subject) for requirement in scope.requirements)
            if all(verdict.accepted for verdict in verdicts):
                receipt = _make_receipt(policy, scope, verdicts, image, document.digest, judge.now)
                return VerifiedImage(image.index, image.manifest, receipt)
            rejected.append((subject, verdicts))
    except VerificationTimeoutError as error:
        raise VerificationTimeoutError(_refusal(policy, scope, image, str(error)), (str(error),)) from error
    raise _rejection(policy, scope, rejected, image)


def prepare(policy: Policy, scope: Scope, budget: Budget) -> tuple[str, ...]:
    """Do now what the first decision in this scope would have to wait for: load keys and the programs that use them.

    What keeps requirements from ever being satisfied, one line each: keys that are not there, that are none, or that
    take too long. Raises nothing but :class:`CancelledError`.
    """
    judge = Evaluator(policy.keyrings, datetime.now(UTC), budget)
    complaints = []
    for requirement in scope.requirements:
        try:
            judge.prepare(requirement)
        except (SignatureRejectedError, VerificationTimeoutError) as error:
            complaints.append(f"{requirement.type}: {error}")
    return tuple(complaints)


def signed_documents(image: UnverifiedImage, *, require_instance_signature: bool) -> tuple[Index | ImageManifest, ...]:
    """The documents of an image whose signatures count, in the order in which they are judged."""
    if image.index is None or require_instance_signature:
        return (image.manifest,)
    return (image.index, image.manifest)


def _subject(image: UnverifiedImage, document: Index | ImageManifest) -> Subject:
    documents = (image.manifest.raw,) if image.index is None else (image.index.raw, image.manifest.raw)
    return Subject(
        raw=document.raw,
        documents=documents,
        reference=image.reference.docker_reference,
        signatures=image.signatures.get(document.digest, ()),
        failures=image.failures.get(document.digest, ()),
        may_be_signed=image.reference.may_be_signed,
    )


def _make_receipt(
    policy: Policy, scope: Scope, verdicts: tuple[Verdict, ...], image: UnverifiedImage, signed: Digest, now: datetime
) -> Receipt:
    return Receipt(
        policy_file=policy.file,
        scope=scope.name,
        verdicts=verdicts,
        index_digest=image.index.digest if image.index is not None else None,
        manifest_digest=image.manifest.digest,
        signed_digest=signed if any(verdict.signers for verdict in verdicts) else None,
        verified_at=f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
    )


def _rejection(
    policy: Policy, scope: Scope, rejected: Sequence[tuple[Subject, tuple[Verdict, ...]]], image: UnverifiedImage
) -> PolicyRejectedError:
    (of_index, index_verdicts), (_, verdicts) = rejected[0], rejected[-1]
    notes = index_verdicts if of_index.signatures or of_index.failures else verdicts
    reasons = tuple(_complain(*pair) for pair in zip(verdicts, notes, strict=True) if not pair[0].accepted)
    return PolicyRejectedError(_refusal(policy, scope, image, "; ".join(reasons)), reasons)


def _refusal(policy: Policy, scope: Scope, image: UnverifiedImage, reason: str) -> str:
    return f"{image.reference} is not allowed by {policy.file} (scope {scope.name}): {reason}"


def _complain(of_manifest: Verdict, of_index: Verdict) -> str:
    """What is wrong with the manifest; and with the index, if that is another thing."""
    if of_index.accepted or of_index.reason == of_manifest.reason:
        return f"{of_manifest.requirement}: {of_manifest.reason}"
    return f"{of_manifest.requirement}: of the manifest: {of_manifest.reason}; of the index: {of_index.reason}"
