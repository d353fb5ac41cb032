"""One credentials file: what its entries mean, and what its secrets must not do."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.config.auth_file import (
    AuthEntry,
    AuthFileContent,
    decode_auth,
    find_entry,
    lookup_keys,
    parse_auth_file,
)
from container_image_proxy.errors import ConfigurationError, InvalidReferenceError

SECRET = "hunter2"


def packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def key_for(name: str, *keys: str) -> str | None:
    found = find_entry(AuthFileContent({key: AuthEntry() for key in keys}, {}), name)
    return found[0] if found else None


def test_the_most_specific_key_counts():
    keys = ("a.example/x/y", "a.example", "a.example/x")
    assert key_for("a.example/x/y", *keys) == "a.example/x/y"
    assert key_for("a.example/x/z", *keys) == "a.example/x"
    assert key_for("a.example/xy", *keys) == "a.example"


@pytest.mark.demand("AUTH-prefix-confusion")
@pytest.mark.parametrize(
    "name",
    [
        "registry.example.evil.tld/x",
        "registry.exampleX/x",
        "registry.example:444/x",
        "registry.exampl/x",
        "sub.registry.example/x",
        "evil.tld/registry.example",
    ],
)
@pytest.mark.parametrize("key", ["registry.example", "https://registry.example/v1/", "http://registry.example"])
def test_credentials_of_one_registry_are_not_those_of_one_that_looks_like_it(name, key):
    assert key_for(name, key) is None
    assert key_for("registry.example/x", key) == key


@pytest.mark.demand("AUTH-prefix-confusion")
@given(st.text(st.sampled_from("abr.:-/"), min_size=1, max_size=6))
def test_no_other_registry_ever_matches(more):
    name = f"registry.example{more}"
    same = name.partition("/")[0] == "registry.example"
    try:
        key = key_for(name, "registry.example", "https://registry.example")
    except InvalidReferenceError:
        key = None
    assert key is None or same


def test_docker_hub_has_three_names_and_one_key():
    for name in ("docker.io/library/x", "index.docker.io/x", "registry-1.docker.io/x"):
        assert key_for(name, "https://index.docker.io/v1/") == "https://index.docker.io/v1/"
    assert key_for("docker.io.evil.tld/x", "https://index.docker.io/v1/") is None


@pytest.mark.parametrize("name", ["https://a.example/x", "http://a.example", "a.example/x:tag", "a.example/x@sha256:1"])
def test_only_repositories_have_credentials(name):
    with pytest.raises(InvalidReferenceError):
        lookup_keys(name)


@pytest.mark.parametrize("auth", ["!!!", "YTp", packed("no colon")[:-2] + "é", "dDox=", "dDox==", "dDox====", "dDo=\t"])
def test_an_entry_that_cannot_be_decoded_is_an_error_that_does_not_show_it(auth):
    with pytest.raises(ConfigurationError, match=r"/a\.json: auths\.a\.example\.auth: is not base64") as raised:
        decode_auth(AuthEntry(auth), "/a.json", "a.example")
    assert auth not in str(raised.value)


@pytest.mark.demand("AUTH-logs")
def test_no_representation_and_no_message_holds_a_secret():
    raw = json.dumps({"auths": {"a.example": {"auth": packed(f"u:{SECRET}"), "identitytoken": SECRET}}}).encode()
    content = parse_auth_file(raw, "/a.json")
    assert decode_auth(content.entries["a.example"], "/a.json", "a.example") == ("u", SECRET)
    assert SECRET not in repr(content)
    assert packed(f"u:{SECRET}") not in repr(content)
    for broken in (raw[:-1], raw.replace(b'{"auth"', b'["auth"'), raw.replace(b'"auth": "', b'"auth": 1, "x": "')):
        with pytest.raises(ConfigurationError) as raised:
            parse_auth_file(broken, "/a.json")
        assert SECRET not in str(raised.value)
        assert packed(f"u:{SECRET}") not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "the content is not valid JSON: line 1, column 1"),
        ("[]", "the document: must be an object, not an array"),
        ('{"auths": []}', "auths: must be an object"),
        ('{"auths": {"a.b": "x"}}', "auths.a.b: must be an object"),
        ('{"auths": {"a.b": {"auth": 1}}}', "auths.a.b.auth: must be a string"),
        ('{"credHelpers": {"a.b": {}}}', "credHelpers.a.b: must be a string"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_key(text, place):
    with pytest.raises(ConfigurationError) as raised:
        parse_auth_file(text.encode(), "/a.json")
    assert str(raised.value).startswith(f"/a.json: {place}")


@pytest.mark.parametrize("text", ["null", '{"auths": null, "credHelpers": null}', '{"auths": {"a.b": null}}'])
def test_null_is_how_go_writes_nothing(text):
    content = parse_auth_file(text.encode(), "/a.json")
    assert find_entry(content, "c.d") is None
    assert all(entry == AuthEntry() for entry in content.entries.values())


def test_keys_count_without_regard_to_case_and_the_last_of_equal_ones():
    content = parse_auth_file(b'{"AUTHS": {"a.b": {"Auth": "one", "auth": "two", "AUTH": null}}}', "/a.json")
    assert content.entries["a.b"].auth == "two"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["auths", "credHelpers", "credsStore", "auth", "a.b", ""]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()), st.booleans())
def test_any_bytes_are_a_file_or_a_configuration_error(raw, is_legacy):
    try:
        content = parse_auth_file(raw, "/a.json", is_legacy=is_legacy)
    except ConfigurationError as error:
        content, file = None, error.file
    else:
        file = "/a.json"
    assert file == "/a.json"
    assert content is None or find_entry(content, "c.d/e") is None
