"""The signature tables about single formats: payloads, bundles, certificates, keys."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from container_image_proxy.errors import Error, SignatureRejectedError, UnreadableSignatureError
from container_image_proxy.image.documents import decode_base64
from container_image_proxy.image.signature import SIGNATURE_MEDIA_TYPE, UntrustedSignature, parse_signature_blob
from container_image_proxy.image.strict_json import parse_json
from container_image_proxy.policy.pem import parse_single_pem
from container_image_proxy.policy.sigstore.certificate_identity import FulcioRoot, PkiRoot, UntrustedCertificate
from container_image_proxy.policy.sigstore.public_key import parse_public_key, public_der
from container_image_proxy.policy.sigstore.rekor import parse_log_entry, parse_set, verify_set
from container_image_proxy.policy.sigstore.trust import SigstoreTrust
from container_image_proxy.policy.sigstore.x509_chain import parse_single_certificate
from container_image_proxy.policy.simple_signing import ATOMIC, COSIGN, parse_claim
from tests.support.conformance import deviation, rows, to_bytes
from tests.support.verification import make_budget

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDED_AT = datetime(2026, 11, 23, 9, 9, 43, tzinfo=UTC)


@contextlib.contextmanager
def outcome(table: str, row: dict[str, Any]) -> Iterator[None]:
    """Expect our error where the row has one, or where we differ on purpose."""
    rule = deviation(table, row)
    if row["error"] is None and rule is None:
        yield
        return
    with pytest.raises(Error):
        yield


def optional_bytes(value: dict[str, str] | None) -> bytes:
    return to_bytes(value) if value is not None else b""


def certificates(pems: list[str]) -> tuple[Any, ...]:
    return tuple(parse_single_certificate(pem.encode(), "a root", make_budget()) for pem in pems)


def fulcio_root(recorded: dict[str, Any]) -> FulcioRoot:
    return FulcioRoot(certificates(recorded["caCertificates"]), recorded["oidcIssuer"], recorded["subjectEmail"])


def certificate(row: dict[str, Any]) -> UntrustedCertificate:
    return UntrustedCertificate(to_bytes(row["leaf"]), optional_bytes(row["intermediates"]))


def keys(pems: list[str]) -> tuple[Any, ...]:
    return tuple(parse_public_key(pem.encode(), "a key") for pem in pems)


@rows("signature/simple_payload_parse")
def test_simple_payload_parse(row: dict[str, Any]) -> None:
    with outcome("signature/simple_payload_parse", row):
        check_claim(row, ATOMIC)


@rows("signature/sigstore_payload_parse")
def test_sigstore_payload_parse(row: dict[str, Any]) -> None:
    with outcome("signature/sigstore_payload_parse", row):
        check_claim(row, COSIGN)


def check_claim(row: dict[str, Any], kind: str) -> None:
    claim, parsed = parse_claim(to_bytes(row["payload"]), kind), row["parsed"]
    assert claim.docker_reference == parsed["untrustedDockerReference"]
    assert str(claim.manifest_digest) == parsed["untrustedDockerManifestDigest"]


@rows("signature/signature_blob_format")
def test_signature_blob_format(row: dict[str, Any]) -> None:
    if row["error"] is not None:
        with pytest.raises(UnreadableSignatureError):
            parse_signature_blob(to_bytes(row["blob"]), "signature-1")
        return
    kinds = {"signature.SimpleSigning": "simple", "signature.Sigstore": "sigstore"}
    assert parse_signature_blob(to_bytes(row["blob"]), "signature-1").kind == kinds[row["kind"]]


@rows("signature/rekor_set_parse")
def test_rekor_set_parse(row: dict[str, Any]) -> None:
    with outcome("signature/rekor_set_parse", row):
        parse_set(to_bytes(row["payload"]))


@rows("signature/rekor_payload_parse")
def test_rekor_payload_parse(row: dict[str, Any]) -> None:
    with outcome("signature/rekor_payload_parse", row):
        parse_log_entry(parse_json(to_bytes(row["payload"]), "the payload"))


@pytest.mark.demand("SIG-rekor-binding")
@rows("signature/rekor_set_verify")
def test_rekor_set_verify(row: dict[str, Any]) -> None:
    with outcome("signature/rekor_set_verify", row):
        time = verify_set(
            to_bytes(row["set"]),
            keys(row["rekor_public_keys"]),
            signer=parse_single_pem(optional_bytes(row["key_or_cert"]), "the key"),
            signature=decode_base64(row["base64_signature"]),
            payload=to_bytes(row["payload"]),
            budget=make_budget(),
        )
        assert time == datetime.fromisoformat(row["time"])


@pytest.mark.demand("SIG-fulcio")
@rows("signature/fulcio_cert_verify")
def test_fulcio_cert_verify(row: dict[str, Any]) -> None:
    with outcome("signature/fulcio_cert_verify", row):
        time = datetime.fromisoformat(row["time"][:19]).replace(tzinfo=UTC)
        key = fulcio_root(row["root"]).verify(certificate(row), time, make_budget()).key
        assert public_der(key) == parse_single_pem(row["public_key"].encode(), "the key")


@rows("signature/pki_verify")
def test_pki_verify(row: dict[str, Any]) -> None:
    root = row["root"]
    with outcome("signature/pki_verify", row):
        PkiRoot(
            certificates(root["caRootsCertificates"]),
            certificates(root.get("caIntermediateCertificates", [])),
            root.get("subjectEmail"),
            root.get("subjectHostname"),
        ).verify(certificate(row), RECORDED_AT, make_budget())


@rows("signature/rekor_fulcio_verify")
def test_rekor_fulcio_verify(row: dict[str, Any]) -> None:
    annotations = {
        "dev.cosignproject.cosign/signature": row["base64_signature"],
        "dev.sigstore.cosign/bundle": to_bytes(row["set"]).decode(),
        "dev.sigstore.cosign/certificate": to_bytes(row["leaf"]).decode(),
        "dev.sigstore.cosign/chain": optional_bytes(row["intermediates"]).decode(),
    }
    trust = SigstoreTrust(fulcio_root(row["root"]), keys(row["rekor_public_keys"]), RECORDED_AT)
    with outcome("signature/rekor_fulcio_verify", row):
        trust.verify(
            UntrustedSignature("sigstore", to_bytes(row["payload"]), SIGNATURE_MEDIA_TYPE, annotations),
            budget=make_budget(),
        )


def about_the_signature(row: dict[str, Any]) -> bool:
    """Rows that fail because of the recorder's own callback, or of the image, are no statement about signatures."""
    return row["error"] is None or row["error"].startswith(("base64", "cryptographic"))


@rows("signature/sigstore_payload_verify", keep=about_the_signature)
def test_sigstore_payload_verify(row: dict[str, Any]) -> None:
    annotations = {"dev.cosignproject.cosign/signature": row["base64_signature"]}
    untrusted = UntrustedSignature("sigstore", to_bytes(row["payload"]), SIGNATURE_MEDIA_TYPE, annotations)
    trust = SigstoreTrust(keys(row["public_keys"]), (), RECORDED_AT)
    if row["error"] is not None:
        with pytest.raises(SignatureRejectedError):
            trust.verify(untrusted, make_budget())
        return
    payload = json.loads(to_bytes(row["payload"]))
    assert (
        trust.verify(untrusted, make_budget()).claim.docker_reference
        == payload["critical"]["identity"]["docker-reference"]
    )
