"""Reading TOML tables strictly: every value has its type, every key is known, every complaint names file and key.

A document may be merged from several files; each value remembers the file that it came from.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct, field

from container_image_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")
KeyPath = tuple[str, ...]


class TomlDocument(Struct, frozen=True):
    """Merged values and, for each key path, the file that set it."""

    file: str
    values: Mapping[str, Any]
    origins: Mapping[KeyPath, str]


def parse_toml(raw: bytes, file: str) -> dict[str, Any]:
    """The document as nested dicts; :class:`ConfigurationError` with line and column if it is not TOML."""
    try:
        return tomllib.loads(raw.decode("utf-8-sig"))  # some editors begin a file with a byte order mark
    except (ValueError, RecursionError) as error:  # ValueError itself: an integer of thousands of digits
        reason = (
            str(error) if isinstance(error, tomllib.TOMLDecodeError) else "not UTF-8 text, or values beyond all bounds"
        )
        raise ConfigurationError(file, reason) from error


def merge_documents(parts: Sequence[tuple[str, Mapping[str, Any]]]) -> TomlDocument:
    """Merge (file, values) pairs in order: tables are united, of any other value the last one stands."""
    values: dict[str, Any] = {}
    origins: dict[KeyPath, str] = {}
    for file, part in parts:
        _merge(values, part, file, origins, ())
    return TomlDocument(parts[0][0], values, origins)


def _merge(
    into: dict[str, Any], part: Mapping[str, Any], file: str, origins: dict[KeyPath, str], path: KeyPath
) -> None:
    for key, value in part.items():
        here = (*path, key)
        origins[here] = file
        if isinstance(value, dict) and isinstance(into.setdefault(key, {}), dict):
            _merge(into[key], value, file, origins, here)
        else:
            into[key] = value


class TomlTable(
    Struct,
):
    """One table being read. Ask for each key that may be there, then call :meth:`finish`."""

    document: TomlDocument
    values: Mapping[str, Any]
    path: KeyPath = ()
    _read: set[str] = field(default_factory=set)

    @classmethod
    def root(cls, document: TomlDocument) -> TomlTable:
        """The document's top table."""
        return cls(document, document.values)

    def get(self, key: str, kind: type[T]) -> T | None:
        """The value of ``key`` if there is one; it must be of ``kind`` exactly (a boolean is no integer)."""
        self._read.add(key)
        value = self.values.get(key)
        if value is not None and type(value) is not kind:
            raise self.error(key, f"must be {_KIND_NAMES[kind]}, not {_KIND_NAMES.get(type(value), 'a date or time')}")
        return value

    def number(self, key: str) -> float | None:
        """An integer or float that is finite and not negative."""
        self._read.add(key)
        value = self.values.get(key)
        if value is None:
            return None
        if type(value) not in (int, float) or not 0 <= value < float("inf"):
            raise self.error(key, "must be a number of seconds, 0 or more")
        return float(value)

    def array(self, key: str, kinds: tuple[type, ...]) -> tuple[Any, ...] | None:
        """An array whose items are all of one of ``kinds``."""
        values = self.get(key, list)
        if values is None:
            return None
        wrong = next((value for value in values if type(value) not in kinds), None)
        if wrong is not None:
            allowed = " and ".join(_PLURALS[kind] for kind in kinds)
            raise self.error(key, f"may hold {allowed} only, not {_KIND_NAMES.get(type(wrong), 'a date or time')}")
        return tuple(values)

    def table_array(self, key: str) -> tuple[TomlTable, ...]:
        """The tables of a ``[[key]]`` array, counted from 1 in complaints; an absent one reads as empty."""
        items = self.array(key, (dict,)) or ()
        return tuple(TomlTable(self.document, item, (*self.path, f"{key}[{n}]")) for n, item in enumerate(items, 1))

    def table(self, key: str) -> TomlTable:
        """A table in this table; an absent one reads as empty."""
        return TomlTable(self.document, self.get(key, dict) or {}, (*self.path, key))

    def tables(self) -> dict[str, TomlTable]:
        """All values of this table, which must be tables, by name."""
        return {key: self.table(key) for key in self.values}

    def unknown(self) -> tuple[str, ...]:
        """The keys that nobody asked for."""
        return tuple(key for key in self.values if key not in self._read)

    def finish(self) -> None:
        """Complain about the first key that nobody asked for."""
        for key in self.unknown():
            known = ", ".join(sorted(self._read))
            raise self.error(key, "unknown key", remedy=f"known here: {known}" if known else None)

    def place(self, key: str) -> tuple[str, str]:
        """Which file set ``key`` of this table, and the key's full path."""
        path = (*self.path, key)
        origins = self.document.origins
        file = next(
            (origins[path[:end]] for end in range(len(path), 0, -1) if path[:end] in origins), self.document.file
        )
        return file, ".".join(path)

    def error(self, key: str, reason: str, *, remedy: str | None = None) -> ConfigurationError:
        """A complaint about ``key`` of this table."""
        file, path = self.place(key)
        return ConfigurationError(file, reason, key=path, remedy=remedy)


_KIND_NAMES: dict[type, str] = {
    str: "a string", int: "an integer", float: "a float", bool: "true or false", list: "an array", dict: "a table",
}  # fmt: skip
_PLURALS: dict[type, str] = {str: "strings", int: "integers", dict: "tables"}
