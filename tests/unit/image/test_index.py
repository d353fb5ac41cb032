"""Indexes: which of the manifests is chosen, and what of the others matters."""

from __future__ import annotations

import pytest

from container_image_proxy.errors import InvalidManifestError, UnknownManifestError
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import choose_manifest
from container_image_proxy.image.media_types import DOCKER_LIST, OCI_INDEX
from container_image_proxy.image.platform import parse_platform
from tests.support.manifests import JSONObject, index_of, instance, oci_index

AMD64 = parse_platform("linux/amd64")


def chosen(index: JSONObject, platform: str) -> str:
    digest = choose_manifest(index_of(index), parse_platform(platform)).digest
    return next(name for name in ("first", "second", "third") if digest == digest_of(name.encode()))


ZSTD = {"annotations": {"io.github.containers.compression.zstd": "true"}}


@pytest.mark.parametrize(
    ("manifests", "platform", "name"),
    [
        ([instance("first", "linux/arm64"), instance("second")], "linux/amd64", "second"),
        ([instance("first"), instance("second")], "linux/amd64", "first"),
        ([instance("first"), instance("second", **ZSTD), instance("third", **ZSTD)], "linux/amd64", "second"),
        ([instance("first", "linux/arm/v5"), instance("second", "linux/arm/v7", **ZSTD)], "linux/arm/v5", "first"),
        ([instance("first", "linux/arm/v5"), instance("second", "linux/arm/v6")], "linux/arm/v7", "second"),
        ([instance("first", None), instance("second")], "linux/amd64", "second"),
        ([instance("first", None), instance("second")], "linux/s390x", "first"),
    ],
)
def test_the_closest_platform_then_zstd_then_the_first_is_chosen(
    manifests: list[JSONObject], platform: str, name: str
) -> None:
    assert chosen(oci_index(*manifests), platform) == name


def test_a_nested_index_is_chosen_as_what_it_is() -> None:
    nested = instance("nested") | {"mediaType": OCI_INDEX}
    assert choose_manifest(index_of(oci_index(nested)), AMD64).media_type == OCI_INDEX


def test_the_platforms_that_there_are_are_named_if_none_fits() -> None:
    index = index_of(oci_index(instance("a", "linux/arm64/v8"), instance("b"), instance("c", "evil\n/x")))
    with pytest.raises(UnknownManifestError, match=r"for linux/s390x, only for linux/amd64, linux/arm64/v8$"):
        choose_manifest(index, parse_platform("linux/s390x"))


def test_an_empty_index_and_a_docker_entry_without_platform_serve_nobody() -> None:
    for index in (oci_index(), oci_index(instance("first", None), mediaType=DOCKER_LIST)):
        with pytest.raises(UnknownManifestError, match=r"no image for linux/amd64$"):
            choose_manifest(index_of(index), AMD64)


def test_zstd_is_no_matter_in_a_docker_list_which_has_no_annotations() -> None:
    assert (
        chosen(oci_index(instance("first"), instance("second", **ZSTD), mediaType=DOCKER_LIST), "linux/amd64")
        == "first"
    )


ODD_PLATFORMS = [
    {},
    {"os": "linux"},
    {"architecture": "amd64"},
    {"os": None, "architecture": None},
    {"os": "", "architecture": ""},
    {"os": "plan10", "architecture": "amd64"},
    {"os": ["linux"], "architecture": "amd64"},
    {"os": "linux", "architecture": "amd64", "variant": 1},
    "linux/amd64",
    5,
    [],
]


@pytest.mark.parametrize("platform", ODD_PLATFORMS, ids=str)
@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_an_entry_for_no_platform_is_passed_over(platform: object, media_type: str) -> None:
    index = oci_index(instance("first") | {"platform": platform}, instance("second"), mediaType=media_type)
    assert chosen(index, "linux/amd64") == "second"


@pytest.mark.parametrize("platform", ODD_PLATFORMS, ids=str)
def test_an_entry_for_no_platform_is_no_last_resort(platform: object) -> None:
    with pytest.raises(UnknownManifestError, match=r"^the index has no image for linux/amd64"):
        choose_manifest(index_of(oci_index(instance("first") | {"platform": platform})), AMD64)


def test_null_in_a_platform_is_as_good_as_absent() -> None:
    platform = {"os": "linux", "architecture": "arm64", "variant": None, "os.version": None, "os.features": "none"}
    assert chosen(oci_index(instance("first") | {"platform": platform}), "linux/arm64/v8") == "first"


ODD_DIGESTS = ["md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:../../etc/passwd", "sha256:00", "", None, 5]


@pytest.mark.demand("DIG-malformed")
@pytest.mark.parametrize("digest", ODD_DIGESTS, ids=str)
def test_an_entry_that_cannot_be_verified_does_not_condemn_its_siblings(digest: object) -> None:
    odd = instance("first", "linux/s390x") | {"digest": digest}
    assert chosen(oci_index(odd, instance("second")), "linux/amd64") == "second"


@pytest.mark.demand("DIG-malformed")
@pytest.mark.parametrize("digest", ODD_DIGESTS, ids=str)
def test_an_entry_that_cannot_be_verified_is_refused_when_it_is_the_one(digest: object) -> None:
    entries = [instance("first", "linux/s390x"), instance("second") | {"digest": digest}, instance("third")]
    with pytest.raises(InvalidManifestError, match=r"^manifests\[1\]\.digest"):
        _ = choose_manifest(index_of(oci_index(*entries)), AMD64).digest


@pytest.mark.parametrize("entry", [None, "x", 5, []])
def test_an_entry_that_is_no_object_is_passed_over(entry: object) -> None:
    assert chosen({"mediaType": OCI_INDEX, "manifests": [entry, instance("second")]}, "linux/amd64") == "second"


@pytest.mark.parametrize(
    "members",
    [
        {"mediaType": 5},
        {"size": -1},
        {"size": None},
        {"size": "5"},
        {"size": 2**40},
        {"Size": 5},
        {"annotations": {"a": None}},
        {"annotations": "none"},
        {"urls": ["../x"]},
        {"artifactType": 5},
        {"data": 5},
        {"x": {}},
    ],
    ids=str,
)
def test_members_that_decide_nothing_may_have_any_form(members: JSONObject) -> None:
    assert chosen(oci_index(instance("first") | members), "linux/amd64") == "first"


@pytest.mark.demand("JSON-duplicate-keys")
@pytest.mark.parametrize("key", ["Platform", "DIGEST", "mediatype"])
def test_an_entry_that_readers_could_take_differently_is_refused_whichever_is_chosen(key: str) -> None:
    index = oci_index(instance("first"), instance("second", "linux/s390x") | {key: {}})
    with pytest.raises(InvalidManifestError, match=r"^manifests\[1\](\.platform)?: ambiguous"):
        index_of(index)
