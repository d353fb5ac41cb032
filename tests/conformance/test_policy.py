"""The policy tables: reading policy.json, choosing a scope, matching identities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from container_image_proxy.errors import ConfigurationError, MalformedDocumentError
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.policy.identity import verify_prefix
from container_image_proxy.policy.model import load_policy, parse_policy
from container_image_proxy.policy.scope import verify_scope
from tests.support.conformance import DIRECTORY, rows
from tests.support.identities import parse_identity
from tests.support.references import NamedImage


@rows("policy/parse")
def test_parse(row: dict[str, Any]) -> None:
    if not row["valid"]:
        with pytest.raises(ConfigurationError):
            parse_policy(row["policy"].encode(), "policy.json")
        return
    policy = parse_policy(row["policy"].encode(), "policy.json")
    canonical = parse_policy(json.dumps(row["canonical"]).encode(), "policy.json")
    assert (policy.default, policy.transports) == (canonical.default, canonical.transports)


@rows("policy/scope_selection")
def test_scope_selection(row: dict[str, Any]) -> None:
    policy = parse_policy(json.dumps(row["policy"]).encode(), "policy.json")
    transport, _, within = row["reference"].partition(":")
    scope = policy.scope_for(NamedImage(transport, within, None, row["identity"], tuple(row["namespaces"])))
    assert scope.name == row["selected"].removesuffix("|")


@rows("policy/scope_syntax")
def test_scope_syntax(row: dict[str, Any]) -> None:
    if row["valid"]:
        verify_scope(row["transport"], row["scope"])
        return
    with pytest.raises(MalformedDocumentError):
        verify_scope(row["transport"], row["scope"])


@rows("policy/remap_prefix_syntax")
def test_remap_prefix_syntax(row: dict[str, Any]) -> None:
    if row["error"] is None:
        verify_prefix(row["prefix"], "prefix")
        return
    with pytest.raises(MalformedDocumentError):
        verify_prefix(row["prefix"], "prefix")


@pytest.mark.demand("SIG-identity")
@rows("policy/signed_identity")
def test_signed_identity(row: dict[str, Any]) -> None:
    image = parse_reference(row["image_reference"]) if row["image_reference"] else None
    try:
        identity = parse_identity(row["signed_identity"])
    except MalformedDocumentError:
        assert not row["matches"]  # such a policy is not even read
        return
    assert identity.matches(image, row["signature_reference"]) is row["matches"]


@rows("policy/default_path")
def test_default_path(row: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def expand(text: str) -> str:
        return text.replace("${TMP}", str(tmp_path))

    monkeypatch.chdir(DIRECTORY / "signature")
    home, expected = expand(row["home"]), expand(row["path"])
    if expected.startswith(f"{home}/.config/"):  # the row is about a user who has a policy
        Path(expected).parent.mkdir(parents=True)
        Path(expected).write_text('{"default":[{"type":"reject"}]}')
    system = row["sys"].get("RootForImplicitAbsolutePaths", "") + expand(row["system_path"])
    try:
        chosen = load_policy(row["sys"].get("SignaturePolicyPath"), home=home, system=system).file
    except ConfigurationError as missing:
        chosen = missing.file
    assert chosen == expected
