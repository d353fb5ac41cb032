"""Which names a signature may claim for an image."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import MalformedDocumentError
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.policy.identity import verify_prefix
from tests.support.identities import parse_identity

DIGEST = "sha256:" + "a" * 64
OTHER_DIGEST = "sha256:" + "b" * 64
KINDS = ["matchExact", "matchRepoDigestOrExact", "matchRepository"]


def matches(identity: object, image: str | None, claim: str) -> bool:
    reference = parse_reference(image) if image is not None else None
    return parse_identity(identity).matches(reference, claim)


@pytest.mark.demand("SIG-identity")
@pytest.mark.parametrize(
    ("image", "claim", "accepted_by"),
    [
        ("quay.io/a/b:1", "quay.io/a/b:1", KINDS),
        ("busybox:1", "docker.io/library/busybox:1", KINDS),
        ("quay.io/a/b:1", "quay.io/a/b:2", ["matchRepository"]),
        ("quay.io/a/b:1", "quay.io/a/b", ["matchRepository"]),
        ("quay.io/a/b", "quay.io/a/b", ["matchRepository"]),
        (f"quay.io/a/b@{DIGEST}", f"quay.io/a/b@{DIGEST}", KINDS),
        (f"quay.io/a/b@{DIGEST}", f"quay.io/a/b@{OTHER_DIGEST}", ["matchRepoDigestOrExact", "matchRepository"]),
        (f"quay.io/a/b@{DIGEST}", "quay.io/a/b:1", ["matchRepoDigestOrExact", "matchRepository"]),
        (f"quay.io/a/b@{DIGEST}", "quay.io/a/b", ["matchRepository"]),
        (f"quay.io/a/b:1@{DIGEST}", "quay.io/a/b:1", ["matchRepository"]),
        ("quay.io/a/b:1", "quay.io/a/c:1", []),
        ("quay.io/a/b:1", "mirror.example.com/a/b:1", []),
        ("quay.io/a/b:1", "quay.io/A/b:1", []),
        ("quay.io/a/b:1", "", []),
        (None, "quay.io/a/b:1", []),
    ],
)
def test_a_claim_is_held_against_the_images_name(image: str | None, claim: str, accepted_by: list[str]) -> None:
    assert [kind for kind in KINDS if matches({"type": kind}, image, claim)] == accepted_by


@pytest.mark.parametrize("image", ["quay.io/a/b:1", None])
def test_a_fixed_name_does_not_depend_on_the_images(image: str | None) -> None:
    exact = {"type": "exactReference", "dockerReference": "vendor.example.com/os:1"}
    assert matches(exact, image, "vendor.example.com/os:1")
    assert not matches(exact, image, "vendor.example.com/os:2")
    repository = {"type": "exactRepository", "dockerRepository": "vendor.example.com/os"}
    assert matches(repository, image, "vendor.example.com/os:2")
    assert not matches(repository, image, "quay.io/a/b:1")


@pytest.mark.parametrize(
    ("prefix", "image", "claim", "expected"),
    [
        ("mirror.example.com/vendor", "mirror.example.com/vendor/os:1", "vendor.example.com/os:1", True),
        ("mirror.example.com/vendor", "mirror.example.com/vendor/os:1", "mirror.example.com/vendor/os:1", False),
        ("mirror.example.com/vendor", "mirror.example.com/vendors/os:1", "vendor.example.com/os:1", False),
        ("mirror.example.com/vendor", "mirror.example.com/vendors/os:1", "mirror.example.com/vendors/os:1", True),
        ("mirror.example.com/vendor", "quay.io/a/b:1", "quay.io/a/b:1", True),
        ("mirror.example.com", "mirror.example.com/os:1", "vendor.example.com/os:1", True),
        ("mirror.example.com", "mirror.example.com:5000/os:1", "vendor.example.com:5000/os:1", False),
        ("mirror.example.com", "mirror.example.com:5000/os:1", "mirror.example.com:5000/os:1", True),
        ("mirror.example.com", "mirror.example.community/os:1", "mirror.example.community/os:1", True),
    ],
)
def test_a_prefix_is_replaced_where_it_ends_a_name(prefix: str, image: str, claim: str, *, expected: bool) -> None:
    identity = {"type": "remapIdentity", "prefix": prefix, "signedPrefix": "vendor.example.com"}
    assert matches(identity, image, claim) is expected


@pytest.mark.parametrize("suffix", [":1", f"@{DIGEST}"])
def test_a_prefix_may_be_a_whole_repository(suffix: str) -> None:
    identity = {"type": "remapIdentity", "prefix": "mirror.example.com/os", "signedPrefix": "vendor.example.com/linux"}
    assert matches(identity, f"mirror.example.com/os{suffix}", f"vendor.example.com/linux{suffix}")


@pytest.mark.parametrize(
    ("signed_prefix", "claim"),
    [
        ("vendor", "vendor/os:1"),
        ("vendor", "docker.io/vendor/os:1"),
        ("index.docker.io/vendor", "docker.io/vendor/os:1"),
        ("docker.io", "docker.io/library/os:1"),
    ],
)
def test_a_signed_prefix_is_not_expanded_to_a_full_name(signed_prefix: str, claim: str) -> None:
    identity = {"type": "remapIdentity", "prefix": "mirror.example.com", "signedPrefix": signed_prefix}
    assert not matches(identity, "mirror.example.com/os:1", claim)


@pytest.mark.parametrize("signed_prefix", ["docker.io/vendor", "localhost", "vendor.example:5000"])
def test_a_full_signed_prefix_is_what_signatures_claim(signed_prefix: str) -> None:
    identity = {"type": "remapIdentity", "prefix": "mirror.example.com", "signedPrefix": signed_prefix}
    assert matches(identity, "mirror.example.com/os:1", f"{signed_prefix}/os:1")


@pytest.mark.parametrize(
    "identity",
    [
        None,
        "matchExact",
        {},
        {"type": "MatchExact"},
        {"type": "matchExact", "dockerReference": "a:1"},
        {"type": "exactReference"},
        {"type": "exactReference", "dockerReference": "quay.io/a/b"},
        {"type": "exactReference", "dockerReference": "quay.io/A:1"},
        {"type": "exactRepository", "dockerRepository": 1},
        {"type": "remapIdentity", "prefix": "a.example"},
        {"type": "remapIdentity", "prefix": "a.example/x:1", "signedPrefix": "b.example"},
    ],
)
def test_an_unusable_identity_is_an_error_that_names_its_place(identity: object) -> None:
    with pytest.raises(MalformedDocumentError, match=r"default\[0\]\.signedIdentity"):
        parse_identity(identity, ("default", 0, "signedIdentity"))


@given(st.text(max_size=60))
def test_any_text_is_a_prefix_or_our_error(text: str) -> None:
    with contextlib.suppress(MalformedDocumentError):
        verify_prefix(text, "prefix")


@given(st.text(max_size=60))
def test_any_text_can_be_claimed(claim: str) -> None:
    assert matches({"type": "matchRepository"}, "quay.io/a/b:1", claim) in {True, False}
