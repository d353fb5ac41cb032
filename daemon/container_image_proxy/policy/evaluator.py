"""One requirement held against one document (index or manifest) and the signatures that were found for it.

Everything ends in a verdict: whatever cannot be checked is rejected, with the reason. The verifiers of signatures are
imported when the first signature needs them, because most of them are heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec import Struct

from container_image_proxy.errors import ConfigurationError, SignatureRejectedError
from container_image_proxy.image.media_types import BUNDLE_MEDIA_TYPE
from container_image_proxy.image.signature import MAX_SIGNATURES
from container_image_proxy.policy.gpg import PROGRAM
from container_image_proxy.policy.key_source import load_keys
from container_image_proxy.policy.receipt import Verdict
from container_image_proxy.policy.requirement import (
    InsecureAcceptAnything,
    Reject,
    Requirement,
    SignedBaseLayer,
    SignedBy,
    SigstoreSigned,
)
from container_image_proxy.policy.simple_signing import Attestation, verify_claim, verify_simple_signature

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from container_image_proxy.image.reference import Reference
    from container_image_proxy.image.signature import SignatureFailure, SignatureKind, UntrustedSignature
    from container_image_proxy.policy.budget import Budget
    from container_image_proxy.policy.openpgp import Keyrings

    Verify: TypeAlias = "Callable[[UntrustedSignature, Subject], Attestation]"

_SHOWN_COMPLAINTS: Final = 8
"""Reasons that a rejection lists: enough to see what is wrong, though a stranger attached a hundred signatures."""
_SUPPORTED_KEY_TYPE: Final = "GPGKeys"
_LOOKED_FOR: Final[dict[SignatureKind, str]] = {
    "simple": "lookaside in registries.d says where they are looked for",
    "sigstore": "use-sigstore-attachments in registries.d says whether they are looked for",
}


class Subject(Struct, frozen=True):
    """What signatures may be about: the bytes ``raw`` of an index or manifest, known as ``reference``.

    ``documents`` are all that the image consists of (its index, its manifest): a digest in the reference must be one of
    theirs. ``failures`` tell what signatures could not be had; ``may_be_signed`` is False if there is no place
    where any could be.
    """

    raw: bytes
    documents: tuple[bytes, ...]
    reference: Reference | None
    signatures: tuple[UntrustedSignature, ...]
    failures: tuple[SignatureFailure, ...] = ()
    may_be_signed: bool = True

    @property
    def is_named(self) -> bool:
        """Whether the reference can be about these documents."""
        digest = self.reference.digest if self.reference is not None else None
        return digest is None or any(digest.matches(document) for document in self.documents)


class Evaluator(Struct, frozen=True):
    """Decides requirements at one moment, with the key rings of one policy, within one budget.

    ``accept_unnamed_bundles``: see ``bundle_trust``.
    """

    keyrings: Keyrings
    now: datetime
    budget: Budget
    accept_unnamed_bundles: bool = False

    def judge(self, requirement: Requirement, subject: Subject) -> Verdict:
        """Whether ``subject`` satisfies ``requirement``; raises nothing but what :meth:`Budget.check` does."""
        match requirement:
            case InsecureAcceptAnything():
                return Verdict(requirement.type, accepted=True, reason="anything is accepted")
            case Reject():
                return _rejected(requirement, "everything is rejected")
            case SignedBaseLayer():
                return _rejected(requirement, "there is no definition of when this is satisfied, so it never is")
            case SignedBy() if requirement.key_type != _SUPPORTED_KEY_TYPE:
                return _rejected(
                    requirement, f"keyType {requirement.key_type} is not supported, only {_SUPPORTED_KEY_TYPE}"
                )
            case SignedBy() | SigstoreSigned():
                return self._judge_signatures(requirement, subject)

    def prepare(self, requirement: Requirement) -> None:
        """Load the keys and the programs that judging will need.

        :class:`SignatureRejectedError` if one of them cannot be used; :meth:`judge` will say the same.
        """
        if isinstance(requirement, SigstoreSigned) or (
            isinstance(requirement, SignedBy) and requirement.key_type == _SUPPORTED_KEY_TYPE
        ):
            self._load_verifier(requirement)

    def _judge_signatures(self, requirement: SignedBy | SigstoreSigned, subject: Subject) -> Verdict:
        signatures = [found for found in subject.signatures if found.kind == requirement.signature_kind]
        if not signatures:
            return _rejected(requirement, _explain_absence(requirement.signature_kind, subject))
        if not subject.is_named:
            return _rejected(requirement, f"neither index nor manifest is the one that {subject.reference} names")
        try:
            verify = self._load_verifier(requirement)
        except SignatureRejectedError as error:
            return _rejected(requirement, str(error))
        return self._judge_each(requirement, subject, signatures, verify)

    def _judge_each(
        self,
        requirement: SignedBy | SigstoreSigned,
        subject: Subject,
        signatures: list[UntrustedSignature],
        verify: Verify,
    ) -> Verdict:
        """Accept by the first signature that is good and about the subject, or say what is wrong with them.

        Of more than ``MAX_SIGNATURES`` the rest is not looked at: nobody who means well attaches that many.
        """
        complaints = []
        for signature in signatures[:MAX_SIGNATURES]:
            self.budget.check()
            try:
                attestation = verify(signature, subject)
                verify_claim(attestation, requirement.identity, subject.reference, subject.raw)
            except (ConfigurationError, SignatureRejectedError) as error:
                complaints.append(f"signature from {signature.source or 'nowhere'}: {error}")
            else:
                source = signature.source
                return Verdict(requirement.type, True, str(attestation), (attestation.signer,), source)  # noqa: FBT003
        reasons, hidden = complaints[:_SHOWN_COMPLAINTS], len(signatures) - _SHOWN_COMPLAINTS
        if hidden > 0:
            reasons.append(f"and {hidden} more do not count")
        if failures := _failures(requirement.signature_kind, subject):
            reasons.append(f"not every signature could be fetched: {failures}")
        return _rejected(requirement, "; ".join(reasons))

    def _load_verifier(self, requirement: SignedBy | SigstoreSigned) -> Verify:
        try:
            if isinstance(requirement, SignedBy):
                return self._load_simple_verifier(requirement)
            return self._load_sigstore_verifier(requirement)
        except (ConfigurationError, SignatureRejectedError) as error:
            if isinstance(error, ConfigurationError) and error.file == PROGRAM:  # there is nothing wrong with the keys
                raise SignatureRejectedError(str(error)) from error
            raise SignatureRejectedError(f"the policy's keys cannot be used: {error}") from error

    def _load_simple_verifier(self, requirement: SignedBy) -> Verify:
        with requirement.keys.named_in_errors():
            keyring = self.keyrings.get(load_keys(requirement.keys), self.budget)
        return lambda signature, _: verify_simple_signature(keyring, signature, self.budget)

    def _load_sigstore_verifier(self, requirement: SigstoreSigned) -> Verify:
        # cryptography takes 30 ms
        from container_image_proxy.policy.sigstore.bundle_trust import verify_bundle  # noqa: PLC0415
        from container_image_proxy.policy.sigstore.trust import load_sigstore_trust  # noqa: PLC0415

        trust = load_sigstore_trust(requirement, self.now, self.budget)

        def verify(signature: UntrustedSignature, subject: Subject) -> Attestation:
            if signature.media_type != BUNDLE_MEDIA_TYPE:
                return trust.verify(signature, self.budget)
            place = subject.reference if self.accept_unnamed_bundles else None
            return verify_bundle(trust, signature.blob, subject.raw, self.budget, unnamed_as=place)

        return verify


def _explain_absence(kind: SignatureKind, subject: Subject) -> str:
    if failures := _failures(kind, subject):
        return f"no {kind} signature could be fetched: {failures}"
    if not subject.may_be_signed:
        return f"no {kind} signature was found: the image's transport has no place for signatures"
    return f"no {kind} signature was found; {_LOOKED_FOR[kind]}"


def _failures(kind: SignatureKind, subject: Subject) -> str:
    told = dict.fromkeys(str(failure) for failure in subject.failures if kind in failure.kinds)
    return "; ".join(list(told)[:_SHOWN_COMPLAINTS])


def _rejected(requirement: Requirement, reason: str) -> Verdict:
    return Verdict(requirement.type, accepted=False, reason=reason)
