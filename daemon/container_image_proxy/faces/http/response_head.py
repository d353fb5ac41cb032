"""The head of an answer: the one place that makes one, and dates it. h11 writes it (RFC 9112 section 4)."""

from __future__ import annotations

import functools
import re
import time
from typing import Final

import h11

_STATUS: Final = re.compile(r"[2-9][0-9]{2} [ -~]*")
_SHOWN: Final = 50


def response_head(status: str, headers: tuple[tuple[str, str], ...], *, last: bool) -> h11.Response:
    """The head with ``status`` ("200 OK") and ``headers`` as of now; after the ``last`` one the connection closes."""
    return _response_head(status, headers, _http_date(int(time.time())), last=last)


def serialise(head: h11.Response) -> bytes:
    """A head that answers no request: the first and last thing on its connection."""
    return h11.Connection(h11.SERVER).send(head) or b""


@functools.lru_cache(maxsize=32)
def _response_head(status: str, headers: tuple[tuple[str, str], ...], date: str, *, last: bool) -> h11.Response:
    """Those of a manifest are all alike, and h11 takes its time to validate one."""
    if not _STATUS.fullmatch(status):
        raise ValueError(f"{status[:_SHOWN]!r} is not a status line")
    fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    fields.append((b"Date", date.encode("ascii")))
    if last:
        fields.append((b"Connection", b"close"))
    return h11.Response(status_code=int(status[:3]), reason=status[4:].encode("latin-1"), headers=fields)


@functools.lru_cache(maxsize=1)
def _http_date(seconds: int) -> str:
    """For ``Date`` (RFC 9110 sections 5.6.7 and 6.6.1)."""
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(seconds))
