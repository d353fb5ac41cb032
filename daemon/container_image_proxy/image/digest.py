"""Content digests: parses, computes and compares them (OCI image-spec, descriptor.md "Digests").

Only the registered algorithms sha256 and sha512 are supported. A digest of another algorithm is an error, because
nothing could be verified by it.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.errors import InvalidDigestError, shown

if TYPE_CHECKING:
    from hashlib import _Hash

HEX_LENGTHS: Final = {"sha256": 64, "sha512": 128}
_SHORTEST_PREFIX: Final = 7
"""Hex digits of an abbreviated digest. git has the same minimum for its own use; fewer are soon ambiguous."""
_LOWER_HEX: Final = re.compile(r"[0-9a-f]+")


class Digest(Struct, frozen=True, order=True):
    """A digest: a supported algorithm, and lower-case hex of its length.

    :class:`InvalidDigestError` for other values.
    """

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        if HEX_LENGTHS.get(self.algorithm) != len(self.hex) or not _LOWER_HEX.fullmatch(self.hex):
            raise InvalidDigestError(_is_no_digest(str(self)))

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    def hasher(self) -> _Hash:
        """A fresh hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm, usedforsecurity=True)

    def matches(self, data: bytes | memoryview) -> bool:
        """Whether ``data`` has this digest."""
        return digest_of(data, self.algorithm) == self


def parse_digest(text: str) -> Digest:
    """A digest from ``algorithm:hex``; :class:`InvalidDigestError` for any other text."""
    algorithm, _, digits = text.partition(":")
    try:
        return Digest(algorithm, digits)
    except InvalidDigestError as error:
        raise InvalidDigestError(_is_no_digest(text)) from error


def _is_no_digest(text: str) -> str:
    return f"{shown(text)} is not sha256:<64 hex digits> or sha512:<128 hex digits>"


def parse_digest_prefix(text: str) -> str:
    """``text`` if it is a digest, or the beginning of one with at least 7 hex digits.

    :class:`InvalidDigestError` otherwise.
    """
    algorithm, _, digits = text.partition(":")
    missing = HEX_LENGTHS.get(algorithm, 0) - len(digits)
    try:  # zeros in place of the missing digits, so that the given ones are checked
        parse_digest(text + "0" * missing if len(digits) >= _SHORTEST_PREFIX else text)
    except InvalidDigestError as error:
        raise InvalidDigestError(
            f"{_is_no_digest(text)}, nor the beginning of one with {_SHORTEST_PREFIX} hex digits or more"
        ) from error
    return text


def digest_of(data: bytes | memoryview, algorithm: str = "sha256") -> Digest:
    """The digest of ``data`` by ``algorithm`` (sha256 or sha512)."""
    return Digest(algorithm, hashlib.new(algorithm, data).hexdigest())
