"""Reading the response headers that this client acts on, and the grammar that they have in common. Pure.

Must not ask the clock: a date is read relative to a time that is given. Spec: RFC 9110 sections 5.6, 8.3, 10.2.3 and
14.4, RFC 8288, OCI distribution-spec "Warnings".
"""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from typing import Final

from msgspec import Struct

from container_image_proxy.errors import RegistryError

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
_CONTENT_LENGTH: Final = re.compile(r"\d{1,19}", re.ASCII)
# RFC 9110 section 5.6: tokens and quoted strings, of which every list and parameter is made.
TCHAR: Final = r"!#$%&'*+\-.^_`|~0-9A-Za-z"
TOKEN: Final = rf"[{TCHAR}]+"
QUOTED_CONTENT: Final = r'(?:[^"\\]|\\.)*'
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)

_PARAMETER: Final = rf'\s*;\s*{TOKEN}=(?:{TOKEN}|"{QUOTED_CONTENT}")'
_MEDIA_TYPE: Final = re.compile(rf"\s*({TOKEN}(?:/{TOKEN})?)(?:{_PARAMETER})*\s*(?:;\s*)?")
# A warning goes into the log: one with control characters, which HTTP does not allow there, is none.
_WARNING: Final = re.compile(r'299 - "((?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[^\x00-\x08\x0a-\x1f\x7f])*)"')
_LINK: Final = re.compile(rf"<([^<>]*)>((?:{_PARAMETER})*)")
_IS_NEXT: Final = re.compile(r';\s*rel=("?)next\1\s*(?:;|$)', re.IGNORECASE)
_SECONDS: Final = re.compile(r"\s*\d+(?:\.\d+)?\s*", re.ASCII)
_LONGEST_RETRY_AFTER: Final = 24 * 3600.0  # seconds, which is still a useful answer; some servers send years


class ContentRange(Struct, frozen=True):
    """RFC 9110 section 14.4: the first and last byte sent, and the whole's size if the server knows it."""

    first: int
    last: int
    complete: int | None


def unquote(content: str) -> str:
    """The value of a quoted string, given the text between its quotes (RFC 9110 section 5.6.4)."""
    return _ESCAPE.sub(r"\1", content)


def parse_content_range(value: str) -> ContentRange:
    """Read ``bytes 1000-1010/2000`` (RFC 9110 section 14.4). Raises :class:`RegistryError` for anything else."""
    match = _CONTENT_RANGE.fullmatch(value)
    if not match:
        raise RegistryError("the Content-Range of a partial answer cannot be read")
    return ContentRange(int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3]))


def parse_content_length(value: str) -> int | None:
    """The number of bytes in a ``Content-Length`` (RFC 9110 section 8.6); None for anything that is no number."""
    return int(value) if _CONTENT_LENGTH.fullmatch(value) else None


def parse_media_type(value: str) -> str:
    """The media type of a ``Content-Type``, lower case and without parameters; empty if the value is malformed."""
    match = _MEDIA_TYPE.fullmatch(value)
    return match[1].lower() if match else ""


def parse_warning(value: str) -> str:
    """The text of a ``Warning: 299 - "..."`` (OCI distribution-spec, Warnings); empty for every other warning."""
    match = _WARNING.fullmatch(value)
    return unquote(match[1]) if match else ""


def parse_next_link(value: str) -> str | None:
    """The URL, perhaps a relative one, that a ``Link`` has for ``rel=next`` (RFC 8288); None without one."""
    return next((link[1] for link in _LINK.finditer(value) if _IS_NEXT.search(link[2])), None)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """The seconds to wait by a ``Retry-After`` that was received at ``now`` (Unix time), at most a day.

    None without one, for anything that is neither seconds nor a date, and for the past (RFC 9110 section 10.2.3).
    """
    if value is None:
        return None
    try:
        if _SECONDS.fullmatch(value):
            seconds = float(value)
        else:
            date = email.utils.parsedate_to_datetime(value)
            # The oldest of the three formats names no zone: all are in UTC (RFC 9110 section 5.6.7).
            seconds = (date if date.tzinfo else date.replace(tzinfo=dt.UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return None
    return min(seconds, _LONGEST_RETRY_AFTER) if seconds >= 0 else None
