"""JSON from strangers: bounded in depth, numbers and what it takes of memory, and read the same way by every reader.

Owns turning bytes into values and the checks that make one document mean one thing. Knows nothing of what the documents
are about; the caller bounds their size before they come here. RFC 8259.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Literal

from container_image_proxy.errors import InvalidManifestError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

MAX_VALUES: Final = 100_000
"""Values in a document, of which a small one takes up to thirty times its length in memory. It is held before parsing,
against the number of brackets and commas: those inside of texts count, too, and are never that many in a document that
is about images.
"""
_MAX_DIGITS: Final = 64
_SHOWN: Final = 60
_OUT_OF_RANGE: Final = "a number that is out of range"
_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(raw: bytes, what: str) -> object:
    """Read a JSON text in UTF-8; of a repeated key the last value counts.

    ``what`` names the document in the :class:`InvalidManifestError` that anything else raises, also nesting that the
    interpreter cannot follow, numbers that no double holds, NaN, and lone surrogates.
    """
    return _parse(raw, what, dict)


def parse_strict_object(raw: bytes, what: str) -> dict[str, object]:
    """Read a JSON object in which no object repeats a key; :class:`InvalidManifestError` otherwise."""
    return as_object(_parse(raw, what, _without_repeated), what)


def parse_object(raw: bytes, what: str) -> dict[str, object]:
    """Read a JSON object. Of a repeated key the last value counts, and :func:`as_object` can refuse it.

    Bytes that are not UTF-8 are read as U+FFFD, as Go reads them: they occur in texts that decide nothing.
    """
    return as_object(_parse(raw, what, _noting_repeated, encoding_errors="replace"), what)


def as_object(value: object, what: str, keys: Collection[str] = ()) -> dict[str, object]:
    """``value`` if it is an object in which each of ``keys``, where present, is there once and spelled exactly so.

    Readers differ over which of two equal keys counts, and some match keys without regard to case. Where that concerns
    one of ``keys`` the document has two meanings, and is an :class:`InvalidManifestError`. All other keys are allowed.
    """
    if not isinstance(value, dict):
        raise InvalidManifestError(f"{what} is not a JSON object")
    repeated = value.repeated.intersection(keys) if isinstance(value, _RepeatingObject) else None
    if repeated:
        raise InvalidManifestError(f"{what} is ambiguous: it has the key {min(repeated)!r} more than once")
    strangers = value.keys() - set(keys)
    misspelled = {key.casefold() for key in keys} & {key.casefold() for key in strangers}
    if misspelled:
        raise InvalidManifestError(
            f"{what} is ambiguous: {min(misspelled)!r} appears in another spelling of upper and lower case"
        )
    return value


def _parse(
    raw: bytes,
    what: str,
    make_object: Callable[[list[tuple[str, Any]]], dict[str, Any]],
    *,
    encoding_errors: Literal["strict", "replace"] = "strict",
) -> object:
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_VALUES:
        raise InvalidManifestError(f"{what} has more than {MAX_VALUES} values")
    try:
        text = raw.decode("utf-8", encoding_errors)
        value = json.loads(
            text, object_pairs_hook=make_object, parse_int=_int, parse_float=_finite, parse_constant=_finite
        )
        if _SURROGATE_ESCAPE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails on half a surrogate pair, which is no text
    except RecursionError as error:
        raise InvalidManifestError(f"{what} is nested too deeply") from error
    except UnicodeError as error:
        raise InvalidManifestError(f"{what} is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise InvalidManifestError(f"{what} is not valid JSON: line {error.lineno}, column {error.colno}") from error
    except ValueError as error:
        raise InvalidManifestError(f"{what} has {error}") from error
    return value


class _RepeatingObject(dict[str, Any]):
    """A JSON object some of whose keys came more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated = frozenset(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)


def _noting_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    return made if len(made) == len(pairs) else _RepeatingObject(pairs)


def _without_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = _noting_repeated(pairs)
    if isinstance(made, _RepeatingObject):
        raise ValueError(f"the key {min(made.repeated)[:_SHOWN]!r} more than once in an object")  # noqa: TRY004 - not its type
    return made


def _int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(_OUT_OF_RANGE)
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(_OUT_OF_RANGE)
    return number
