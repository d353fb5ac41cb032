"""Documents as declared types: what is wrong is said with its place, in words, and never in those of a stranger."""

from __future__ import annotations

import base64
import datetime as dt
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from container_image_proxy.errors import (
    ConfigurationError,
    MalformedDocumentError,
    SignatureRejectedError,
    blamed_on,
    rejected_because,
)
from container_image_proxy.image.documents import (
    JSON,
    TOML,
    YAML,
    Base64,
    Int64,
    NonEmpty,
    Notation,
    Strict,
    convert,
    decode_base64,
    parse_strict,
)


class Layer(Strict, frozen=True, rename="kebab", tag_field="type", tag="layer"):
    media_type: str = ""
    size: int = 0

    def __post_init__(self) -> None:
        if self.size > 100:
            raise MalformedDocumentError("must be 100 at most", ("size",))


class Note(Strict, frozen=True, tag_field="type", tag="note"):
    text: NonEmpty = "x"


class Document(Strict, frozen=True):
    name: str
    layers: tuple[Layer | Note, ...] = ()
    mode: Literal["fast", "slow"] = "fast"
    users: tuple[str | int, ...] | None = None
    ratio: float = 0.0
    flag: bool = False
    data: Base64 = Base64(b"")
    number: Int64 = Int64(0)
    place: Path | None = None
    notes: dict[str, str] | None = None


def with_layers(*layers: object) -> dict[str, object]:
    return {"name": "a", "layers": list(layers)}


KEYS = st.sampled_from(["name", "layers", "users", "type", "size", "mode", "data", "number"]) | st.text()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
)


def complaint(value: object, path: tuple[str | int, ...] = (), notation: Notation = JSON) -> str:
    with pytest.raises(MalformedDocumentError) as caught:
        convert(value, Document, path, notation)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], "the document: must be an object, not an array"),
        ({}, "name: missing"),
        ({"name": None}, "name: must be a string, not null"),
        ({"name": 1}, "name: must be a string, not an integer"),
        ({"name": "a", "flag": 1}, "flag: must be true or false, not an integer"),
        ({"name": "a", "ratio": True}, "ratio: must be a number, not true or false"),
        ({"name": "a", "users": [True]}, "users[0]: must be an integer or a string, not true or false"),
        ({"name": "a", "users": {}}, "users: must be an array, not an object"),
        ({"name": "a", "mode": "quick"}, "mode: 'quick' is none of fast, slow"),
        ({"name": "a", "data": "!"}, "data: not base64"),
        ({"name": "a", "data": 1}, "data: must be a string, not an integer"),
        ({"name": "a", "number": "1"}, "number: must be a number, not a string"),
        ({"name": "a", "number": 1.5}, "number: must be an integer, not a number with a fraction"),
        ({"name": "a", "number": 2**63}, "number: must be an integer of 64 bits"),
        ({"name": "a", "notes": {"b": "c", "d": 1}}, "notes: each value must be a string, not an integer"),
        ({"name": "a", "notes": {1: "c"}}, "the document: each key must be a string"),
        ({"name": "a", "place": "etc"}, "place: must be an absolute path"),
        ({"name": "a", "place": "/\0"}, "place: must be an absolute path"),
        (with_layers({"type": "layer"}, {"type": "other"}), "layers[1].type: 'other' is none of layer, note"),
        (with_layers({}), "layers[0].type: missing"),
        (with_layers({"type": "layer", "media-type": 1}), "layers[0].media-type: must be a string, not an integer"),
        (with_layers({"type": "layer", "size": 101}), "layers[0].size: must be 100 at most"),
        (with_layers({"type": "layer", "media_type": ""}), "layers[0].media_type: unknown key"),
        (with_layers({"type": "note", "text": ""}), "layers[0].text: must not be empty"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place_and_what_was_found(value: object, expected: str) -> None:
    assert complaint(value) == expected


def test_the_place_of_the_value_itself_comes_first() -> None:
    assert complaint({"name": 1}, ("images", "os")) == "images.os.name: must be a string, not an integer"
    assert complaint(1, ("images", "os")) == "images.os: must be an object, not an integer"


def test_each_format_has_its_own_words_and_counts_in_its_own_way() -> None:
    wrong: dict[str, Any] = {"name": "a", "users": ["x", {}]}
    assert complaint(wrong, notation=TOML) == "users[2]: must be an integer or a string, not a table"
    assert complaint(wrong, notation=YAML) == "users[1]: must be an integer or a string, not a mapping"
    assert complaint({"name": dt.date(2026, 1, 1)}, notation=TOML) == "name: must be a string, not a date or time"
    assert complaint({"name": "a", "place": {}}, notation=TOML) == "place: must be a string, not a table"


def test_an_unknown_key_is_told_which_there_are() -> None:
    with pytest.raises(MalformedDocumentError) as caught:
        convert({"name": "a", "colour": 1}, Document)
    assert caught.value.key == "colour"
    assert caught.value.remedy == "known here: data, flag, layers, mode, name, notes, number, place, ratio, users"


@pytest.mark.parametrize("key", ["x` - at `$.layers[0]", "`", " - at `$", "a\nb", "k" * 5000, ""])
def test_a_key_of_a_stranger_is_not_taken_for_a_place(key: str) -> None:
    with pytest.raises(MalformedDocumentError) as caught:
        convert({"name": "a", key: 1}, Document)
    assert caught.value.reason == "unknown key"
    assert len(caught.value.path) == 1
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_a_value_of_a_stranger_is_not_taken_for_a_place() -> None:
    assert complaint({"name": "a", "mode": "x' - at `$.name`"}).startswith("mode: ")


def test_keys_that_are_not_declared_may_stand_in_a_document_that_does_not_decide() -> None:
    class Tolerant(Struct, frozen=True):
        name: str
        any_form: Any = None

    form: list[object] = [1, {"a": None}]
    read = convert({"name": "a", "other": 1, "any_form": form}, Tolerant)
    assert read == Tolerant("a", form)
    assert read.any_form is form


def test_what_is_right_is_read() -> None:
    document = {"name": "a", "users": ["x", 1], "data": "YQ==", "number": 2.0, "place": "/etc", "ratio": 1}
    read = convert(document, Document)
    assert read == Document("a", users=("x", 1), data=Base64(b"a"), number=Int64(2), place=Path("/etc"), ratio=1.0)


@pytest.mark.demand("JSON-duplicate-keys")
def test_a_strict_document_has_each_key_once() -> None:
    with pytest.raises(MalformedDocumentError, match=r"^it has the key 'name' more than once"):
        parse_strict(b'{"name": "a", "name": "b"}', Document, "it")


@given(VALUES)
def test_any_value_is_read_or_refused_in_our_words(value: object) -> None:
    try:
        assert isinstance(convert(value, Document), Document)
    except MalformedDocumentError as error:
        assert "Expected" not in error.reason and "`" not in error.reason.partition("'")[0]  # noqa: PT017, PT018


def test_who_asked_for_the_document_makes_the_error_its_own() -> None:
    with pytest.raises(ConfigurationError) as caught, blamed_on("/f"):
        convert({"name": "a", "colour": 1}, Document)
    error = caught.value
    assert (error.file, error.key, error.reason) == ("/f", "colour", "unknown key")
    assert error.remedy is not None
    with (
        pytest.raises(SignatureRejectedError, match=r"^it is malformed: name: missing$"),
        rejected_because("it is malformed"),
    ):
        convert({}, Document)


@given(st.binary(max_size=20), st.integers(1, 8))
def test_base64_is_read_whatever_its_lines(data: bytes, width: int) -> None:
    text = base64.b64encode(data).decode()
    lines = [text[start : start + width] for start in range(0, len(text), width)]
    assert decode_base64("\r\n".join(lines)) == data


@pytest.mark.parametrize(
    "text",
    ["AAAA=", "AAAA==", "AAAA====", "AA===", "AA==AA==", "AA==AAAA", "AA=", "AA", "A", "=", "A A==", "AA= =", "_-=="],
)
def test_base64_has_the_padding_that_it_needs_and_nothing_else(text: str) -> None:
    with pytest.raises(MalformedDocumentError, match=r"^not base64$"):
        decode_base64(text)
