"""The signature tables about whole decisions: a requirement or policy, an image, its signatures, and the verdict."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from container_image_proxy.errors import SignatureRejectedError
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.image.signature import UntrustedSignature, parse_signature_blob
from container_image_proxy.policy.evaluator import Evaluator, Subject
from container_image_proxy.policy.gpg import Gpg
from container_image_proxy.policy.model import Policy, parse_policy
from container_image_proxy.policy.openpgp import Keyring
from container_image_proxy.policy.simple_signing import verify_claim, verify_simple_signature
from tests.support.conformance import DIRECTORY, deviation, rows, to_bytes
from tests.support.gpg import select_keys
from tests.support.identities import parse_identity
from tests.support.references import NamedImage
from tests.support.verification import make_budget

if TYPE_CHECKING:
    from pathlib import Path

RECORDED_AT = datetime(2026, 11, 23, 9, 9, 43, tzinfo=UTC)
SIGNATURES = DIRECTORY / "signature"
FIXTURES = SIGNATURES / "fixtures"
MATRIX = json.loads((SIGNATURES / "eval_matrix.json").read_text()) if SIGNATURES.exists() else {}


@pytest.fixture(autouse=True)
def paths_relative_to_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    if SIGNATURES.exists():
        monkeypatch.chdir(SIGNATURES)


def allows(policy: Policy, reference: str, manifest: bytes, signatures: tuple[UntrustedSignature, ...]) -> bool:
    named = NamedImage("docker", f"//{reference}", parse_reference(reference), reference, ())
    subject = Subject(manifest, (manifest,), named.docker_reference, signatures)
    evaluator = Evaluator(policy.keyrings, RECORDED_AT, make_budget())
    scope = policy.scope_for(named)
    return all(evaluator.evaluate(requirement, subject).accepted for requirement in scope.requirements)


def make_policy(*requirements: Any) -> Policy:
    return parse_policy(json.dumps({"default": requirements}).encode(), "policy.json")


def make_signature(recorded: dict[str, Any]) -> UntrustedSignature:
    if recorded["format"] == "simple-signing":
        return UntrustedSignature("simple", to_bytes(recorded["signature"]))
    return UntrustedSignature("sigstore", to_bytes(recorded["payload"]), recorded["mimeType"], recorded["annotations"])


def read_if_there(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


@rows("signature/eval_matrix")
def test_eval_matrix(row: dict[str, Any]) -> None:
    policy = make_policy(*MATRIX["requirements"][row["requirements"]])
    folder = FIXTURES / row["fixture"]
    blobs = sorted(folder.glob("signature-*"))
    signatures = tuple(parse_signature_blob(blob.read_bytes(), blob.name) for blob in blobs)
    assert (
        allows(policy, row["docker_reference"], read_if_there(folder / "manifest.json"), signatures) is row["allowed"]
    )


@rows("signature/one_signature")
def test_one_signature(row: dict[str, Any]) -> None:
    image = row["image"]
    signature = make_signature(row["signature"])
    manifest = to_bytes(image["manifest"]) if image.get("manifest") else b""
    allowed = allows(make_policy(row["requirement"]), image["docker_reference"], manifest, (signature,))
    assert allowed is (row["result"] == "sarAccepted")


def written(policy: dict[str, Any]) -> dict[str, Any]:
    """A recorded policy as a file can say it: no file has a scope without requirements (policy/parse)."""
    scopes = {name: requirements for name, requirements in policy["transports"]["docker"].items() if requirements}
    return {**policy, "transports": {"docker": scopes}}


@rows("signature/image_allowed")
def test_image_allowed(row: dict[str, Any]) -> None:
    image = row["image"]
    recorded = {"default": [row["requirement"]]} if "requirement" in row else written(row["policy"])
    policy = parse_policy(json.dumps(recorded).encode(), "policy.json")
    signatures = tuple(make_signature(signature) for signature in image["signatures"])
    expected = row["allowed"] if deviation("signature/image_allowed", row) is None else not row["allowed"]
    assert allows(policy, image["docker_reference"], to_bytes(image["manifest"]), signatures) is expected


@rows("signature/gpg_verify")
def test_gpg_verify(row: dict[str, Any]) -> None:
    if row["error"] is not None:
        with pytest.raises(SignatureRejectedError):
            Keyring(select_keys(FIXTURES, row["keyring_fingerprints"]), Gpg(), make_budget()).verify(
                to_bytes(row["signature"]), budget=make_budget()
            )
        return
    message = Keyring(select_keys(FIXTURES, row["keyring_fingerprints"]), Gpg(), make_budget()).verify(
        to_bytes(row["signature"]), budget=make_budget()
    )
    assert (message.content, message.primary_fingerprint) == (to_bytes(row["contents"]), row["key_identity"])


@rows("signature/manifest_signature_keylist")
def test_manifest_signature_keylist(row: dict[str, Any]) -> None:
    image = parse_reference(row["expected_reference"])
    identity = parse_identity({"type": "matchRepository"})
    try:
        keyring = Keyring(select_keys(FIXTURES, row["allowed_fingerprints"]), Gpg(), make_budget())
        attestation = verify_simple_signature(
            keyring, UntrustedSignature("simple", to_bytes(row["signature"])), budget=make_budget()
        )
        verify_claim(attestation, identity, image, to_bytes(row["manifest"]))
    except SignatureRejectedError:
        assert row["error"] is not None
        return
    assert attestation.signer == f"openpgp:{row['key']}"


@rows("signature/gpg_untrusted_contents")
def test_gpg_untrusted_contents(row: dict[str, Any]) -> None:
    """The content of a message that nobody trusted signed stays unread; who signed it is told."""
    keyring = Keyring((read_if_there(FIXTURES / "public-key-with-revoked-subkey.gpg"),), Gpg(), make_budget())
    with pytest.raises(SignatureRejectedError, match=row["short_key_id"] or ""):
        keyring.verify(to_bytes(row["signature"]), make_budget())
