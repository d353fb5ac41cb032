"""Reading policy.json and choosing what applies."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from container_image_proxy.errors import ConfigurationError
from container_image_proxy.policy.model import Policy, insecure_policy, load_policy, parse_policy
from tests.support.references import NamedImage

if TYPE_CHECKING:
    from pathlib import Path

REJECT = {"default": [{"type": "reject"}]}
REFERENCE = NamedImage(
    transport="docker",
    within="//quay.io/a/b:1",
    docker_reference=None,
    policy_identity="quay.io/a/b:1",
    policy_namespaces=("quay.io/a/b", "quay.io/a", "quay.io", "*.io"),
)


def policy_with(*requirements: object) -> Policy:
    return parse_policy(json.dumps({"default": requirements}).encode(), "policy.json")


def write(path: Path, text: str = json.dumps(REJECT), mode: int = 0o644) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_the_users_policy_comes_before_the_systems(tmp_path: Path) -> None:
    system = write(tmp_path / "etc/policy.json")
    user = write(tmp_path / "home/.config/containers/policy.json")
    assert load_policy(None, home=str(tmp_path / "home"), system=system).file == user
    assert load_policy(None, home=str(tmp_path / "nobody"), system=system).file == system
    assert load_policy(None, home=None, system=system).file == system


def test_a_configured_policy_is_the_only_one_looked_at(tmp_path: Path) -> None:
    system = write(tmp_path / "etc/policy.json")
    with pytest.raises(ConfigurationError, match=r"missing\.json"):
        load_policy(str(tmp_path / "missing.json"), home=None, system=system)


@pytest.mark.demand("POL-missing")
def test_no_policy_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no signature policy") as caught:
        load_policy(None, home=str(tmp_path), system=str(tmp_path / "policy.json"))
    assert "write one after containers-policy.json(5)" in str(caught.value)


@pytest.mark.demand("POL-missing")
@pytest.mark.parametrize(
    "text", ["", "{}", "null", "[]", '{"default":[]}', '{"default":[{"type":"reject"}', "\x00", "\udcff"]
)
def test_an_empty_or_invalid_policy_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=r"policy\.json"):
        load_policy(str(path), home=None)


@pytest.mark.demand("POL-missing")
def test_a_link_that_leads_nowhere_does_not_give_way_to_another_policy(tmp_path: Path) -> None:
    (tmp_path / ".config/containers").mkdir(parents=True)
    (tmp_path / ".config/containers/policy.json").symlink_to("nowhere")
    system = tmp_path / "policy.json"
    system.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    with pytest.raises(ConfigurationError, match=r"policy\.json is a link that leads nowhere"):
        load_policy(None, home=str(tmp_path), system=str(system))


def test_a_policy_that_cannot_be_read_is_an_error_even_if_another_could(tmp_path: Path) -> None:
    (tmp_path / ".config/containers/policy.json").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="directory"):
        load_policy(None, home=str(tmp_path), system=write(tmp_path / "system.json"))


@pytest.mark.demand("CONF-perm")
@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_policy_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigurationError, match="write"):
        load_policy(write(tmp_path / "policy.json", mode=mode), home=None)


@pytest.mark.demand("JSON-duplicate-keys")
@pytest.mark.parametrize(
    "text",
    [
        '{"default":[{"type":"reject"}],"default":[{"type":"insecureAcceptAnything"}]}',
        '{"default":[{"type":"reject","type":"insecureAcceptAnything"}]}',
        '{"default":[{"type":"reject"}],"Default":[{"type":"insecureAcceptAnything"}]}',
        '{"default":[{"type":"reject"}],"transports":{"docker":{"":[{"type":"reject"}],"":[{"type":"reject"}]}}}',
    ],
)
def test_a_repeated_or_respelled_key_is_an_error(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_policy(text.encode(), "policy.json")


@pytest.mark.demand("JSON-depth")
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"default":' * 50_000, '{"default":1e999}', f'{{"default":{"9" * 100_000}}}']
)
def test_hostile_json_is_an_error(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_policy(text.encode(), "policy.json")


def test_an_error_names_file_place_and_reason() -> None:
    text = json.dumps({**REJECT, "transports": {"docker": {"quay.io": [{"type": "signedby"}]}}})
    with pytest.raises(ConfigurationError) as caught:
        parse_policy(text.encode(), "/etc/containers/policy.json")
    message = str(caught.value)
    assert message.startswith(
        "/etc/containers/policy.json: transports.docker.quay.io[0].type: 'signedby' is none of insecureAcceptAnything, "
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("{}", "default: missing"), ('{"default": [{"type": "reject"}], "x": 1}', "x: unknown key")],
)
def test_an_error_of_the_whole_document_names_the_file_only(text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^p: {complaint} "):
        parse_policy(text.encode(), "p")


@pytest.mark.parametrize("value", [1, None, [], {}, True, "!"])
@pytest.mark.parametrize("key", ["keyPaths", "keyData", "keyDatas", "fulcio", "pki"])
def test_a_signer_of_the_wrong_shape_is_an_error(key: str, value: object) -> None:
    with pytest.raises(ConfigurationError):
        policy_with({"type": "sigstoreSigned", key: value})


@pytest.mark.parametrize(
    "transports", [None, [], {"docker": []}, {"dir": {"relative": [{"type": "reject"}]}}, {"oci": {"": []}}]
)
def test_an_unusable_section_of_a_transport_is_an_error(transports: object) -> None:
    with pytest.raises(ConfigurationError, match="transports"):
        parse_policy(json.dumps({**REJECT, "transports": transports}).encode(), "policy.json")


def test_the_most_specific_scope_applies() -> None:
    scopes = ["", "*.io", "quay.io", "quay.io/a", "quay.io/a/b", "quay.io/a/b:1"]
    for number in range(len(scopes) + 1):
        written = {scope: [{"type": "reject"}] for scope in scopes[:number]}
        policy = parse_policy(json.dumps({**REJECT, "transports": {"docker": written}}).encode(), "policy.json")
        expected = (f"docker|{scopes[number - 1]}" if scopes[number - 1] else "docker") if number else "default"
        assert policy.scope_for(REFERENCE).name == expected
        assert policy.scope_for(replace(REFERENCE, transport="oci")).name == "default"


def test_only_signatures_that_could_help_are_asked_for() -> None:
    simple = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}
    sigstore = {"type": "sigstoreSigned", "keyPath": "/k"}

    def needs(*requirements: object) -> frozenset[str]:
        return policy_with(*requirements).scope_for(REFERENCE).needs_signatures

    assert needs({"type": "insecureAcceptAnything"}) == frozenset()
    assert needs(simple, {"type": "insecureAcceptAnything"}) == {"simple"}
    assert needs(simple, sigstore) == {"simple", "sigstore"}
    assert needs(simple, {"type": "reject"}) == frozenset()


def test_the_insecure_policy_asks_for_nothing() -> None:
    scope = insecure_policy().scope_for(REFERENCE)
    assert [requirement.type for requirement in scope.requirements] == ["insecureAcceptAnything"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["default", "transports", "docker", "type", "keyPath", "signedIdentity", ""]), inner
        )
    ),
    max_leaves=30,
)


@given(st.binary(max_size=400) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_policy_or_our_error(raw: bytes) -> None:
    with contextlib.suppress(ConfigurationError):
        assert parse_policy(raw, "policy.json").default
