"""Evaluates one requirement for one document (index or manifest) and the signatures that were found for it.

Every evaluation ends in a verdict. What cannot be checked is rejected, with the reason. The sigstore verifiers are
imported when a signature first needs them, because they load ``cryptography``.
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
"""Reasons that a rejection lists. Anybody may attach a signature to an image, so that there can be a hundred."""
_SUPPORTED_KEY_TYPE: Final = "GPGKeys"
_LOOKED_FOR: Final[dict[SignatureKind, str]] = {
    "simple": "lookaside in registries.d says where they are looked for",
    "sigstore": "use-sigstore-attachments in registries.d says whether they are looked for",
}


class Subject(Struct, frozen=True):
    """The document that signatures may be about: the bytes ``raw`` of an index or manifest, named ``reference``.

    ``documents`` are the bytes of the image's index (if any) and manifest. A digest in the reference must match one of
    them. ``failures`` are the signatures that could not be fetched. ``may_be_signed`` is False if the image's transport
    has no place for signatures.
    """

    raw: bytes
    documents: tuple[bytes, ...]
    reference: Reference | None
    signatures: tuple[UntrustedSignature, ...]
    failures: tuple[SignatureFailure, ...] = ()
    may_be_signed: bool = True

    @property
    def is_named(self) -> bool:
        """Whether a digest in the reference, if it has one, is that of the index or of the manifest."""
        digest = self.reference.digest if self.reference is not None else None
        return digest is None or any(digest.matches(document) for document in self.documents)


class Evaluator(Struct, frozen=True):
    """Evaluates requirements at the time ``now``, with the key rings of one policy, within one budget.

    ``accept_unnamed_bundles``: see ``sigstore/bundle_trust``.
    """

    keyrings: Keyrings
    now: datetime
    budget: Budget
    accept_unnamed_bundles: bool = False

    def evaluate(self, requirement: Requirement, subject: Subject) -> Verdict:
        """Whether ``subject`` satisfies ``requirement``. Raises only what :meth:`Budget.check` raises."""
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
                return self._evaluate_signatures(requirement, subject)

    def prepare(self, requirement: Requirement) -> None:
        """Load the keys, and the libraries that use them, which :meth:`evaluate` will need.

        :class:`SignatureRejectedError` if the keys cannot be used; :meth:`evaluate` will give the same reason.
        """
        if isinstance(requirement, SigstoreSigned) or (
            isinstance(requirement, SignedBy) and requirement.key_type == _SUPPORTED_KEY_TYPE
        ):
            self._load_verifier(requirement)

    def _evaluate_signatures(self, requirement: SignedBy | SigstoreSigned, subject: Subject) -> Verdict:
        """Accepted if one signature is good and about the subject (contrib/adr/0020); else what is wrong with each."""
        signatures = [found for found in subject.signatures if found.kind == requirement.signature_kind]
        if not signatures:
            return _rejected(requirement, _explain_absence(requirement.signature_kind, subject))
        if not subject.is_named:
            return _rejected(requirement, f"neither index nor manifest is the one that {subject.reference} names")
        try:
            verify = self._load_verifier(requirement)
        except SignatureRejectedError as error:
            return _rejected(requirement, str(error))
        complaints = []
        # The rest is ignored: an attacker who adds signatures by the thousand shall not use up the time of this check.
        for signature in signatures[:MAX_SIGNATURES]:
            self.budget.check()
            try:
                attestation = verify(signature, subject)
                verify_claim(attestation, requirement.identity, subject.reference, subject.raw)
            except (ConfigurationError, SignatureRejectedError) as error:
                complaints.append(f"signature from {signature.source or 'nowhere'}: {error}")
            else:
                return Verdict(
                    requirement.type,
                    accepted=True,
                    reason=str(attestation),
                    signers=(attestation.signer,),
                    signature_source=signature.source,
                )
        reasons, hidden = complaints[:_SHOWN_COMPLAINTS], len(signatures) - _SHOWN_COMPLAINTS
        if hidden > 0:
            reasons.append(f"and {hidden} more do not count")
        if failures := _failures(requirement.signature_kind, subject):
            reasons.append(f"not every signature could be fetched: {failures}")
        return _rejected(requirement, "; ".join(reasons))

    def _load_verifier(self, requirement: SignedBy | SigstoreSigned) -> Verify:
        try:
            if isinstance(requirement, SigstoreSigned):
                return self._load_sigstore_verifier(requirement)
            with requirement.keys.named_in_errors():
                keyring = self.keyrings.get(load_keys(requirement.keys), self.budget)
        except (ConfigurationError, SignatureRejectedError) as error:
            if isinstance(error, ConfigurationError) and error.file == PROGRAM:  # gpg is missing: no key is at fault
                raise SignatureRejectedError(str(error)) from error
            raise SignatureRejectedError(f"the policy's keys cannot be used: {error}") from error
        return lambda signature, _: verify_simple_signature(keyring, signature, self.budget)

    def _load_sigstore_verifier(self, requirement: SigstoreSigned) -> Verify:
        # Both import cryptography, which takes 30 ms: policies without sigstore do not pay for it.
        from container_image_proxy.policy.sigstore.bundle_trust import verify_bundle  # noqa: PLC0415
        from container_image_proxy.policy.sigstore.trust import load_sigstore_trust  # noqa: PLC0415

        trust = load_sigstore_trust(requirement, self.now, self.budget)

        def verify(signature: UntrustedSignature, subject: Subject) -> Attestation:
            if signature.media_type != BUNDLE_MEDIA_TYPE:
                return trust.verify(signature, self.budget)
            unnamed_as = subject.reference if self.accept_unnamed_bundles else None
            return verify_bundle(trust, signature.blob, subject.raw, self.budget, unnamed_as=unnamed_as)

        return verify


def _explain_absence(kind: SignatureKind, subject: Subject) -> str:
    if failures := _failures(kind, subject):
        return f"no {kind} signature could be fetched: {failures}"
    if not subject.may_be_signed:
        return f"no {kind} signature was found: the image's transport has no place for signatures"
    return f"no {kind} signature was found; {_LOOKED_FOR[kind]}"


def _failures(kind: SignatureKind, subject: Subject) -> str:
    """Why signatures of this kind could not be fetched, each reason once; "" if there was no failure."""
    reasons = dict.fromkeys(str(failure) for failure in subject.failures if kind in failure.kinds)
    return "; ".join(list(reasons)[:_SHOWN_COMPLAINTS])


def _rejected(requirement: Requirement, reason: str) -> Verdict:
    return Verdict(requirement.type, accepted=False, reason=reason)
