"""Structured documents as declared types: a parsed JSON, TOML or YAML value becomes a frozen Struct, or an error.

Owns the one conversion and the words of its errors. Parsing the bytes, and finding keys that are there twice, is
:mod:`strict_json`'s. A type that decides is declared with ``forbid_unknown_fields``; one that does not ignores what it
does not know.
"""

from __future__ import annotations

import base64
import re
from typing import Final, TypeVar

import msgspec

from container_image_proxy.errors import InvalidInputError

T = TypeVar("T")
_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


def convert(value: object, kind: type[T], place: str = "") -> T:
    """``value`` as ``kind``; :class:`InvalidInputError` names the key below ``place`` and what was expected of it."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        key = f"{place}{path.rstrip('`')}".removeprefix(".")
        raise InvalidInputError(f"{key}: {reason}" if key else reason) from error


def decode_base64(text: str, place: str) -> bytes:
    """Standard base64 with its padding, no more and no less; line breaks are allowed, anything else outside the
    alphabet is not.
    """
    joined = text.replace("\n", "").replace("\r", "")
    if not _BASE64.fullmatch(joined):  # b64decode allows surplus padding even when it validates
        raise InvalidInputError(f"{place}: not base64")
    return base64.b64decode(joined)
