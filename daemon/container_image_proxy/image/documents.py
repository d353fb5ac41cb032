"""Converts parsed JSON, TOML or YAML values into declared types: frozen Structs, or an error (contrib/adr/0039).

Owns this conversion, the texts of its errors, and value types that msgspec does not have. An error names the key path,
what was expected there and what was found. :mod:`strict_json` parses the bytes and finds repeated keys.

Types of documents that decide something are :class:`Strict`. Other types ignore unknown keys, and declare as ``Any``
what may have any form; :func:`text_of`, :func:`texts_of` and :func:`annotations_of` read such values. Rules about
several keys are checked in ``__post_init__``, or in the ``read()`` of a :class:`Written` type. Both raise
:class:`MalformedDocumentError` with the path below the value.
"""

from __future__ import annotations

import base64
import re
from functools import partial
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Self, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from container_image_proxy.errors import MalformedDocumentError, shown
from container_image_proxy.image.strict_json import parse_strict_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.errors import KeyPath

_T = TypeVar("_T")
_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_LONGEST_KEY: Final = 60
"""Characters of an unknown key up to which a message has it unquoted."""
_INT64: Final = range(-(1 << 63), 1 << 63)

# The messages of msgspec's ValidationError, the same in all versions since 0.19.
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[([0-9]+)\]")
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISMATCH: Final = re.compile(r"Expected `([^`]+)`, got `([^`]+)`")
_NOUNS: Final = {
    "array": "an array", "bool": "true or false", "float": "a number", "int": "an integer", "null": "null",
    "str": "a string",
}  # fmt: skip


class Notation(Struct, frozen=True):
    """The words of a format: what it calls a mapping, and the number of the first item of an array."""

    mapping: str
    first: int = 0

    def noun(self, kind: str) -> str:
        """msgspec's name of a type in words. Types that are not listed are TOML's dates and times."""
        return self.mapping if kind == "object" else _NOUNS.get(kind, "a date or time")


class Strict(Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the types of documents that decide something: a key that is not declared is an error."""


class Written(Strict, frozen=True):
    """The written form of a value, which :meth:`read` makes. Its errors are raised when the form is converted."""

    def __post_init__(self) -> None:
        self.read()

    def read(self) -> Any:
        """The value; :class:`MalformedDocumentError` if its parts contradict each other."""
        raise NotImplementedError  # a Struct cannot be abstract: its metaclass is not ABCMeta


NonEmpty: TypeAlias = Annotated[str, Meta(min_length=1)]

JSON: Final = Notation("an object")
TOML: Final = Notation("a table", first=1)
YAML: Final = Notation("a mapping")


def convert(value: object, kind: type[_T], path: KeyPath = (), notation: Notation = JSON) -> _T:
    """``value``, which stands at ``path`` of a document, as ``kind``.

    :class:`MalformedDocumentError` with the whole path if it is no such value; ``notation`` gives the error's words.
    """
    try:
        return _convert(value, kind, notation)
    except MalformedDocumentError as error:
        place = (*path, *error.path) or ("the document",)
        raise MalformedDocumentError(error.reason, place, remedy=error.remedy) from error.__cause__


def parse_strict(raw: bytes, kind: type[_T], what: str) -> _T:
    """A JSON text without repeated keys, as ``kind``; ``what`` names it in the :class:`MalformedDocumentError`."""
    return convert(parse_strict_json(raw, what), kind)


def _convert(value: object, kind: type[_T], notation: Notation) -> _T:
    read = partial(_read_custom, notation)
    try:
        return msgspec.convert(value, kind, dec_hook=read)
    except msgspec.ValidationError:
        pass
    try:
        # msgspec gives the path only in the text of its message, and no path for the topmost value. In an array each
        # value has one, at the end of the message, where a key from the document that looks like a path cannot be
        # mistaken for it. This happens only after an error, so that valid documents are converted once.
        msgspec.convert([value], GenericAlias(tuple, (kind,)), dec_hook=read)
    except msgspec.ValidationError as error:
        text, at, found = str(error).rpartition(" - at `$[0]")
        if not at:  # "at `key` in `$[0]`"; only YAML has such keys
            raise MalformedDocumentError("each key must be a string") from error
        path = tuple(key or int(position) for key, position in _STEP.findall(found.removesuffix("`")))
        explained = _explain(text, error.__cause__, _Place(value, kind, path), notation)
        place = tuple(step + notation.first if isinstance(step, int) else step for step in path)
        reason = explained.reason
        if "[...]" in found:  # msgspec does not say which key of a mapping by name
            reason = reason.replace("must be", "each value must be", 1)
        raise MalformedDocumentError(reason, (*place, *explained.path), remedy=explained.remedy) from error
    raise AssertionError("msgspec accepted what it had refused")


def _read_custom(notation: Notation, kind: Any, value: object) -> object:
    """A value of a type that msgspec does not know, made from the type in which documents have it."""
    if kind is Path:
        text = _convert(value, str, notation)
        if not text.startswith("/") or "\0" in text:
            raise MalformedDocumentError("must be an absolute path")
        return Path(text)
    return kind.read(_convert(value, kind.WRITTEN, notation))


class _Place(Struct, frozen=True):
    """The ``path`` of an error in ``value``, which should be a ``kind``."""

    value: Any
    kind: Any
    path: KeyPath

    @property
    def found(self) -> object:
        """The value at the path."""
        found = self.value
        for step in self.path:
            found = found[step]
        return found

    def declared(self, path: KeyPath) -> list[msgspec.inspect.Type]:
        """The types that are declared for ``path``: several if it is a union."""
        types = _options(msgspec.inspect.type_info(self.kind))
        for step in path:
            below = [_item_type(one, step) for one in types]
            types = [option for one in below if one is not None for option in _options(one)]
        return types

    def known_keys(self) -> list[str]:
        """The keys that are declared at the path; none if they depend on a tag."""
        structs = [one for one in self.declared(self.path) if isinstance(one, msgspec.inspect.StructType)]
        return sorted(field.encode_name for field in structs[0].fields) if len(structs) == 1 else []

    def known_values(self) -> list[str]:
        """The values of a ``Literal``, or the tags of a tagged union."""
        values = [value for one in self.declared(self.path) for value in getattr(one, "values", ())]
        tags = [one.tag for one in self.declared(self.path[:-1]) if isinstance(one, msgspec.inspect.StructType)]
        return [str(value) for value in values or tags if value != ""]


def _options(one: msgspec.inspect.Type) -> list[msgspec.inspect.Type]:
    return list(one.types) if isinstance(one, msgspec.inspect.UnionType) else [one]


def _item_type(one: msgspec.inspect.Type, step: str | int) -> msgspec.inspect.Type | None:
    if isinstance(one, msgspec.inspect.StructType):
        return next((field.type for field in one.fields if field.encode_name == step), None)
    return getattr(one, "item_type", None)


def _explain(text: str, cause: BaseException | None, place: _Place, notation: Notation) -> MalformedDocumentError:
    """msgspec's message ``text`` in plain words. ``cause`` is an error that ``read`` or ``__post_init__`` raised."""
    if isinstance(cause, MalformedDocumentError):
        return cause
    reason, remedy = text, None
    below: KeyPath = ()
    if match := _MISSING.fullmatch(text):
        reason, below = "missing", (match[1],)
    elif match := _UNKNOWN.fullmatch(text):
        is_legible = match[1].isprintable() and len(match[1]) <= _LONGEST_KEY
        reason, below = "unknown key", (match[1] if is_legible else shown(match[1]),)
        remedy = f"known here: {', '.join(known)}" if (known := place.known_keys()) else None
    elif match := _MISMATCH.fullmatch(text):
        kinds = [kind for kind in match[1].split(" | ") if kind != "null"]
        if "float" in kinds and "int" in kinds:
            kinds.remove("int")  # "a number" says both
        reason = f"must be {' or '.join(map(notation.noun, kinds))}, not {notation.noun(match[2])}"
    elif text.endswith("of length >= 1"):
        reason = "must not be empty"
    elif text.startswith("Invalid"):
        reason = f"{shown(str(place.found))} is none of {', '.join(place.known_values())}"
    return MalformedDocumentError(reason, below, remedy=remedy)


# --- types of values --------------------------------------------------------------------------------------------------


class Base64(bytes):
    """Bytes that documents have as standard base64 (RFC 4648 section 4)."""

    __slots__ = ()
    WRITTEN: ClassVar[Any] = str

    @classmethod
    def read(cls, text: str) -> Self:
        """See :func:`decode_base64`."""
        return cls(decode_base64(text))


class Int64(int):
    """A whole number of 64 bits. ``1.0`` is one as well, because JSON has a single type of number."""

    WRITTEN: ClassVar[Any] = int | float

    @classmethod
    def read(cls, number: float) -> Self:
        """``number`` as such a value; :class:`MalformedDocumentError` if it is none."""
        if number != (whole := int(number)):
            raise MalformedDocumentError("must be an integer, not a number with a fraction")
        if whole not in _INT64:
            raise MalformedDocumentError("must be an integer of 64 bits")
        return cls(whole)


class Seconds(float):
    """A duration in seconds, finite and not negative."""

    WRITTEN: ClassVar[Any] = Any

    @classmethod
    def read(cls, value: object) -> Self:
        """``value`` as such a duration; :class:`MalformedDocumentError` if it is none. Booleans are none."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise MalformedDocumentError("must be a number of seconds, 0 or more")
        return cls(value)


def decode_base64(text: str) -> bytes:
    """The bytes of standard base64 (RFC 4648 section 4) with exact padding. Line breaks are ignored.

    :class:`MalformedDocumentError` for any other text.
    """
    joined = text.replace("\n", "").replace("\r", "")
    if not _BASE64.fullmatch(joined):  # b64decode allows surplus padding even when it validates
        raise MalformedDocumentError("not base64")
    return base64.b64decode(joined)


# --- what may have any form -------------------------------------------------------------------------------------------


def fold_keys(value: object, kind: type[Struct]) -> object:
    """An object with the keys of ``kind`` only, as Go reads it: without regard to case, and without null values.

    Of keys that differ in case only, the last counts. A ``value`` that is no object is returned unchanged.
    """
    if not isinstance(value, dict):
        return value
    declared = {key.casefold(): key for key in kind.__struct_encode_fields__}
    folded = {str(key).casefold(): item for key, item in value.items() if item is not None}
    return {declared[key]: item for key, item in folded.items() if key in declared}


def text_of(value: object) -> str:
    """``value`` if it is text, or else ""."""
    return value if isinstance(value, str) else ""


def texts_of(value: object) -> tuple[str, ...]:
    """The items of an array that are text; none if ``value`` is no array."""
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def annotations_of(value: object) -> Mapping[str, str]:
    """The members of an object that are text; none if ``value`` is no object. Null is "", as in Go."""
    if not isinstance(value, dict):
        return {}
    return {key: text or "" for key, text in value.items() if text is None or isinstance(text, str)}
