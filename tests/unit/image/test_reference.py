from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.reference import Reference, parse_reference, policy_identity, policy_namespaces

DIGEST = digest_of(b"")

DOMAINS = st.one_of(
    st.from_regex(r"[a-z0-9]{1,10}(\.[a-z0-9]{1,10}){1,3}(:[0-9]{1,5})?", fullmatch=True),
    st.just("localhost"),
    # The grammar has no dots in there: an address that is written with an IPv4 address at its end is no domain.
    st.builds(
        lambda address, port: f"[{address}]{port}",
        st.ip_addresses(v=6).map(str).filter(lambda address: "." not in address),
        st.sampled_from(["", ":5000"]),
    ),
)
PATHS = st.from_regex(r"[a-z0-9]{1,10}([._-][a-z0-9]{1,5})?(/[a-z0-9]{1,10}){0,3}", fullmatch=True)
TAGS = st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True)
DIGESTS = st.none() | st.builds(digest_of, st.binary(max_size=4), st.sampled_from(["sha256", "sha512"]))


@st.composite
def references(draw: st.DrawFn) -> Reference:
    name = f"{draw(DOMAINS)}/{draw(PATHS)}"
    tag, digest = draw(TAGS), draw(DIGESTS)
    return parse_reference(name + (f":{tag}" if tag else "") + (f"@{digest}" if digest else ""))


@given(references())
def test_the_text_of_a_reference_reads_back_as_the_same(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference


@given(references())
def test_the_familiar_form_reads_back_as_the_same(reference: Reference) -> None:
    assert parse_reference(reference.familiar) == reference


@given(st.text(max_size=300))
def test_any_text_is_a_reference_that_round_trips_or_our_error(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidReferenceError:
        return
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("busybox", "docker.io/library/busybox"),
        ("docker.io/busybox", "docker.io/library/busybox"),
        ("index.docker.io/busybox", "docker.io/library/busybox"),
        ("user/busybox", "docker.io/user/busybox"),
        ("localhost/busybox", "localhost/busybox"),
        ("registry:5000/busybox", "registry:5000/busybox"),
        ("[::1]:5000/busybox", "[::1]:5000/busybox"),
        ("[2001:DB8::7]/busybox", "[2001:DB8::7]/busybox"),
    ],
)
def test_short_names_mean_what_they_mean_everywhere(text: str, name: str) -> None:
    assert parse_reference(text).name == name


@pytest.mark.parametrize("text", ["", ":", "/", "A", "a:", "a@", "a:b:c", "a b", "../a", "a//b", "a/", "0" * 64, "é"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidReferenceError):
        parse_reference(text)


@pytest.mark.parametrize(
    "text",
    ["[::1]", "[::1]:5000", "[::1]:/a", "::1/a", "[::1/a", "[fe80::1%eth0]/a", "[]/a", "[host]/a", "[::1]x/a"],
)
def test_what_is_no_address_in_brackets_is_no_registry(text: str) -> None:
    with pytest.raises(InvalidReferenceError):
        parse_reference(text)


def test_an_address_has_a_tag_a_digest_and_scopes_like_any_registry() -> None:
    reference = parse_reference(f"[::1]:5000/ns/os:1@{DIGEST}")
    assert (reference.domain, reference.path, reference.tag) == ("[::1]:5000", "ns/os", "1")
    tagged = parse_reference("[::1]:5000/ns/os:1")
    assert policy_identity(tagged) == "[::1]:5000/ns/os:1"
    assert policy_namespaces(tagged) == ("[::1]:5000/ns/os", "[::1]:5000/ns", "[::1]:5000")
    assert tagged.familiar == "[::1]:5000/ns/os:1"


def test_a_name_longer_than_255_characters_is_refused() -> None:
    host = "registry.example"
    assert parse_reference(f"{host}/{'a' * (254 - len(host))}:{'t' * 128}")
    with pytest.raises(InvalidReferenceError, match="255"):
        parse_reference(f"{host}/{'a' * (255 - len(host))}")


@pytest.mark.demand("DIG-malformed")
@pytest.mark.parametrize(
    "digest", ["sha256:" + "a" * 63, "sha256:" + "A" * 64, "md5:" + "a" * 32, "sha256:" + "a" * 10_000]
)
def test_a_reference_with_a_digest_that_cannot_be_verified_is_refused(digest: str) -> None:
    with pytest.raises(InvalidReferenceError):
        parse_reference(f"registry.example/image@{digest}")


def test_an_upper_case_repository_is_named_as_the_reason() -> None:
    with pytest.raises(InvalidReferenceError, match="lower case"):
        parse_reference("registry.example/Image")


def test_the_default_tag_is_given_only_to_a_bare_name() -> None:
    assert parse_reference("a").with_default_tag().tag == "latest"
    assert parse_reference("a:1").with_default_tag().tag == "1"
    assert parse_reference(f"a@{DIGEST}").with_default_tag().tag is None


def test_a_tag_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidReferenceError):
        parse_reference("a").with_tag("-x")


def test_a_repository_has_neither_tag_nor_digest() -> None:
    assert str(parse_reference(f"a.b/c:1@{DIGEST}").repository) == "a.b/c"


def test_a_digest_can_be_set() -> None:
    assert str(parse_reference("a.b/c:1").with_digest(DIGEST)) == f"a.b/c:1@{DIGEST}"


@pytest.mark.parametrize("text", ["a.b/c", f"a.b/c:1@{DIGEST}"])
def test_policy_identity_needs_exactly_one_of_tag_and_digest(text: str) -> None:
    with pytest.raises(InvalidReferenceError):
        policy_identity(parse_reference(text))


def test_policy_namespaces_go_from_the_repository_to_the_host_wildcards() -> None:
    assert policy_namespaces(parse_reference("a.b.example:5000/c/d:1")) == (
        "a.b.example:5000/c/d",
        "a.b.example:5000/c",
        "a.b.example:5000",
        "*.b.example",
        "*.example",
    )
