from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import MalformedDocumentError
from container_image_proxy.image.strict_json import parse_json, parse_strict_json, parse_tolerant_json, verify_keys

MEBIBYTE = 1024 * 1024
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)

BOMBS = {
    "arrays": b"[" * 4 * MEBIBYTE,
    "100 000 arrays": b"[" * 100_000 + b"]" * 100_000,
    "objects": b'{"a":' * 800_000,
    "digits": b"1" * 4 * MEBIBYTE,
    "negative digits": b"-" + b"1" * 5000,
    "more digits than any size has": b"1" * 65,
    "exponent": b"1e999",
    "negative exponent": b"[-1e999]",
    "infinity": b"Infinity",
    "nan": b"[NaN]",
    "lone high surrogate": b'["\\ud800"]',
    "lone low surrogate as key": b'{"\\uDFFF": 1}',
    "surrogates in the wrong order": b'"\\udc00\\ud800"',
    "raw surrogate": b'"\xed\xa0\x80"',
    "not utf-8": b'"\xff"',
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "nothing": b"",
    "trailing": b"{} {}",
    "NUL": b"{}\0",
}


@pytest.mark.demand("JSON-depth")
@pytest.mark.timeout(10)
@pytest.mark.parametrize("raw", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_by_our_error(raw: bytes) -> None:
    with pytest.raises(MalformedDocumentError, match=r"^the bomb "):
        parse_json(raw, "the bomb")


@given(VALUES)
def test_what_json_writes_is_read_back(value: object) -> None:
    assert parse_json(json.dumps(value).encode(), "it") == value


@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()[:-1]))
def test_any_bytes_are_a_value_or_our_error(raw: bytes) -> None:
    with contextlib.suppress(MalformedDocumentError):
        assert parse_json(raw, "it") == json.loads(raw)


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert parse_json(b'"\\ud83d\\ude00"', "it") == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"cut \ud83d", "cut \ufffd"),
        (r"\uDE00 low", "\ufffd low"),
        (r"\ud83d\ud83d\ude00", "\ufffd\N{GRINNING FACE}"),
        (r"\ude00\ud83d", "\ufffd\ufffd"),
        (r"\ud83d\u0041", "\ufffdA"),
        (r"\\ud83d \\\ud83d", "\\ud83d \\\ufffd"),
        (r"\"\ud83d\"", '"\ufffd"'),
    ],
)
def test_half_a_pair_of_surrogates_is_read_as_go_reads_it(written: str, read: str) -> None:
    assert parse_tolerant_json(f'{{"a": "{written}"}}'.encode(), "it") == {"a": read}


@given(st.text(alphabet=st.sampled_from('\\u"dD8cEabf0')))
def test_tolerant_reading_gives_text_that_can_be_written_again(text: str) -> None:
    with contextlib.suppress(MalformedDocumentError):
        json.dumps(parse_tolerant_json(f'["{text}"]'.encode(), "it"), ensure_ascii=False).encode()


def test_tolerant_reading_lets_the_last_of_repeated_keys_count() -> None:
    assert parse_json(b'{"a": 1, "a": 2}', "it") == {"a": 2}


@pytest.mark.demand("JSON-duplicate-keys")
@pytest.mark.parametrize("raw", [b'{"a": 1, "a": 1}', b'{"x": [{"a": 1, "b": 2, "a": 3}]}', b'{"a": 1, "\\u0061": 2}'])
def test_strict_reading_names_the_repeated_key(raw: bytes) -> None:
    with pytest.raises(MalformedDocumentError, match=r"^it has the key 'a' more than once"):
        parse_strict_json(raw, "it")


@pytest.mark.demand("JSON-duplicate-keys")
@pytest.mark.parametrize("key", ["Layers", "LAYERS", "layerS", "layer\N{LATIN SMALL LETTER LONG S}"])
def test_a_known_key_in_another_case_is_ambiguous(key: str) -> None:
    with pytest.raises(MalformedDocumentError, match="'layers'"):
        verify_keys({key: 1}, {"layers"})


def test_unknown_keys_may_have_any_case() -> None:
    verify_keys({"layers": 1, "Foo": 2, "foo": 3}, {"layers", "config"})


@pytest.mark.demand("JSON-duplicate-keys")
def test_tolerant_reading_remembers_which_keys_are_repeated() -> None:
    document = parse_tolerant_json(b'{"a": 1, "b": 2, "a": 3}', "it")
    assert document == {"a": 3, "b": 2}
    verify_keys(document, {"b"})
    with pytest.raises(MalformedDocumentError, match=r"^layers\[3\]: ambiguous: the key 'a' is there more than once$"):
        verify_keys(document, {"a"}, ("layers", 3))
