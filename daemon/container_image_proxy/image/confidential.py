"""Values that have secrets in them."""

from __future__ import annotations

from msgspec import Struct


class Confidential(Struct, frozen=True):
    """A frozen value whose ``repr`` shows no member, so that none gets into a log or a traceback."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"
