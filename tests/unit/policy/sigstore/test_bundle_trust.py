"""Sigstore bundles: who signed, what, and under which name; everything else is refused with its reason."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from container_image_proxy.errors import PolicyRejectedError, SignatureRejectedError
from container_image_proxy.image.media_types import BUNDLE_MEDIA_TYPE
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.image.signature import UntrustedSignature
from container_image_proxy.policy.evaluate import VerifiedImage, evaluate
from container_image_proxy.policy.model import parse_policy
from container_image_proxy.policy.sigstore.bundle_trust import verify_bundle
from container_image_proxy.policy.sigstore.certificate_identity import FulcioRoot
from container_image_proxy.policy.sigstore.public_key import PublicKey
from container_image_proxy.policy.sigstore.trust import SigstoreTrust
from container_image_proxy.policy.simple_signing import Attestation
from tests.support.bundles import JSON, PREDICATE, bundle, envelope, log_entry, message, pae, promise, statement
from tests.support.sigstore import (
    EMAIL,
    ISSUER,
    SIGNED_AT,
    Certificate,
    PrivateKey,
    encode,
    make_key,
    make_leaf,
    public_pem,
    sign,
)
from tests.support.verification import make_budget
from tests.unit.policy.test_evaluate import IMAGE, MANIFEST, REFERENCE

RAW = MANIFEST.raw
NAME = "quay.io/example/os:1"
KEY, OTHER, LOG = make_key(), make_key(), make_key()
CA = Certificate()
LEAF = make_leaf(CA)
GOOD = bundle(envelope(KEY, statement(RAW, NAME)))


def publics(*keys: PrivateKey) -> tuple[PublicKey, ...]:
    return tuple(key.public_key() for key in keys)


def keyed(*keys: PrivateKey, logs: tuple[PrivateKey, ...] = ()) -> SigstoreTrust:
    return SigstoreTrust(publics(*keys), publics(*logs), SIGNED_AT)


def fulcio(*, email: str = EMAIL, log: PrivateKey = LOG) -> SigstoreTrust:
    years_later = SIGNED_AT + timedelta(days=3650)
    return SigstoreTrust(FulcioRoot((CA.certificate,), ISSUER, email), publics(log), years_later)


def verified(trust: SigstoreTrust, made: JSON | bytes, *, unnamed: bool = False) -> Attestation:
    raw = made if isinstance(made, bytes) else json.dumps(made).encode()
    return verify_bundle(trust, raw, RAW, unnamed_as=parse_reference(NAME) if unnamed else None, budget=make_budget())


def rejection(trust: SigstoreTrust, made: JSON | bytes) -> str:
    with pytest.raises(SignatureRejectedError) as caught:
        verified(trust, made, unnamed=True)
    return str(caught.value)


def changed(made: JSON, *path: str | int, to: Any) -> JSON:
    """A copy with one value replaced or, by ``...``, removed."""
    copy: Any = json.loads(json.dumps(made))
    place = copy
    for step in path[:-1]:
        place = place[step]
    if to is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return dict(copy)


@pytest.mark.parametrize(
    ("key", "scheme"),
    [
        (KEY, None),
        (ed25519.Ed25519PrivateKey.generate(), None),
        (ec.generate_private_key(ec.SECP384R1()), None),
        (rsa.generate_private_key(65537, 2048), padding.PKCS1v15()),
    ],
    ids=["p256", "ed25519", "p384", "pkcs1"],
)
def test_a_bundle_by_a_trusted_key_tells_its_subjects_name(key: PrivateKey, scheme: object) -> None:
    attestation = verified(keyed(OTHER, key), bundle(envelope(key, statement(RAW, NAME), scheme=scheme)))
    assert (attestation.claim.docker_reference, attestation.claim.manifest_digest) == (NAME, MANIFEST.digest)
    assert attestation.signer.startswith("sigstore-key:sha256:")


def test_a_stranger_or_a_changed_payload_is_refused_unread() -> None:
    assert rejection(keyed(OTHER), GOOD).startswith("it is by no trusted key")
    assert "no trusted key" in rejection(keyed(KEY), changed(GOOD, "dsseEnvelope", "payload", to=encode(b"no JSON")))
    assert "no trusted key" in rejection(keyed(KEY), changed(GOOD, "dsseEnvelope", "payloadType", to="text/plain"))


@pytest.mark.demand("SIG-identity")
def test_without_a_name_a_bundle_is_no_signature_of_an_image() -> None:
    for content in (
        envelope(KEY, statement(RAW)),
        envelope(KEY, statement(RAW, "")),
        message(KEY, RAW),
    ):
        with pytest.raises(SignatureRejectedError, match=r"it is valid and by .*, but the bundle names no image"):
            verified(keyed(KEY), bundle(content))


def test_who_accepts_nameless_bundles_takes_them_for_the_digest_in_the_repository() -> None:
    for content in (envelope(KEY, statement(RAW)), message(KEY, RAW)):
        claim = verified(keyed(KEY), bundle(content), unnamed=True).claim
        assert claim.docker_reference == f"quay.io/example/os@{MANIFEST.digest}"
    assert verified(keyed(KEY), GOOD, unnamed=True).claim.docker_reference == NAME


def judged(made: JSON, identity: str, *, reference: str = NAME, accept_unnamed: bool = True) -> VerifiedImage:
    requirement = {
        "type": "sigstoreSigned",
        "keyData": encode(public_pem(KEY)),
        "signedIdentity": {"type": identity},
    }
    found = UntrustedSignature("sigstore", json.dumps(made).encode(), BUNDLE_MEDIA_TYPE, source="docker://x@y")
    named = replace(REFERENCE, docker_reference=parse_reference(reference))
    image = replace(IMAGE, reference=named, signatures={MANIFEST.digest: (found,)})
    policy = parse_policy(json.dumps({"default": [requirement]}).encode(), "policy.json")
    return evaluate(policy, image, accept_unnamed_bundles=accept_unnamed, budget=make_budget())


BY_DIGEST = f"quay.io/example/os@{MANIFEST.digest}"
NAMELESS = bundle(envelope(KEY, statement(RAW)))


@pytest.mark.demand("SIG-identity")
@pytest.mark.parametrize(
    ("made", "identity", "reference", "accepted"),
    [
        (NAMELESS, "matchRepository", NAME, True),
        (NAMELESS, "matchRepoDigestOrExact", BY_DIGEST, True),
        (NAMELESS, "matchExact", BY_DIGEST, True),
        (NAMELESS, "matchExact", NAME, False),
        (NAMELESS, "matchRepoDigestOrExact", NAME, False),
        (GOOD, "matchExact", NAME, True),
        (GOOD, "matchExact", "quay.io/example/os:2", False),
        (GOOD, "matchRepository", "quay.io/example/other:1", False),
        (bundle(envelope(KEY, statement(RAW, "not a reference!"))), "matchRepository", NAME, False),
    ],
)
def test_identities_are_held_against_the_name_or_the_place(
    made: JSON, identity: str, reference: str, *, accepted: bool
) -> None:
    if accepted:
        (verdict,) = judged(made, identity, reference=reference).receipt.verdicts
        assert verdict.signers[0].startswith("sigstore-key:")
        assert verdict.signature_source == "docker://x@y"
    else:
        with pytest.raises(
            PolicyRejectedError, match=r"it is valid and by .*, but (names no image, and can only count )?for "
        ):
            judged(made, identity, reference=reference)


def test_the_receipt_says_that_a_setting_gave_the_signature_its_name() -> None:
    (verdict,) = judged(NAMELESS, "matchRepository").receipt.verdicts
    (signer,) = verdict.signers
    setting = "who named no image; accept-unnamed-bundles lets it count as"
    assert verdict.reason == f"signed by {signer}, {setting} {BY_DIGEST}"
    (verdict,) = judged(GOOD, "matchRepository").receipt.verdicts
    assert verdict.reason == f"signed by {signer} as {NAME}"
    with pytest.raises(PolicyRejectedError, match=f"names no image, and can only count for '{BY_DIGEST}'"):
        judged(NAMELESS, "matchExact")


def test_nameless_bundles_do_not_count_unless_that_is_configured() -> None:
    with pytest.raises(PolicyRejectedError, match="the bundle names no image"):
        judged(NAMELESS, "matchRepository", accept_unnamed=False)


def other_subject(**subject: Any) -> JSON:
    return statement(RAW) | {"subject": [subject]}


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (statement(b"other content", NAME), "for other content"),
        (other_subject(digest={"sha512": hashlib.sha512(RAW).hexdigest()}), "for other content"),
        (other_subject(digest={"sha256": MANIFEST.digest.hex.upper()}), "for other content"),
        (statement(RAW) | {"subject": statement(RAW, NAME)["subject"] * 2}, "more than once"),
        (statement(RAW, NAME, predicateType="https://slsa.dev/provenance/v1"), "slsa.dev/provenance/v1"),
        (statement(RAW, NAME, _type="https://in-toto.io/Statement/v0.1"), "Statement/v0.1"),
        (statement(RAW, NAME, subject=[]), "must not be empty"),
        (statement(RAW, NAME, extra=1), "extra: unknown key"),
        (other_subject(digest={"sha256": MANIFEST.digest.hex}, alias="x"), "alias: unknown key"),
        (other_subject(digest={"sha256": 7}), "must be a string"),
        (statement(RAW, NAME, subject=statement(RAW)["subject"] * 1025), "more than 1024"),
        (b'{"_type": 1, "_type": 2}', "more than once"),
        (b"[]", "must be an object, not an array"),
    ],
)
def test_a_statement_about_anything_else_is_refused(said: JSON | bytes, complaint: str) -> None:
    assert complaint in rejection(keyed(KEY), bundle(envelope(KEY, said)))


def test_one_of_several_subjects_suffices() -> None:
    several = [*statement(b"other", "quay.io/x/y:1")["subject"], *statement(RAW, NAME)["subject"]]
    noted = [*several[:1], several[1] | {"annotations": {"a": "b"}, "uri": "x"}]
    for subjects in (several, noted):
        made = bundle(envelope(KEY, statement(RAW) | {"subject": subjects}))
        assert verified(keyed(KEY), made).claim.docker_reference == NAME


def test_a_payload_of_another_type_is_refused() -> None:
    made = bundle(envelope(KEY, statement(RAW, NAME), "application/json"))
    assert "of a payload of type 'application/json'" in rejection(keyed(KEY), made)


def test_a_bare_signature_must_say_the_digest_that_it_signs() -> None:
    wrong = changed(bundle(message(KEY, RAW)), "messageSignature", "messageDigest", "digest", to=encode(b"x" * 32))
    assert "its message digest is of other content" in rejection(keyed(KEY), wrong)
    assert "no trusted key" in rejection(keyed(KEY), bundle(message(KEY, b"other content")))


# --- logs and certificates --------------------------------------------------------------------------------------------


def logged(content: JSON, log: PrivateKey = LOG, signer: bytes = public_pem(KEY), **spec: Any) -> JSON:
    return bundle(content, entries=[log_entry(log, content, signer, **spec)])


@pytest.mark.parametrize("content", [envelope(KEY, statement(RAW)), message(KEY, RAW)], ids=["dsse", "hashedrekord"])
@pytest.mark.demand("SIG-rekor-binding")
def test_a_log_entry_counts_if_it_is_about_this_key_signature_and_content(content: JSON) -> None:
    trust = keyed(KEY, logs=(OTHER, LOG))
    assert verified(trust, logged(content), unnamed=True)
    assert "not signed by a trusted log" in rejection(keyed(KEY, logs=(OTHER,)), logged(content))
    assert "about another key" in rejection(trust, logged(content, signer=public_pem(OTHER)))
    other = envelope(KEY, statement(RAW)) if "payload" in content else message(KEY, RAW)
    foreign = bundle(content, entries=[log_entry(LOG, other, public_pem(KEY))])
    assert "about another signature" in rejection(trust, foreign)
    wrong: JSON = {"algorithm": "sha256", "value": "0" * 64}
    about = {"payloadHash": wrong} if "payload" in content else {"data": {"hash": wrong}}
    assert "about other content" in rejection(trust, logged(content, **about))


CONTENT = envelope(KEY, statement(RAW, NAME))
LOGGED = logged(CONTENT)
ENTRY = ("verificationMaterial", "tlogEntries", 0)


@pytest.mark.demand("SIG-rekor-binding")
@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ((*ENTRY, "inclusionPromise"), ..., "is not supported: its log entry has no signed entry timestamp"),
        ((*ENTRY, "integratedTime"), "1", "not signed by a trusted log"),
        ((*ENTRY, "integratedTime"), ..., "not signed by a trusted log"),
        ((*ENTRY, "logIndex"), "8", "not signed by a trusted log"),
        ((*ENTRY, "logId", "keyId"), "AAAA", "not signed by a trusted log"),
        ((*ENTRY, "canonicalizedBody"), encode(b"{}"), "not signed by a trusted log"),
        ((*ENTRY, "integratedTime"), 1, "must be a string"),
        ((*ENTRY, "integratedTime"), "-1", "must be a whole number"),
        ((*ENTRY, "integratedTime"), "1" * 20, "must be a whole number"),
        ((*ENTRY, "integratedTime"), "\u0661", "must be a whole number"),
        ((*ENTRY, "surprise"), 1, "surprise: unknown key"),
        ((*ENTRY, "logId", "surprise"), 1, "surprise: unknown key"),
        ((*ENTRY, "inclusionPromise", "surprise"), 1, "surprise: unknown key"),
        (ENTRY, [], "must be an object"),
        (ENTRY[:2], [], "has 0 log entries"),
        (ENTRY[:2], ..., "has 0 log entries"),
        (ENTRY[:2], {}, "must be an array"),
    ],
)
def test_a_wrong_log_entry_is_refused(path: tuple[str | int, ...], value: Any, complaint: str) -> None:
    assert verified(keyed(KEY, logs=(LOG,)), LOGGED)
    assert complaint in rejection(keyed(KEY, logs=(LOG,)), changed(LOGGED, *path, to=value))


def test_two_log_entries_are_one_too_many() -> None:
    entries = LOGGED["verificationMaterial"]["tlogEntries"]
    assert "has 2 log entries" in rejection(keyed(KEY, logs=(LOG,)), changed(LOGGED, *ENTRY[:2], to=entries * 2))


def body_of(made: JSON) -> JSON:
    raw = base64.b64decode(made["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"])
    return dict(json.loads(raw))


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("kind",), "hashedrekord", "its log entry is a 'hashedrekord 0.0.1', where only dsse 0.0.1 is supported"),
        (("kind",), "intoto", "its log entry is a 'intoto 0.0.1'"),
        (("apiVersion",), "0.0.2", "its log entry is a 'dsse 0.0.2', where only"),
        (("kind",), 1, "its log entry is malformed"),
        (("spec",), ..., "its log entry is malformed"),
        (("spec", "payloadHash", "algorithm"), "sha512", "the hash is not SHA-256"),
        (("spec", "signatures"), body_of(LOGGED)["spec"]["signatures"] * 2, "2 signatures"),
        (("spec", "signatures", 0, "verifier"), "!", "not base64"),
        (("spec", "signatures", 0, "verifier"), encode(b"no PEM"), "is not"),
    ],
)
def test_a_log_entry_of_another_kind_is_refused(path: tuple[str | int, ...], value: Any, complaint: str) -> None:
    made = bundle(CONTENT, entries=[promise(LOG, changed(body_of(LOGGED), *path, to=value))])
    assert complaint in rejection(keyed(KEY, logs=(LOG,)), made)


def test_a_bare_signature_is_logged_as_such() -> None:
    content = message(KEY, RAW)
    made = bundle(content, entries=[log_entry(LOG, CONTENT, public_pem(KEY))])
    assert "its log entry is a 'dsse 0.0.1'" in rejection(keyed(KEY, logs=(LOG,)), made)


def certified(leaf: Certificate = LEAF, *, key: PrivateKey | None = None, days: int = 0) -> JSON:
    content = envelope(key or leaf.key, statement(RAW, NAME))
    at = (SIGNED_AT + timedelta(days=days)).timestamp()
    return bundle(content, leaf, [log_entry(LOG, content, leaf.pem, at=at)])


@pytest.mark.demand("SIG-fulcio")
def test_a_certificate_counts_for_ever_if_it_was_valid_when_logged() -> None:
    assert verified(fulcio(), certified()).signer == f"mailto:{EMAIL} by {ISSUER}"
    assert "was not valid" in rejection(fulcio(), certified(days=2))
    assert "was not valid" in rejection(fulcio(), certified(days=-2))


@pytest.mark.demand("SIG-fulcio")
def test_another_holder_authority_key_or_log_is_refused() -> None:
    assert f"is for '{EMAIL}'" in rejection(fulcio(email="else@example.com"), certified())
    assert "trusted authority" in rejection(fulcio(), certified(make_leaf(Certificate())))
    assert "not by its certificate's key" in rejection(fulcio(), certified(key=OTHER))
    assert "trusted log" in rejection(fulcio(log=OTHER), certified())
    assert "about another key" in rejection(fulcio(), changed(certified(), *ENTRY, to=LOGGED[ENTRY[0]][ENTRY[1]][0]))
    unlogged = changed(certified(), *ENTRY[:2], to=[])
    assert "has 0 log entries" in rejection(fulcio(), unlogged)


def test_a_key_is_no_certificate() -> None:
    assert "has no certificate" in rejection(fulcio(), LOGGED)


# --- the format ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("mediaType",), "application/vnd.dev.sigstore.bundle.v0.4+json", "is not supported: a bundle of type"),
        (("mediaType",), "application/vnd.dev.sigstore.bundle+json;version=0.1", "is not supported: a bundle of type"),
        (("mediaType",), ..., "mediaType: missing"),
        (("surprise",), 1, "surprise: unknown key"),
        (("dsseEnvelope",), ..., "exactly one of dsseEnvelope and messageSignature"),
        (("messageSignature",), message(KEY, RAW), "exactly one of dsseEnvelope and messageSignature"),
        (("dsseEnvelope", "signatures"), [], "must not be empty"),
        (("dsseEnvelope", "signatures"), GOOD["dsseEnvelope"]["signatures"] * 2, "an envelope with 2 signatures"),
        (("dsseEnvelope", "signatures", 0, "surprise"), 1, "surprise: unknown key"),
        (("dsseEnvelope", "surprise"), 1, "surprise: unknown key"),
        (("dsseEnvelope", "payload"), "!", "not base64"),
        (("verificationMaterial",), {}, "exactly one of certificate and publicKey"),
        (("verificationMaterial", "certificate"), {"rawBytes": ""}, "exactly one of certificate and publicKey"),
        (("verificationMaterial", "x509CertificateChain"), {}, "is not supported: a chain"),
        (("verificationMaterial", "surprise"), 1, "surprise: unknown key"),
        (("verificationMaterial", "publicKey", "surprise"), 1, "surprise: unknown key"),
    ],
)
def test_what_is_not_exactly_a_bundle_is_refused(path: tuple[str | int, ...], value: Any, complaint: str) -> None:
    assert complaint in rejection(keyed(KEY), changed(GOOD, *path, to=value))


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("messageDigest", "algorithm"), "SHA2_512", "is not supported: a message digest"),
        (("messageDigest", "surprise"), 1, "surprise: unknown key"),
        (("surprise",), 1, "surprise: unknown key"),
        (("messageDigest",), ..., "messageDigest: missing"),
    ],
)
def test_what_is_not_exactly_a_message_signature_is_refused(path: tuple[str, ...], value: Any, complaint: str) -> None:
    made = changed(bundle(message(KEY, RAW)), "messageSignature", *path, to=value)
    assert complaint in rejection(keyed(KEY), made)


def test_a_certificate_that_is_none_is_refused() -> None:
    for value in ("", encode(b"no certificate")):
        changed_leaf = changed(certified(), "verificationMaterial", "certificate", "rawBytes", to=value)
        assert "certificate" in rejection(fulcio(), changed_leaf) or "another key" in rejection(fulcio(), changed_leaf)
    assert "unknown key" in rejection(
        fulcio(), changed(certified(), "verificationMaterial", "certificate", "surprise", to=1)
    )


def test_what_may_stand_beside_it_is_not_looked_at() -> None:
    made = changed(GOOD, "verificationMaterial", "timestampVerificationData", to={"rfc3161Timestamps": []})
    made = changed(made, "dsseEnvelope", "signatures", 0, "keyid", to="x")
    made = changed(made, "mediaType", to="application/vnd.dev.sigstore.bundle+json;version=0.3")
    assert verified(keyed(KEY), changed(made, "verificationMaterial", "publicKey", to={}))


@pytest.mark.demand("JSON-duplicate-keys")
def test_a_bundle_that_repeats_a_key_is_refused() -> None:
    raw = json.dumps(GOOD).replace('{"mediaType"', '{"mediaType": "x", "mediaType"', 1).encode()
    assert "more than once" in rejection(keyed(KEY), raw)


def test_the_signed_bytes_are_those_of_dsse() -> None:
    payload = json.dumps(statement(RAW, NAME)).encode()
    ambiguous = pae(payload).replace(b" 28 ", b" 29 ", 1)
    made = changed(GOOD, "dsseEnvelope", "signatures", 0, "sig", to=encode(sign(KEY, ambiguous)))
    assert "no trusted key" in rejection(keyed(KEY), made)
    assert PREDICATE.encode() in payload


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_and_nothing_worse(raw: bytes) -> None:
    rejection(keyed(KEY), raw)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists))
def test_any_value_in_any_place_is_refused_and_nothing_worse(value: Any) -> None:
    for path in (("verificationMaterial",), ("dsseEnvelope",), ("mediaType",), (*ENTRY, "logIndex"), ENTRY):
        if (made := changed(LOGGED, *path, to=value)) != LOGGED:
            rejection(keyed(KEY, logs=(LOG,)), made)


CERTIFIED = json.dumps(certified()).encode()


@given(st.integers(0, len(CERTIFIED) - 1), st.integers(1, 255))
def test_no_flipped_byte_makes_it_say_something_else(position: int, flip: int) -> None:
    flipped = bytearray(CERTIFIED)
    flipped[position] ^= flip
    try:
        attestation = verified(fulcio(), bytes(flipped))
    except SignatureRejectedError:
        return
    assert attestation == verified(fulcio(), CERTIFIED)
