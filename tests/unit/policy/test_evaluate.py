"""Allowing and rejecting whole images."""

from __future__ import annotations

import ast
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

import container_image_proxy
from container_image_proxy.errors import PolicyRejectedError
from container_image_proxy.image.manifest import Index, Manifest, UntrustedManifest, parse_manifest
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.policy.evaluate import UnverifiedImage, evaluate
from container_image_proxy.policy.model import Policy, insecure_policy, parse_policy
from tests.support.references import NamedImage
from tests.support.verification import make_budget

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
NOW = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


def make_manifest() -> Manifest:
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:" + "a" * 64, "size": 2}
    raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []}).encode()
    manifest = parse_manifest(UntrustedManifest(raw, OCI_MANIFEST))
    assert isinstance(manifest, Manifest)
    return manifest


def make_index(manifest: Manifest) -> Index:
    entry = {"mediaType": OCI_MANIFEST, "digest": str(manifest.digest), "size": len(manifest.raw)}
    raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    index = parse_manifest(UntrustedManifest(raw, OCI_INDEX))
    assert isinstance(index, Index)
    return index


MANIFEST = make_manifest()
REFERENCE = NamedImage(
    transport="docker",
    within="//quay.io/example/os:1",
    docker_reference=parse_reference("quay.io/example/os:1"),
    policy_identity="quay.io/example/os:1",
    policy_namespaces=("quay.io/example/os", "quay.io/example", "quay.io", "*.io"),
)
IMAGE = UnverifiedImage(REFERENCE, index=None, manifest=MANIFEST, signatures={})


def policy(*requirements: object, file: str = "policy.json") -> Policy:
    scopes = {"docker": {"quay.io/example": requirements}}
    return parse_policy(json.dumps({"default": [{"type": "reject"}], "transports": scopes}).encode(), file)


ACCEPT = {"type": "insecureAcceptAnything"}
REJECT = {"type": "reject"}


def test_an_accepted_image_carries_its_receipt() -> None:
    verified = evaluate(policy(ACCEPT), IMAGE, now=NOW, budget=make_budget())
    assert (verified.manifest, verified.index) == (MANIFEST, None)
    assert verified.receipt.as_json() == {
        "policy_file": "policy.json",
        "scope": "docker|quay.io/example",
        "verdicts": [
            {
                "requirement": "insecureAcceptAnything",
                "accepted": True,
                "reason": "anything is accepted",
                "signers": (),
                "signature_source": "",
            }
        ],
        "manifest_digest": str(MANIFEST.digest),
        "signed_by": [],
        "verified_at": "2024-05-06T07:08:09Z",
    }


def test_a_receipt_is_json_and_names_the_index() -> None:
    index = make_index(MANIFEST)
    receipt = evaluate(insecure_policy(), replace(IMAGE, index=index), budget=make_budget()).receipt
    assert json.loads(json.dumps(receipt.as_json()))["index_digest"] == str(index.digest)


@pytest.mark.parametrize("requirements", [[REJECT], [ACCEPT, REJECT], [REJECT, ACCEPT]])
def test_all_requirements_must_be_satisfied(requirements: list[object]) -> None:
    with pytest.raises(PolicyRejectedError) as caught:
        evaluate(policy(*requirements), IMAGE, budget=make_budget())
    assert caught.value.reasons == ("reject: everything is rejected",)


def test_a_rejection_names_image_file_and_scope() -> None:
    with pytest.raises(
        PolicyRejectedError, match=r"docker://quay\.io/example/os:1 .* /p\.json \(scope docker\|quay\.io/example\)"
    ):
        evaluate(policy(REJECT, file="/p.json"), IMAGE, budget=make_budget())


def test_the_scope_follows_the_configured_names() -> None:
    names = ("quay.io/other/os", "quay.io/other")
    elsewhere = replace(REFERENCE, policy_identity="quay.io/other/os:1", policy_namespaces=names)
    with pytest.raises(PolicyRejectedError, match="scope default"):
        evaluate(policy(ACCEPT), replace(IMAGE, reference=elsewhere), budget=make_budget())


def test_only_evaluate_makes_verified_images() -> None:
    package = Path(container_image_proxy.__file__).parent
    makers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "VerifiedImage"
    }
    assert makers == {"policy/evaluate.py"}
