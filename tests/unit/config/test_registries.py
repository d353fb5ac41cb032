"""Where an image is pulled from, and where it is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.config.registries import (
    Mirror,
    PullSource,
    Registries,
    Registry,
    match_prefix,
    rewrite_reference,
)
from container_image_proxy.errors import ConfigurationError, InvalidReferenceError, RegistryBlockedError
from container_image_proxy.image.reference import parse_reference

DIGEST = "sha256:" + "a" * 64
TAGGED = parse_reference("example.com/ns/os:1")
PINNED = parse_reference(f"example.com/ns/os:1@{DIGEST}")


def hosts(registries: Registries, text: str) -> list[str]:
    return [source.domain for source in registries.pull_sources(parse_reference(text))]


def test_an_unknown_registry_is_its_own_and_secure():
    assert Registries().pull_sources(TAGGED) == (PullSource(TAGGED, insecure=False, is_mirror=False),)


def test_mirrors_come_first_in_their_order_and_the_location_last():
    mirrors = Mirror("b.example/x"), Mirror("a.example")
    registries = Registries((Registry("example.com", "real.example:5000", mirrors=mirrors),))
    sources = registries.pull_sources(PINNED)
    assert [str(source.reference) for source in sources] == [
        f"b.example/x/ns/os:1@{DIGEST}",
        f"a.example/ns/os:1@{DIGEST}",
        f"real.example:5000/ns/os:1@{DIGEST}",
    ]
    assert [source.is_mirror for source in sources] == [True, True, False]


@pytest.mark.demand("TLS-basics")
def test_insecure_holds_for_the_one_place_that_says_so():
    mirrors = Mirror("a.example", insecure=True), Mirror("b.example")
    registries = Registries((Registry("example.com", "example.com", mirrors=mirrors),))
    assert [source.insecure for source in registries.pull_sources(TAGGED)] == [True, False, False]


@pytest.mark.parametrize(
    ("reference", "expected"),
    [(TAGGED, ["all", "tag-only"]), (PINNED, ["all", "digest-only"])],
    ids=["tag", "digest"],
)
def test_mirrors_serve_the_pulls_that_they_are_meant_for(reference, expected):
    uses = ("digest-only", "all", "tag-only")
    mirrors = tuple(Mirror(f"{use}.example", pull_from_mirror=use) for use in uses)
    sources = Registry("example.com", "example.com", mirrors=mirrors).pull_sources(reference)
    assert {source.domain for source in sources if source.is_mirror} == {f"{use}.example" for use in expected}


def test_mirror_by_digest_only_keeps_tags_off_all_mirrors():
    registry = Registry("example.com", "example.com", mirrors=(Mirror("m.example"),), mirror_by_digest_only=True)
    assert [source.domain for source in registry.pull_sources(TAGGED)] == ["example.com"]
    assert [source.domain for source in registry.pull_sources(PINNED)] == ["m.example", "example.com"]


@pytest.mark.demand("BLOCK-semantics")
def test_a_blocked_location_is_left_out_and_its_mirrors_are_used():
    registries = Registries((Registry("example.com", "example.com", blocked=True, mirrors=(Mirror("m.example"),)),))
    assert hosts(registries, "example.com/os:1") == ["m.example"]


@pytest.mark.demand("BLOCK-semantics")
@pytest.mark.parametrize("location", ["example.com", "elsewhere.example"])
def test_a_blocked_registry_without_mirrors_is_refused_whether_rewritten_or_not(location):
    registries = Registries((Registry("example.com", location, blocked=True, file="/etc/r.conf"),))
    with pytest.raises(RegistryBlockedError, match="blocked") as raised:
        registries.pull_sources(TAGGED)
    assert raised.value.reasons == ('/etc/r.conf: the registry with prefix "example.com" is blocked',)


@pytest.mark.demand("BLOCK-semantics")
def test_a_mirror_or_location_that_is_blocked_under_its_own_name_is_left_out():
    blocked = Registry("bad.example", "bad.example", blocked=True)
    mirrors = Mirror("bad.example/mirror"), Mirror("good.example")
    registries = Registries((blocked, Registry("example.com", "bad.example", mirrors=mirrors)))
    assert hosts(registries, "example.com/os:1") == ["good.example"]


def test_what_blocks_is_told_be_it_another_table_than_the_images():
    place = Registry("bad.example", "bad.example", blocked=True, file="/etc/b.conf")
    registries = Registries((place, Registry("example.com", "bad.example", file="/etc/a.conf")))
    with pytest.raises(RegistryBlockedError) as raised:
        registries.pull_sources(TAGGED)
    assert raised.value.reasons == ('/etc/b.conf: the registry with prefix "bad.example" is blocked',)
    assert str(raised.value) == (
        f"{TAGGED}: every place that it could come from is blocked "
        '(/etc/b.conf: the registry with prefix "bad.example" is blocked)'
    )


@pytest.mark.demand("BLOCK-semantics")
def test_a_namespace_within_a_blocked_registry_can_be_let_through():
    registries = Registries(
        (Registry("example.com", "example.com", blocked=True), Registry("example.com/ns", "example.com/ns"))
    )
    assert hosts(registries, "example.com/ns/os:1") == ["example.com"]
    with pytest.raises(RegistryBlockedError):
        hosts(registries, "example.com/nsx/os:1")


def test_the_longest_prefix_wins_and_of_equal_ones_the_wildcard():
    prefixes = ("*.io", "a.io", "a.io/ns", "a.io/ns/os:1")
    registries = Registries(tuple(Registry(prefix, "x.example") for prefix in prefixes))

    def prefix_for(text: str) -> str | None:
        registry = registries.find_registry(parse_reference(text))
        return registry.prefix if registry else None

    assert prefix_for("a.io/ns/os:1") == "a.io/ns/os:1"
    assert prefix_for("a.io/ns/os:10") == "a.io/ns"
    assert prefix_for("a.io/n:1") == "*.io"
    assert prefix_for("a.example/n:1") is None


@given(st.sampled_from("abz019-._"), st.text(st.sampled_from("abz019-./:"), max_size=8))
def test_a_prefix_ends_where_a_component_ends(following, rest):
    assert match_prefix(f"example.com{following}{rest}", "example.com") is None
    assert match_prefix(f"example.com/ns{following}{rest}", "example.com/ns") is None


@pytest.mark.parametrize("location", ["dotless", "docker.io", "index.docker.io/library", "UPPER.example/X"])
def test_nothing_is_completed_when_a_location_makes_no_full_reference(location):
    with pytest.raises(InvalidReferenceError):
        rewrite_reference(parse_reference("example.com/os:1"), "example.com", location)


@pytest.mark.parametrize("name", ["example.com/os:1", "example.com/os@sha256:" + "a" * 64])
def test_a_prefix_that_takes_tag_or_digest_needs_a_location_that_gives_one(name):
    reference = parse_reference(name)
    for registry in (Registry(name, "a.b/os"), Registry(name, "a.b/os:2", mirrors=(Mirror("m.b/os"),))):
        with pytest.raises(ConfigurationError, match="which says neither tag nor digest"):
            Registries((registry,)).pull_sources(reference)
    (source,) = Registries((Registry(name, "a.b/os:2"),)).pull_sources(reference)
    assert str(source.reference) == "a.b/os:2"


def test_a_location_that_leads_nowhere_names_its_file_and_prefix():
    registries = Registries((Registry("example.com", "dotless", file="/etc/containers/registries.conf"),))
    with pytest.raises(ConfigurationError, match=r'registries\.conf: registry with prefix "example\.com": cannot lead'):
        registries.pull_sources(TAGGED)
