from __future__ import annotations

import pytest

from container_image_proxy.errors import MalformedDocumentError
from container_image_proxy.image.descriptor import Descriptor, parse_descriptor
from container_image_proxy.image.digest import digest_of
from tests.support.manifests import OCI_LAYER, descriptor

MAX_INT64 = 2**63 - 1


def test_all_fields_are_read() -> None:
    document = descriptor(
        OCI_LAYER,
        b"layer",
        urls=["https://mirror.example/layer"],
        annotations={"a": "b"},
        platform={"os": "linux", "architecture": "arm64", "variant": "v8"},
        data="bGF5ZXI=",
        unknown={"x": 1},
    )
    assert parse_descriptor(document, ("it",)) == Descriptor(
        OCI_LAYER,
        digest_of(b"layer"),
        5,
        ("https://mirror.example/layer",),
        {"a": "b"},
    )


def test_null_means_absent_where_a_field_is_optional() -> None:
    document = descriptor(OCI_LAYER, urls=None, annotations=None, platform=None)
    assert parse_descriptor(document, ("it",)) == parse_descriptor(descriptor(OCI_LAYER), ("it",))


def test_descriptors_can_be_keys() -> None:
    one = parse_descriptor(descriptor(OCI_LAYER, annotations={"a": "b"}), ("it",))
    assert {one: "found"}[parse_descriptor(descriptor(OCI_LAYER, annotations={"a": "b"}), ("it",))] == "found"


@pytest.mark.demand("DIG-malformed")
@pytest.mark.parametrize(
    "digest",
    ["sha256:../../etc/passwd", "sha256:abc", "md5:" + "a" * 32, "sha256:" + "A" * 64, "", "a" * 10_000, None, 1, []],
)
def test_a_malformed_digest_is_refused_in_a_short_message(digest: object) -> None:
    with pytest.raises(MalformedDocumentError, match=r"^it\.digest") as caught:
        parse_descriptor(descriptor(OCI_LAYER) | {"digest": digest}, ("it",))
    assert len(str(caught.value)) < 300


@pytest.mark.demand("DIG-sha512")
def test_a_sha512_digest_stays_one() -> None:
    digest = digest_of(b"layer", "sha512")
    assert parse_descriptor(descriptor(OCI_LAYER) | {"digest": str(digest)}, ("it",)).digest == digest


@pytest.mark.demand("DIG-size-lie")
@pytest.mark.parametrize("size", [-1, MAX_INT64 + 1, 10**30, 1.0, "5", True, None, [1]])
def test_an_absurd_size_is_refused(size: object) -> None:
    with pytest.raises(MalformedDocumentError, match=r"^it\.size"):
        parse_descriptor(descriptor(OCI_LAYER) | {"size": size}, ("it",))


@pytest.mark.demand("DIG-size-lie")
@pytest.mark.parametrize(("size", "fits"), [(0, True), (100, True), (101, False), (MAX_INT64, False)])
def test_a_size_beyond_the_callers_limit_is_refused(size: int, fits: bool) -> None:  # noqa: FBT001 - a table's column
    document = descriptor(OCI_LAYER) | {"size": size}
    if fits:
        assert parse_descriptor(document, ("it",), max_size=100).size == size
    else:
        with pytest.raises(MalformedDocumentError, match="100"):
            parse_descriptor(document, ("it",), max_size=100)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mediaType", None),
        ("mediaType", 7),
        ("mediaType", ["text/plain"]),
        ("urls", "https://mirror.example/"),
        ("urls", [1, None]),
        ("annotations", []),
        ("annotations", {"a": 1}),
        ("platform", "linux/amd64"),
        ("platform", {"os": None}),
        ("data", 5),
        ("artifactType", 5),
        ("URLs", ["x"]),
        ("Annotations", {"a": "b"}),
        ("Platform", {}),
    ],
)
def test_what_decides_nothing_may_have_any_form(field: str, value: object) -> None:
    plain = parse_descriptor(descriptor(OCI_LAYER), ("it",))
    bent = parse_descriptor(descriptor(OCI_LAYER) | {field: value}, ("it",))
    assert (bent.digest, bent.size, bent.urls, bent.annotations) == (plain.digest, plain.size, (), {})


@pytest.mark.parametrize("media_type", ["", "text", "text/plain; charset=utf-8", "a b/c d", "x/" + "y" * 500])
def test_a_media_type_may_be_any_text(media_type: str) -> None:
    assert parse_descriptor(descriptor(media_type), ("it",)).media_type == media_type


def test_urls_may_be_relative_and_annotations_null() -> None:
    read = parse_descriptor(
        descriptor(OCI_LAYER, urls=["../x", 5], annotations={"a": None, "b": "c", "d": []}), ("it",)
    )
    assert (read.urls, read.annotations) == (("../x",), {"a": "", "b": "c"})


@pytest.mark.parametrize("field", ["digest", "size"])
def test_what_is_missing_is_named(field: str) -> None:
    with pytest.raises(MalformedDocumentError, match=rf"^it\.{field}: missing$"):
        parse_descriptor({key: value for key, value in descriptor(OCI_LAYER).items() if key != field}, ("it",))


@pytest.mark.parametrize("value", [None, [], "sha256:abc", 1])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(MalformedDocumentError, match=r"^it: must be an object, not "):
        parse_descriptor(value, ("it",))


@pytest.mark.demand("JSON-duplicate-keys")
@pytest.mark.parametrize("key", ["Digest", "SIZE", "mediatype"])
def test_a_field_that_some_readers_would_take_for_ours_is_refused(key: str) -> None:
    with pytest.raises(MalformedDocumentError, match="ambiguous"):
        parse_descriptor(descriptor(OCI_LAYER) | {key: "x"}, ("it",))
