"""Range requests: which bytes of a blob a client asks for, and what an answer says of them. Pure.

One range of bytes is understood. Several ranges, and other units, are ignored, as RFC 9110 section 14.2 allows.
Spec: RFC 9110 sections 13.1.5 and 14.
"""

from __future__ import annotations

import re
from typing import Final

from container_image_proxy.errors import UnsatisfiableRangeError

_UNIT: Final = re.compile(r"(?i:bytes)=(.*)", re.DOTALL)
_NUMBER = r"([0-9]+)"
_MOST_DIGITS: Final = 19  # as many as 2**63 has; int() refuses more than 4300, and takes quadratic time
_RANGE: Final = re.compile(rf"[ \t]*(?:{_NUMBER}-(?:{_NUMBER})?|-{_NUMBER})[ \t]*")


def parse_range(value: str | None, size: int) -> range | None:
    """The bytes that a ``Range`` means in content of ``size`` bytes; None if the whole is to be sent.

    Raises :class:`UnsatisfiableRangeError` for a range that is malformed, or begins behind the end.
    """
    unit = _UNIT.fullmatch(value) if value is not None else None
    if unit is None or "," in unit[1]:
        return None
    match = _RANGE.fullmatch(unit[1])
    if match is None:
        raise UnsatisfiableRangeError("the range is malformed: bytes=FIRST-[LAST] or bytes=-COUNT is asked for", size)
    first, last, count = (None if text is None else _number(text) for text in match.groups())
    if first is None:
        span = range(max(0, size - (count or 0)), size)
    else:
        span = range(first, size if last is None else min(last + 1, size))
        if last is not None and last < first:
            raise UnsatisfiableRangeError("the range is malformed: it ends before it begins", size)
    if not span:
        raise UnsatisfiableRangeError(f"the range begins behind the {size} bytes that there are", size)
    return span


def may_resume(if_range: str | None, etag: str) -> bool:
    """Whether a range counts, by ``If-Range`` (RFC 9110 section 13.1.5, strong comparison). It does without one.

    With a date it never does: no answer of ours says when something was modified.
    """
    return if_range is None or if_range.strip() == etag


def content_range(span: range, size: int) -> str:
    """The value of ``Content-Range`` for the bytes in ``span`` (RFC 9110 section 14.4)."""
    return f"bytes {span.start}-{span.stop - 1}/{size}"


def _number(digits: str) -> int:
    """The number, or a number that is larger than any size if it has too many digits."""
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS
