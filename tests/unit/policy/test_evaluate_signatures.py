"""Allowing and rejecting images by their signatures: which of them count, for what, and what a person is told."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.errors import PolicyRejectedError, RegistryError, VerificationTimeoutError
from container_image_proxy.image.digest import Digest
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.image.signature import SignatureFailure, SignatureKind, UntrustedSignature
from container_image_proxy.policy import evaluator, gpg, openpgp
from container_image_proxy.policy.budget import Budget
from container_image_proxy.policy.evaluate import UnverifiedImage, VerifiedImage, evaluate, prepare
from container_image_proxy.policy.model import Policy, parse_policy
from container_image_proxy.transports.table import parse_image_reference
from tests.support.gpg import Signer
from tests.support.sigstore import make_key, make_payload, make_signature, public_pem
from tests.support.verification import PATIENCE, make_budget
from tests.unit.policy.test_evaluate import IMAGE, MANIFEST, REFERENCE, make_index

INDEX = make_index(MANIFEST)
OF_INDEX = replace(IMAGE, index=INDEX)
NAME = "quay.io/example/os:1"
UNSIGNED = "signedBy: no simple signature was found; lookaside in registries.d says where they are looked for"
SIGSTORE_SIGNED = {"type": "sigstoreSigned", "keyPath": "/nonexistent"}


def simple(
    signer: Signer, digest: Digest, name: str = NAME, source: str = "lookaside/signature-1"
) -> UntrustedSignature:
    return UntrustedSignature("simple", signer.sign_image(name, str(digest)), source=source)


def policy(*requirements: object) -> Policy:
    return parse_policy(json.dumps({"default": requirements}).encode(), "policy.json")


def signed_by(signer: Signer, **more: object) -> dict[str, object]:
    return {"type": "signedBy", "keyType": "GPGKeys", "keyData": encode(signer.public_key), **more}


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def judged(wanted: Policy, image: UnverifiedImage, digest: Digest, *found: UntrustedSignature) -> VerifiedImage:
    return evaluate(wanted, replace(image, signatures={digest: found}), budget=make_budget())


def reason(wanted: Policy, image: UnverifiedImage, digest: Digest, *found: UntrustedSignature) -> str:
    with pytest.raises(PolicyRejectedError) as caught:
        judged(wanted, image, digest, *found)
    return "\n".join(caught.value.reasons)


def test_a_signature_by_a_trusted_key_is_in_the_receipt(signer: Signer) -> None:
    receipt = judged(policy(signed_by(signer)), IMAGE, MANIFEST.digest, simple(signer, MANIFEST.digest)).receipt
    identity = f"openpgp:{signer.fingerprint}"
    assert receipt.signed_by == (identity,)
    (verdict,) = receipt.verdicts
    assert (verdict.signature_source, verdict.reason) == ("lookaside/signature-1", f"signed by {identity} as {NAME}")
    assert receipt.signed_digest == MANIFEST.digest


def test_an_unsigned_image_is_rejected_without_starting_gpg(signer: Signer) -> None:
    wanted = policy(signed_by(signer, keyData="bm8ga2V5"))
    assert reason(wanted, IMAGE, MANIFEST.digest) == UNSIGNED


@pytest.mark.parametrize(
    ("kind", "setting"), [("signedBy", "lookaside"), ("sigstoreSigned", "use-sigstore-attachments")]
)
def test_an_unsigned_image_is_rejected_with_what_can_be_done_about_it(signer: Signer, kind: str, setting: str) -> None:
    wanted = policy({"signedBy": signed_by(signer), "sigstoreSigned": SIGSTORE_SIGNED}[kind])
    assert f"; {setting} in registries.d says " in reason(wanted, IMAGE, MANIFEST.digest)
    layout = replace(IMAGE, reference=parse_image_reference("oci:/srv/os"))
    text = reason(wanted, layout, MANIFEST.digest)
    assert text.endswith("signature was found: the image's transport has no place for signatures")


def test_the_rejection_of_each_signature_is_told(signer: Signer) -> None:
    found = [
        simple(signer, MANIFEST.digest, "quay.io/other/image:1"),
        simple(signer, INDEX.digest, source="lookaside/signature-2"),
    ]
    text = reason(policy(signed_by(signer)), IMAGE, MANIFEST.digest, *found)
    identity = f"openpgp:{signer.fingerprint}"
    assert text == (
        f"signedBy: signature from lookaside/signature-1: it is valid and by {identity}, "
        f"but for 'quay.io/other/image:1'; {NAME} is wanted; "
        f"signature from lookaside/signature-2: it is valid and by {identity}, but for other content: {INDEX.digest}"
    )


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"keyPaths": []}, "the policy's list of keys: it is empty"),
        ({"keyData": ""}, "the policy's own key data: not all keys are OpenPGP public keys"),
    ],
)
def test_a_policy_may_name_no_key_and_then_nothing_is_signed(signer: Signer, keys: object, told: str) -> None:
    requirement = {"type": "signedBy", "keyType": "GPGKeys"} | cast("dict[str, object]", keys)
    text = reason(policy(requirement), IMAGE, MANIFEST.digest, simple(signer, MANIFEST.digest))
    assert text == f"signedBy: the policy's keys cannot be used: {told}"


def failing(reason: str, *kinds: SignatureKind) -> SignatureFailure:
    return SignatureFailure(RegistryError(reason), frozenset(kinds))


def test_what_could_not_be_fetched_is_told_and_nothing_is_said_to_be_missing(signer: Signer) -> None:
    failures = {MANIFEST.digest: (failing("it answered 403", "simple", "sigstore"), failing("no answer", "sigstore"))}
    wanted = policy(signed_by(signer))
    with pytest.raises(PolicyRejectedError) as told:
        evaluate(wanted, replace(IMAGE, failures=failures), budget=make_budget())
    assert told.value.reasons == ("signedBy: no simple signature could be fetched: it answered 403",)
    bad = UntrustedSignature("simple", b"bad", source="signature-1")
    with pytest.raises(PolicyRejectedError) as told:
        evaluate(wanted, replace(IMAGE, signatures={MANIFEST.digest: (bad,)}, failures=failures), budget=make_budget())
    (text,) = told.value.reasons
    assert text == (
        "signedBy: signature from signature-1: it is no binary OpenPGP message; "
        "not every signature could be fetched: it answered 403"
    )
    of_index = replace(OF_INDEX, failures={INDEX.digest: (failing("no answer", "simple"),)})
    with pytest.raises(PolicyRejectedError) as told:
        evaluate(wanted, of_index, budget=make_budget())
    assert told.value.reasons[0].endswith("; of the index: no simple signature could be fetched: no answer")


def test_one_good_signature_is_enough_though_others_could_not_be_fetched(signer: Signer) -> None:
    found = {MANIFEST.digest: (simple(signer, MANIFEST.digest),)}
    failures = {MANIFEST.digest: (failing("it answered 403", "simple"),)}
    image = replace(IMAGE, signatures=found, failures=failures)
    assert evaluate(policy(signed_by(signer)), image, budget=make_budget())


def test_one_good_signature_among_bad_ones_suffices(signer: Signer) -> None:
    bad = UntrustedSignature("simple", b"\xa3garbage")
    good = simple(signer, MANIFEST.digest)
    assert judged(policy(signed_by(signer)), IMAGE, MANIFEST.digest, bad, good)


@pytest.mark.demand("LIM-signatures")
def test_only_so_many_signatures_are_looked_at(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, "MAX_SIGNATURES", 2)
    bad, good = UntrustedSignature("simple", b"not OpenPGP"), simple(signer, MANIFEST.digest)
    assert judged(policy(signed_by(signer)), IMAGE, MANIFEST.digest, bad, good)
    assert "no binary OpenPGP" in reason(policy(signed_by(signer)), IMAGE, MANIFEST.digest, bad, bad, good)


def test_a_rejection_does_not_go_on_for_ever(signer: Signer) -> None:
    text = reason(policy(signed_by(signer)), IMAGE, MANIFEST.digest, *[UntrustedSignature("simple", b"bad")] * 30)
    assert text.count("no binary OpenPGP") == 8
    assert text.endswith("; and 22 more do not count")


@pytest.mark.demand("SIG-list-vs-instance")
@pytest.mark.parametrize("signed", [INDEX.digest, MANIFEST.digest])
def test_a_signed_index_or_a_signed_manifest_suffices(signer: Signer, signed: Digest) -> None:
    receipt = judged(policy(signed_by(signer)), OF_INDEX, signed, simple(signer, signed)).receipt
    assert (receipt.index_digest, receipt.manifest_digest) == (INDEX.digest, MANIFEST.digest)
    assert receipt.signed_digest == signed


@pytest.mark.demand("SIG-list-vs-instance")
def test_what_is_wrong_with_the_indexs_signatures_is_told_after_the_manifests_reason(signer: Signer) -> None:
    found = simple(signer, INDEX.digest, "quay.io/other/image:1")
    assert reason(policy(signed_by(signer)), OF_INDEX, INDEX.digest, found) == (
        f"signedBy: of the manifest: {UNSIGNED.removeprefix('signedBy: ')}; "
        "of the index: signature from lookaside/signature-1: it is valid and by "
        f"openpgp:{signer.fingerprint}, but for 'quay.io/other/image:1'; {NAME} is wanted"
    )


@pytest.mark.demand("SIG-list-vs-instance")
def test_an_index_that_is_not_signed_or_does_not_matter_has_no_reason(signer: Signer) -> None:
    wanted, bad = policy(signed_by(signer), {"type": "reject"}), UntrustedSignature("simple", b"bad")
    assert "of the index" not in reason(wanted, OF_INDEX, MANIFEST.digest, bad)
    assert reason(wanted, OF_INDEX, INDEX.digest, bad).count("of the index") == 1
    of_index = replace(OF_INDEX, signatures={INDEX.digest: (bad,)})
    with pytest.raises(PolicyRejectedError, match=f"{UNSIGNED}$"):
        evaluate(policy(signed_by(signer)), of_index, require_instance_signature=True, budget=make_budget())


@pytest.mark.demand("SIG-list-vs-instance")
def test_a_signature_counts_only_for_what_it_is_about(signer: Signer) -> None:
    text = reason(policy(signed_by(signer)), OF_INDEX, MANIFEST.digest, simple(signer, INDEX.digest))
    assert f"other content: {INDEX.digest}" in text


@pytest.mark.demand("SIG-list-vs-instance")
def test_a_signed_manifest_can_be_demanded(signer: Signer) -> None:
    of_index = replace(OF_INDEX, signatures={INDEX.digest: (simple(signer, INDEX.digest),)})
    with pytest.raises(PolicyRejectedError):
        evaluate(policy(signed_by(signer)), of_index, require_instance_signature=True, budget=make_budget())
    of_manifest = replace(OF_INDEX, signatures={MANIFEST.digest: (simple(signer, MANIFEST.digest),)})
    assert evaluate(policy(signed_by(signer)), of_manifest, require_instance_signature=True, budget=make_budget())


def test_two_requirements_want_two_signatures(signer: Signer) -> None:
    key = make_key()
    sigstore = {
        "type": "sigstoreSigned",
        "keyData": encode(public_pem(key)),
        "signedIdentity": {"type": "matchRepository"},
    }
    wanted = policy(signed_by(signer), sigstore)
    openpgp = simple(signer, MANIFEST.digest)
    cosign = make_signature(key, make_payload("quay.io/example/os", str(MANIFEST.digest)))
    receipt = judged(wanted, IMAGE, MANIFEST.digest, openpgp, cosign).receipt
    assert [identity.partition(":")[0] for identity in receipt.signed_by] == ["openpgp", "sigstore-key"]
    assert reason(wanted, IMAGE, MANIFEST.digest, openpgp).startswith(
        "sigstoreSigned: no sigstore signature was found; "
    )
    assert reason(wanted, IMAGE, MANIFEST.digest, cosign) == UNSIGNED


def test_a_digest_in_the_reference_must_be_the_images(signer: Signer) -> None:
    by_digest = f"quay.io/example/os@{INDEX.digest}"
    image = replace(OF_INDEX, reference=replace(REFERENCE, docker_reference=parse_reference(by_digest)))
    assert judged(policy(signed_by(signer)), image, MANIFEST.digest, simple(signer, MANIFEST.digest))
    other = replace(image, index=None)
    assert "neither index nor manifest" in reason(
        policy(signed_by(signer)), other, MANIFEST.digest, simple(signer, MANIFEST.digest)
    )


@pytest.mark.parametrize(
    ("requirement", "complaint"),
    [
        (
            {"type": "signedBy", "keyType": "X509Certificates", "keyPath": "/k"},
            "keyType X509Certificates is not supported",
        ),
        ({"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}}, "never is"),
        ({"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/nonexistent"}, "/nonexistent: cannot be read"),
        ({"type": "sigstoreSigned", "keyPath": "/nonexistent"}, "no sigstore signature"),
    ],
)
def test_what_cannot_be_satisfied_is_rejected_with_the_reason(
    signer: Signer, requirement: object, complaint: str
) -> None:
    assert complaint in reason(policy(requirement), IMAGE, MANIFEST.digest, simple(signer, MANIFEST.digest))


@pytest.mark.demand("CONF-perm")
def test_a_key_file_that_others_may_write_is_no_key(signer: Signer, tmp_path: Path) -> None:
    path = tmp_path / "key.gpg"
    path.write_bytes(signer.public_key)
    path.chmod(0o644)
    wanted = policy({"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(path)})
    assert judged(wanted, IMAGE, MANIFEST.digest, simple(signer, MANIFEST.digest))
    path.chmod(0o666)
    assert "other users can write" in reason(wanted, IMAGE, MANIFEST.digest, simple(signer, MANIFEST.digest))


def test_a_replaced_key_file_counts_at_once(signer: Signer, tmp_path: Path) -> None:
    path = tmp_path / "key.gpg"
    wanted = policy({"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(path)})
    with Signer("next@example.com") as successor:
        path.write_bytes(signer.public_key)
        path.chmod(0o644)
        assert judged(wanted, IMAGE, MANIFEST.digest, simple(signer, MANIFEST.digest))
        path.write_bytes(successor.public_key)
        assert "not trusted" in reason(wanted, IMAGE, MANIFEST.digest, simple(signer, MANIFEST.digest))
        assert judged(wanted, IMAGE, MANIFEST.digest, simple(successor, MANIFEST.digest))


def test_keys_can_be_loaded_in_advance(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = policy(signed_by(signer), {"type": "sigstoreSigned", "keyPath": "/nonexistent"}, {"type": "reject"})
    (complaint,) = prepare(wanted, wanted.scope_for(REFERENCE), budget=make_budget())
    assert complaint.startswith("sigstoreSigned: the policy's keys cannot be used: /nonexistent: ")
    monkeypatch.setattr(openpgp, "Keyring", None)  # no key is imported any more
    assert "sigstoreSigned: no sigstore signature" in reason(
        wanted, IMAGE, MANIFEST.digest, simple(signer, MANIFEST.digest)
    )


def test_a_missing_gpg_is_nothing_that_is_wrong_with_the_keys(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpg, "_PATH", "/nonexistent")
    text = reason(policy(signed_by(signer)), IMAGE, MANIFEST.digest, simple(signer, MANIFEST.digest))
    assert text.startswith("signedBy: gpg: is not installed, so OpenPGP signatures cannot be checked")


@pytest.mark.parametrize("key", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"])
@pytest.mark.parametrize(
    "requirement",
    [
        {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "key"},
        {"type": "sigstoreSigned", "keyPath": "key"},
        {"type": "sigstoreSigned", "pki": {"caRootsPath": "key", "subjectEmail": "a@example.com"}},
    ],
)
def test_what_is_no_key_is_told_in_advance_with_its_file(
    requirement: dict[str, object], key: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_bytes(key)
    monkeypatch.chdir(tmp_path)
    wanted = policy(requirement)
    (complaint,) = prepare(wanted, wanted.scope_for(REFERENCE), budget=make_budget())
    assert complaint.startswith(f"{requirement['type']}: the policy's keys cannot be used: key: ")


class Ticking:
    """A clock that a verification moves on by a second each time that it looks at it."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.mark.demand("LIM-signatures")
def test_a_decision_that_takes_too_long_is_a_rejection_that_may_pass_and_says_so(signer: Signer) -> None:
    bad = [UntrustedSignature("simple", b"bad")] * 100
    wanted = policy(signed_by(signer))
    image = replace(IMAGE, signatures={MANIFEST.digest: tuple(bad)})
    with pytest.raises(VerificationTimeoutError) as caught:
        evaluate(wanted, image, Budget(50, Cancellation(), Ticking()))
    told = "verification did not end within 50 s, which is what verification-timeout allows"
    assert str(caught.value) == f"{REFERENCE} is not allowed by policy.json (scope default): {told}"
    assert caught.value.reasons == (told,)
    with pytest.raises(PolicyRejectedError, match="and 92 more do not count"):
        evaluate(wanted, image, Budget(1000, Cancellation(), Ticking()))


def test_a_decision_that_nobody_waits_for_is_not_made(signer: Signer) -> None:
    (token := Cancellation()).cancel()
    with pytest.raises(CancelledError):
        evaluate(policy(signed_by(signer)), IMAGE, Budget(PATIENCE, token))


def test_keys_for_which_there_is_no_time_are_told_in_advance(signer: Signer) -> None:
    wanted = policy(signed_by(signer))
    (complaint,) = prepare(wanted, wanted.scope_for(REFERENCE), make_budget(0))
    assert complaint.startswith("signedBy: verification did not end within 0 s")


def test_images_are_judged_in_parallel(signer: Signer) -> None:
    wanted = policy(signed_by(signer))
    found = simple(signer, MANIFEST.digest)
    with ThreadPoolExecutor(8) as threads:
        verified = list(threads.map(lambda _: judged(wanted, IMAGE, MANIFEST.digest, found), range(24)))
    assert {image.receipt.signed_by for image in verified} == {(f"openpgp:{signer.fingerprint}",)}
