"""Parses JSON (RFC 8259) from untrusted sources, with limits on its depth, numbers and number of values.

Also finds repeated keys, by which one document could mean different things to different readers. The caller limits the
size of a document before it is parsed.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from container_image_proxy.errors import MalformedDocumentError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from container_image_proxy.errors import KeyPath

MAX_VALUES: Final = 100_000
"""Values in a document. A small value takes up to thirty times its length in memory, so that 4 MiB of small values
would take half of the unit's MemoryMax= (contrib/adr/0024). An index of 10,000 manifests has 90,000. The number is
estimated before parsing, by brackets and commas, those inside of strings included.
"""
_MAX_DIGITS: Final = 64
"""Digits of a whole number. Parsing takes time of the square of their number; numbers of 64 bits have 19 at most."""
_OUT_OF_RANGE: Final = "a number that is out of range"
_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")
# The group is what stays: an escaped backslash, or a whole pair. What else matches is half a pair.
_HALF_PAIR: Final = re.compile(
    r"(\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)


def parse_json(raw: bytes, what: str) -> object:
    """The value of a JSON text in UTF-8. Of a repeated key the last value counts.

    :class:`MalformedDocumentError` about ``what`` for other bytes, nesting that is too deep for the interpreter,
    numbers that no double can hold, NaN, and lone surrogates.
    """
    return _parse(raw, what, dict)


def parse_strict_json(raw: bytes, what: str) -> object:
    """As :func:`parse_json`; :class:`MalformedDocumentError` also if an object has a key twice."""
    return _parse(raw, what, _without_repeated)


def parse_tolerant_json(raw: bytes, what: str) -> object:
    """As :func:`parse_json`, for documents that real registries send; repeated keys are left to :func:`verify_keys`.

    Bytes that are not UTF-8 become U+FFFD, as in Go, and so does half a pair of surrogates. They occur in strings that
    decide nothing, such as a description that was cut within a character.
    """
    return _parse(raw, what, _noting_repeated, is_tolerant=True)


def verify_keys(value: object, keys: Collection[str], path: KeyPath = ()) -> None:
    """Raise :class:`MalformedDocumentError` if ``value`` is an object with one of ``keys`` twice, or in another case.

    Other keys may be repeated, and values of other types have no keys.
    """
    if not isinstance(value, dict):
        return
    # Readers differ about which of two equal keys counts, and some match keys without regard to case: such a document
    # could be one image here and another one elsewhere.
    repeated = value.repeated.intersection(keys) if isinstance(value, _RepeatingObject) else None
    if repeated:
        raise MalformedDocumentError(f"ambiguous: the key {min(repeated)!r} is there more than once", path)
    strangers = value.keys() - set(keys)
    misspelled = {key.casefold() for key in keys} & {key.casefold() for key in strangers}
    if misspelled:
        reason = f"ambiguous: the key {min(misspelled)!r} is there in another spelling of upper and lower case"
        raise MalformedDocumentError(reason, path)


def _parse(
    raw: bytes,
    what: str,
    make_object: Callable[[list[tuple[str, Any]]], dict[str, Any]],
    *,
    is_tolerant: bool = False,
) -> object:
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_VALUES:
        raise MalformedDocumentError(f"{what} has more than {MAX_VALUES} values")
    try:
        text = raw.decode("utf-8", "replace" if is_tolerant else "strict")
        if is_tolerant:
            text = _HALF_PAIR.sub(lambda found: found[1] or r"\ufffd", text)
        value = json.loads(
            text, object_pairs_hook=make_object, parse_int=_int, parse_float=_finite, parse_constant=_finite
        )
        if not is_tolerant and _SURROGATE_ESCAPE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails if there is half a surrogate pair
    # UnicodeError and JSONDecodeError are ValueErrors, so they come before it.
    except RecursionError as error:
        raise MalformedDocumentError(f"{what} is nested too deeply") from error
    except UnicodeError as error:
        raise MalformedDocumentError(f"{what} is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise MalformedDocumentError(f"{what} is not valid JSON: line {error.lineno}, column {error.colno}") from error
    except ValueError as error:  # from one of the hooks above
        raise MalformedDocumentError(f"{what} has {error}") from error
    return value


class _RepeatingObject(dict[str, Any]):
    """A JSON object with repeated keys. They are noted here, because a dict cannot have them."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated = frozenset(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)


def _noting_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # A plain dict for nearly all objects, because it takes less time and memory.
    made = dict(pairs)
    return made if len(made) == len(pairs) else _RepeatingObject(pairs)


def _without_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = _noting_repeated(pairs)
    if isinstance(made, _RepeatingObject):
        raise ValueError(f"the key {shown(min(made.repeated))} more than once in an object")  # noqa: TRY004 - not its type
    return made


def _int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(_OUT_OF_RANGE)
    return int(text)


def _finite(text: str) -> float:
    # float() also reads NaN and Infinity, and makes infinity of a number that is too large.
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(_OUT_OF_RANGE)
    return number
