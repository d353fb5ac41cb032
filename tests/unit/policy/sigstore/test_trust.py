"""sigstore signatures by keys, by Fulcio's certificates and by an ordinary PKI's, with and without a log."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from msgspec.structs import replace

from container_image_proxy.errors import SignatureRejectedError
from container_image_proxy.image.signature import UntrustedSignature
from container_image_proxy.policy.sigstore.certificate_identity import FulcioRoot, PkiRoot
from container_image_proxy.policy.sigstore.public_key import PublicKey
from container_image_proxy.policy.sigstore.trust import SigstoreTrust
from tests.support.sigstore import (
    EMAIL,
    ISSUER,
    SIGNED_AT,
    Certificate,
    PrivateKey,
    make_bundle,
    make_key,
    make_leaf,
    make_payload,
    make_signature,
    public_pem,
    signature_bytes,
)
from tests.support.verification import make_budget

DIGEST = "sha256:" + "a" * 64
PAYLOAD = make_payload("quay.io/example/os", DIGEST)
KEY, OTHER, LOG = make_key(), make_key(), make_key()
CA = Certificate()


def trust(*keys: PrivateKey, logs: tuple[PrivateKey, ...] = ()) -> SigstoreTrust:
    return SigstoreTrust(publics(*keys), publics(*logs), SIGNED_AT)


def publics(*keys: PrivateKey) -> tuple[PublicKey, ...]:
    return tuple(key.public_key() for key in keys)


def rejection(trusted: SigstoreTrust, signature: UntrustedSignature) -> str:
    with pytest.raises(SignatureRejectedError) as caught:
        trusted.verify(signature, make_budget())
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "scheme"),
    [
        (KEY, None),
        (ec.generate_private_key(ec.SECP384R1()), None),
        (ed25519.Ed25519PrivateKey.generate(), None),
        (rsa.generate_private_key(65537, 2048), padding.PKCS1v15()),
    ],
    ids=["p256", "p384", "ed25519", "pkcs1"],
)
def test_a_signature_by_a_trusted_key_tells_what_it_claims(key: PrivateKey, scheme: object) -> None:
    attestation = trust(OTHER, key).verify(make_signature(key, PAYLOAD, scheme=scheme), make_budget())
    assert attestation.claim.docker_reference == "quay.io/example/os"
    assert str(attestation.claim.manifest_digest) == DIGEST
    assert attestation.signer.startswith("sigstore-key:sha256:")
    assert rejection(trust(OTHER), make_signature(key, PAYLOAD, scheme=scheme)).startswith("it is by no trusted key")


def test_a_changed_payload_is_refused_unread() -> None:
    signature = make_signature(KEY, PAYLOAD)
    assert "was changed" in rejection(trust(KEY), replace(signature, blob=b"not even JSON"))


def test_a_payload_of_another_type_is_refused() -> None:
    payload = PAYLOAD.replace(b"cosign container image signature", b"atomic container signature")
    assert "critical.type" in rejection(trust(KEY), make_signature(KEY, payload))


@pytest.mark.demand("JSON-duplicate-keys")
def test_a_payload_that_repeats_a_key_is_refused() -> None:
    payload = PAYLOAD.replace(b'{"critical"', b'{"optional": {}, "critical"')
    assert "more than once" in rejection(trust(KEY), make_signature(KEY, payload))


def test_another_attachment_is_no_signature() -> None:
    assert "is no signature" in rejection(trust(KEY), replace(make_signature(KEY, PAYLOAD), media_type="text/plain"))


@pytest.mark.parametrize("text", ["", "!", "AAAA"])
def test_a_malformed_signature_is_refused(text: str) -> None:
    broken = replace(make_signature(KEY, PAYLOAD), annotations={"dev.cosignproject.cosign/signature": text})
    rejection(trust(KEY), broken)


def test_a_missing_annotation_is_named() -> None:
    assert "dev.cosignproject.cosign/signature" in rejection(
        trust(KEY), replace(make_signature(KEY, PAYLOAD), annotations={})
    )
    assert "cosign/bundle" in rejection(trust(KEY, logs=(LOG,)), make_signature(KEY, PAYLOAD))


def with_annotations(signature: UntrustedSignature, **texts: str) -> UntrustedSignature:
    added = {f"dev.sigstore.cosign/{name}": text for name, text in texts.items()}
    return replace(signature, annotations={**signature.annotations, **added})


def logged(key: PrivateKey, log: PrivateKey = LOG, payload: bytes = PAYLOAD) -> UntrustedSignature:
    unlogged = make_signature(key, payload)
    return with_annotations(unlogged, bundle=make_bundle(log, public_pem(key), signature_bytes(unlogged), payload))


def test_a_logged_signature_is_good_if_the_log_is_trusted() -> None:
    assert (
        trust(KEY, logs=(OTHER, LOG)).verify(logged(KEY), make_budget()).claim.docker_reference == "quay.io/example/os"
    )
    assert "not signed by a trusted log" in rejection(trust(KEY, logs=(OTHER,)), logged(KEY))


@pytest.mark.demand("SIG-rekor-binding")
def test_a_promise_about_something_else_proves_nothing() -> None:
    signature = logged(KEY)
    other_payload = make_payload("quay.io/example/other", DIGEST)
    promises = {
        "another key": make_bundle(LOG, public_pem(OTHER), signature_bytes(signature), PAYLOAD),
        "another signature": make_bundle(
            LOG, public_pem(KEY), signature_bytes(make_signature(KEY, other_payload)), PAYLOAD
        ),
        "other content": make_bundle(LOG, public_pem(KEY), signature_bytes(signature), other_payload),
    }
    for complaint, bundle in promises.items():
        assert complaint in rejection(trust(KEY, logs=(LOG,)), with_annotations(signature, bundle=bundle))


@pytest.mark.parametrize("seconds", [-1, 1 << 40])
def test_an_impossible_time_is_refused(seconds: int) -> None:
    signature = make_signature(KEY, PAYLOAD)
    bundle = make_bundle(LOG, public_pem(KEY), signature_bytes(signature), PAYLOAD, seconds)
    assert "impossible time" in rejection(trust(KEY, logs=(LOG,)), with_annotations(signature, bundle=bundle))


def fulcio(*authorities: Certificate, email: str = EMAIL, issuer: str = ISSUER) -> SigstoreTrust:
    roots = tuple(authority.certificate for authority in authorities)
    return SigstoreTrust(FulcioRoot(roots, issuer, email), publics(LOG), SIGNED_AT + timedelta(days=3650))


def certified(leaf: Certificate, *chain: Certificate, at: timedelta = timedelta()) -> UntrustedSignature:
    plain = make_signature(leaf.key, PAYLOAD)
    bundle = make_bundle(LOG, leaf.pem, signature_bytes(plain), PAYLOAD, (SIGNED_AT + at).timestamp())
    pems = b"".join(link.pem for link in chain).decode()
    return with_annotations(plain, bundle=bundle, certificate=leaf.pem.decode(), chain=pems)


def test_a_fulcio_certificate_counts_for_ever_if_it_was_valid_when_logged() -> None:
    attestation = fulcio(CA).verify(certified(make_leaf(CA)), make_budget())
    assert attestation.signer == f"mailto:{EMAIL} by {ISSUER}"


@pytest.mark.demand("SIG-fulcio")
@pytest.mark.parametrize("at", [timedelta(days=-2), timedelta(days=2)])
def test_a_fulcio_certificate_that_was_not_valid_when_logged_is_refused(at: timedelta) -> None:
    assert "was not valid" in rejection(fulcio(CA), certified(make_leaf(CA), at=at))


@pytest.mark.demand("SIG-fulcio")
def test_somebody_else_with_a_certificate_is_refused() -> None:
    signature = certified(make_leaf(CA))
    assert "OIDC issuer" in rejection(fulcio(CA, issuer="https://github.com/login/oauth"), signature)
    assert f"is for '{EMAIL}'" in rejection(fulcio(CA, email="somebody@example.com"), signature)
    assert "trusted authority" in rejection(fulcio(Certificate("other")), signature)
    assert "trusted authority" in rejection(fulcio(Certificate()), signature)  # the same name, another key


def test_a_certificate_without_a_log_entry_is_refused() -> None:
    signature = certified(make_leaf(CA))
    annotations = {name: text for name, text in signature.annotations.items() if not name.endswith("bundle")}
    assert "cosign/bundle" in rejection(fulcio(CA), replace(signature, annotations=annotations))


def test_a_certificate_does_not_vouch_for_another_keys_signature() -> None:
    leaf, thief = make_leaf(CA), make_key()
    plain = make_signature(thief, PAYLOAD)
    bundle = make_bundle(LOG, leaf.pem, signature_bytes(plain), PAYLOAD)
    stolen = with_annotations(plain, bundle=bundle, certificate=leaf.pem.decode())
    assert "not by its certificate's key" in rejection(fulcio(CA), stolen)


def pki(*roots: Certificate, intermediates: tuple[Certificate, ...] = (), days: int = 0) -> SigstoreTrust:
    links = tuple(link.certificate for link in intermediates)
    root = PkiRoot(tuple(root.certificate for root in roots), links, EMAIL, None)
    return SigstoreTrust(root, (), SIGNED_AT + timedelta(days=days))


def test_an_ordinary_certificate_counts_while_it_is_valid() -> None:
    signature = certified(make_leaf(CA))
    assert pki(CA).verify(signature, make_budget()).signer == f"mailto:{EMAIL} by CN=ca"
    assert "was not valid" in rejection(pki(CA, days=2), signature)


def test_the_receipt_names_the_root_that_was_reached() -> None:
    other, middle = Certificate("other"), Certificate("middle", CA)
    roots = pki(other, CA)
    assert roots.verify(certified(make_leaf(CA)), make_budget()).signer == f"mailto:{EMAIL} by CN=ca"
    assert roots.verify(certified(make_leaf(middle), middle), make_budget()).signer == f"mailto:{EMAIL} by CN=ca"
    assert roots.verify(certified(make_leaf(other)), make_budget()).signer == f"mailto:{EMAIL} by CN=other"


def test_intermediates_may_come_from_the_policy_or_the_signature() -> None:
    middle = Certificate("middle", CA)
    leaf = make_leaf(middle)
    assert pki(CA, intermediates=(middle,)).verify(certified(leaf), make_budget())
    assert pki(CA).verify(certified(leaf, middle), make_budget())
    assert "trusted authority" in rejection(pki(CA), certified(leaf))
