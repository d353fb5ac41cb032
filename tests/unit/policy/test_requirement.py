"""How requirements are written: what belongs together, what excludes each other, what is missing."""

from __future__ import annotations

import pytest

from container_image_proxy.errors import MalformedDocumentError
from container_image_proxy.policy.identity import MATCH_REPO_DIGEST_OR_EXACT
from container_image_proxy.policy.key_source import KeySource
from container_image_proxy.policy.requirement import (
    Fulcio,
    Pki,
    Requirement,
    SignedBy,
    SigstoreSigned,
    parse_requirements,
)

FULCIO = {"caPath": "/ca", "oidcIssuer": "https://issuer.example.com", "subjectEmail": "a@example.com"}
PKI = {"caRootsPath": "/ca", "subjectEmail": "a@example.com"}
SIGSTORE = {"type": "sigstoreSigned", "keyPath": "/k"}
SIGNED_BY = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}


def parse(requirement: object) -> Requirement:
    (parsed,) = parse_requirements([requirement], ("default",))
    return parsed


def without(mapping: dict[str, str], *keys: str) -> dict[str, str]:
    return {key: value for key, value in mapping.items() if key not in keys}


def test_a_list_of_openpgp_keys_may_be_empty() -> None:
    parsed = parse({**without(SIGNED_BY, "keyPath"), "keyPaths": []})
    assert isinstance(parsed, SignedBy)
    assert parsed.keys == KeySource()


def test_without_an_identity_the_images_own_is_meant() -> None:
    assert parse(SIGNED_BY) == SignedBy("GPGKeys", KeySource(paths=("/k",)), MATCH_REPO_DIGEST_OR_EXACT)
    assert parse(SIGSTORE) == SigstoreSigned(KeySource(paths=("/k",)), None, MATCH_REPO_DIGEST_OR_EXACT)


@pytest.mark.parametrize(
    ("written", "source"),
    [
        ({"keyPath": "/a"}, KeySource(paths=("/a",))),
        ({"keyPaths": ["/a", "/b"]}, KeySource(paths=("/a", "/b"))),
        ({"keyData": ""}, KeySource(datas=(b"",))),
        ({"keyData": "YQ=="}, KeySource(datas=(b"a",))),
        ({"keyData": "Y\nQ=\r\n="}, KeySource(datas=(b"a",))),
        ({"keyDatas": ["YQ==", "Yg=="]}, KeySource(datas=(b"a", b"b"))),
    ],
)
def test_keys_come_from_files_or_from_the_policy_itself(written: dict[str, object], source: KeySource) -> None:
    parsed = parse({"type": "sigstoreSigned", **written})
    assert isinstance(parsed, SigstoreSigned)
    assert parsed.signer == source


def test_certificates_come_with_whom_they_are_for() -> None:
    ca = KeySource(paths=("/ca",))
    fulcio = parse({"type": "sigstoreSigned", "fulcio": FULCIO, "rekorPublicKeyDatas": ["YQ=="]})
    assert isinstance(fulcio, SigstoreSigned)
    assert fulcio.signer == Fulcio(ca, "https://issuer.example.com", "a@example.com")
    assert fulcio.rekor == KeySource(datas=(b"a",))
    pki = parse(
        {"type": "sigstoreSigned", "pki": {**PKI, "caIntermediatesData": "YQ==", "subjectHostname": "h.example"}}
    )
    assert isinstance(pki, SigstoreSigned)
    assert pki.signer == Pki(ca, KeySource(datas=(b"a",)), "a@example.com", "h.example")


@pytest.mark.parametrize(
    ("requirement", "complaint"),
    [
        ({}, "[0].type: missing"),
        (
            {"type": "accept"},
            "type: 'accept' is none of insecureAcceptAnything, reject, signedBaseLayer, signedBy, sigstoreSigned",
        ),
        ({"type": "reject", "keyPath": "/k"}, "keyPath: unknown key"),
        ({**SIGNED_BY, "keyType": "PGP"}, "'PGP' is none of GPGKeys"),
        (without(SIGNED_BY, "keyType"), "keyType: missing"),
        (without(SIGNED_BY, "keyPath"), "exactly one of keyPath, keyPaths, keyData must be given"),
        ({**SIGNED_BY, "keyData": "YQ=="}, "only one of keyPath, keyData"),
        ({**SIGNED_BY, "keyDatas": ["YQ=="]}, "keyDatas: unknown key"),
        ({**SIGNED_BY, "keyPath": ""}, "must not be empty"),
        ({**SIGNED_BY, "keyPath": True}, "must be a string"),
        ({**SIGNED_BY, "signedIdentity": True}, "must be an object"),
        ({"type": "signedBaseLayer"}, "baseLayerIdentity: missing"),
        ({"type": "sigstoreSigned"}, "exactly one of keyPath"),
        ({**SIGSTORE, "keyDatas": ["YQ=="]}, "only one of"),
        ({**SIGSTORE, "fulcio": FULCIO, "rekorPublicKeyPath": "/r"}, "exactly one of keyPath"),
        ({**SIGSTORE, "rekorPublicKeyPath": "/r", "rekorPublicKeyPaths": ["/r"]}, "only one of"),
        ({**SIGSTORE, "rekorPublicKeyPaths": []}, "must not be empty"),
        ({"type": "sigstoreSigned", "keyPaths": []}, "must not be empty"),
        ({"type": "sigstoreSigned", "keyDatas": [1]}, "must be a string"),
        ({"type": "sigstoreSigned", "keyData": "Y"}, "not base64"),
        ({"type": "sigstoreSigned", "keyData": "Y!=="}, "not base64"),
        ({"type": "sigstoreSigned", "fulcio": FULCIO}, "fulcio needs"),
        ({"type": "sigstoreSigned", "pki": PKI, "rekorPublicKeyPath": "/r"}, "pki cannot be combined"),
        ({"type": "sigstoreSigned", "pki": without(PKI, "subjectEmail")}, "at least one of subjectEmail"),
        ({"type": "sigstoreSigned", "pki": {**PKI, "subjectHostname": ""}}, "must not be empty"),
        ({"type": "sigstoreSigned", "pki": without(PKI, "caRootsPath")}, "exactly one of caRootsPath, caRootsData"),
        ({"type": "sigstoreSigned", "pki": {**PKI, "caRootPath": "/"}}, "caRootPath: unknown key"),
    ],
)
def test_a_mistake_is_named_with_its_place(requirement: object, complaint: str) -> None:
    with pytest.raises(MalformedDocumentError) as caught:
        parse(requirement)
    assert str(caught.value).startswith("default[0]")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("fulcio", "complaint"),
    [
        (without(FULCIO, "caPath"), "exactly one of caPath, caData"),
        ({**FULCIO, "caData": "YQ=="}, "only one of"),
        (without(FULCIO, "oidcIssuer"), "oidcIssuer: missing"),
        ({**FULCIO, "oidcIssuer": ""}, "must not be empty"),
        (without(FULCIO, "subjectEmail"), "subjectEmail: missing"),
        ({**FULCIO, "subjectEmail": ""}, "must not be empty"),
        ({**FULCIO, "subjectMail": "a"}, "subjectMail: unknown key"),
    ],
)
def test_a_mistake_about_fulcio_is_named(fulcio: object, complaint: str) -> None:
    with pytest.raises(MalformedDocumentError, match=complaint):
        parse({"type": "sigstoreSigned", "fulcio": fulcio, "rekorPublicKeyPath": "/r"})


def test_a_list_must_not_be_empty() -> None:
    with pytest.raises(MalformedDocumentError, match="default: must not be empty"):
        parse_requirements([], ("default",))
