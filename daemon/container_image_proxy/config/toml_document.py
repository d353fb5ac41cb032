"""TOML documents: parses them, merges several into one, and reads the result as declared types.

For each value of a merged document its file is known, so that an error about the value names that file.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from container_image_proxy.errors import ConfigurationError, MalformedDocumentError
from container_image_proxy.image.documents import TOML, convert

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from container_image_proxy.errors import KeyPath

_T = TypeVar("_T")


class TomlDocument(Struct, frozen=True):
    """Merged values, and for each key path the file that set it. ``file`` is the main file."""

    file: str
    values: Mapping[str, Any]
    origins: Mapping[KeyPath, str]

    def read(self, value: object, kind: type[_T], path: KeyPath = ()) -> _T:
        """``value`` converted to ``kind``; :class:`ConfigurationError` about ``path`` if it is no such value."""
        try:
            return convert(value, kind, path, TOML)
        except MalformedDocumentError as error:
            raise self.error(error.path, error.reason, remedy=error.remedy) from error

    def file_of(self, path: KeyPath) -> str:
        """The file that set the value at ``path``, or else the nearest table above it."""
        ends = range(len(path), 0, -1)
        return next((self.origins[path[:end]] for end in ends if path[:end] in self.origins), self.file)

    def error(self, path: KeyPath, reason: str, *, remedy: str | None = None) -> ConfigurationError:
        """An error about the value at ``path``."""
        key = MalformedDocumentError(reason, path).key
        return ConfigurationError(self.file_of(path), reason, key=key, remedy=remedy)


def parse_toml(raw: bytes, file: str) -> dict[str, Any]:
    """The document as nested dicts; :class:`ConfigurationError` with line and column if it is no TOML."""
    try:
        return tomllib.loads(raw.decode("utf-8-sig"))  # some editors begin a file with a byte order mark
    except (ValueError, RecursionError) as error:  # ValueError itself: an integer of thousands of digits
        is_syntax = isinstance(error, tomllib.TOMLDecodeError)
        reason = str(error) if is_syntax else "not UTF-8 text, or values beyond all bounds"
        raise ConfigurationError(file, reason) from error


def merge_documents(parts: Sequence[tuple[str, Mapping[str, Any]]]) -> TomlDocument:
    """One document from (file, values) pairs in order: tables are united; of other values the last one counts."""
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
