"""Strict reading of parsed JSON objects: every key is known, every value has its type, nothing is left over.

Used for policy.json and for what signatures carry. Knows nothing of either; raises :class:`InvalidInputError` that
names the place.
"""

from __future__ import annotations

from typing import Final, TypeVar, cast

from container_image_proxy.errors import InvalidInputError
from container_image_proxy.image.documents import decode_base64
from container_image_proxy.policy.key_source import KeySource

_T = TypeVar("_T")
_INT64: Final = range(-(1 << 63), 1 << 63)
_JSON_NAMES = {dict: "an object", list: "an array", str: "a string", int: "an integer"}


class Fields:
    """One JSON object; each key may be taken once, and :meth:`done` complains about those that nobody took."""

    def __init__(self, value: object, place: str) -> None:
        self._left = dict(cast("dict[str, object]", _typed(value, dict, place)))
        self.place = place

    def done(self) -> None:
        """Reject what nobody asked for."""
        if self._left:
            raise self._error(f"unknown key {min(self._left)[:100]!r}")

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that nobody took yet."""
        return tuple(self._left)

    def has(self, key: str) -> bool:
        """Whether ``key`` is there and not taken yet."""
        return key in self._left

    def has_value(self, key: str) -> bool:
        """Whether ``key`` is there, not taken yet, and not null."""
        return self._left.get(key) is not None

    def take(self, key: str) -> object:
        """The value of a key that must be there, as it is."""
        if key not in self._left:
            raise self._error(f"{key!r} is missing")
        return self._left.pop(key)

    def text(self, key: str) -> str:
        """A string that must be there."""
        return _typed(self.take(key), str, self._at(key))

    def integer(self, key: str) -> int:
        """An integer of 64 bits that must be there; a number with an integral value counts, as JSON has one kind."""
        value = self.take(key)
        number = int(value) if isinstance(value, float) and value.is_integer() else _typed(value, int, self._at(key))
        if number not in _INT64:
            raise InvalidInputError(f"{self._at(key)}: must be an integer of 64 bits")
        return number

    def data(self, key: str) -> bytes:
        """Base64-encoded bytes that must be there."""
        return decode_base64(self.text(key), self._at(key))

    def fields(self, key: str) -> Fields:
        """An object that must be there."""
        return Fields(self.take(key), self._at(key))

    def items(self, key: str) -> list[object]:
        """An array that must be there and hold something."""
        return self._list(key, may_be_empty=False)

    def optional_text(self, key: str) -> str | None:
        """A non-empty string, or None if the key is absent."""
        return self._filled(key, self.text(key)) if self.has(key) else None

    def source(
        self, *, path: str, data: str, paths: str = "", datas: str = "", may_be_empty: bool = False
    ) -> KeySource | None:
        """A key source that is written under at most one of up to four keys; ``may_be_empty`` allows a list of none."""
        keys = [key for key in (path, paths, data, datas) if self.has(key)]
        if len(keys) > 1:
            raise self._error(f"only one of {', '.join(keys)} can be used")
        if not keys:
            return None
        (key,) = keys
        values = self._list(key, may_be_empty=may_be_empty) if key in {paths, datas} else [self.take(key)]
        texts = tuple(_typed(value, str, self._at(key)) for value in values)
        if key in {path, paths}:
            return KeySource(paths=tuple(self._filled(key, text) for text in texts))
        return KeySource(datas=tuple(decode_base64(text, self._at(key)) for text in texts))

    def required_source(
        self, *, path: str, data: str, paths: str = "", datas: str = "", may_be_empty: bool = False
    ) -> KeySource:
        """The same, but one must be there."""
        source = self.source(path=path, data=data, paths=paths, datas=datas, may_be_empty=may_be_empty)
        if source is None:
            wanted = ", ".join(filter(None, (path, paths, data, datas)))
            raise self._error(f"exactly one of {wanted} must be given")
        return source

    def _list(self, key: str, *, may_be_empty: bool) -> list[object]:
        items: list[object] = _typed(self.take(key), list, self._at(key))
        if not items and not may_be_empty:
            raise InvalidInputError(f"{self._at(key)}: must not be empty")
        return items

    def _at(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key

    def _error(self, complaint: str) -> InvalidInputError:
        return InvalidInputError(f"{self.place}: {complaint}" if self.place else complaint)

    def _filled(self, key: str, text: str) -> str:
        if not text:
            raise InvalidInputError(f"{self._at(key)}: must not be empty")
        return text


def _typed(value: object, kind: type[_T], place: str) -> _T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InvalidInputError(f"{place or 'the document'}: must be {_JSON_NAMES[kind]}")
    return value
