"""The head of an answer. This is the one place that makes one and dates it; h11 writes it.

Spec: RFC 9112 section 4, RFC 9110 section 6.6.1.
"""

from __future__ import annotations

import functools
import re
import time
from typing import Final

import h11

_STATUS: Final = re.compile(r"[2-9][0-9]{2} [ -~]*")
_SHOWN: Final = 50


def response_head(status: str, headers: tuple[tuple[str, str], ...], *, last: bool) -> h11.Response:
    """The head with ``status`` ("200 OK") and ``headers``, dated now. It says whether the connection closes after it.

    Raises ``ValueError`` for what is no status line of a final answer.
    """
    return _response_head(status, headers, _http_date(int(time.time())), last=last)


def serialise(head: h11.Response) -> bytes:
    """The bytes of a head that answers no request that h11 knows. The connection must close after it."""
    return h11.Connection(h11.SERVER).send(head) or b""


@functools.lru_cache(maxsize=32)
def _response_head(status: str, headers: tuple[tuple[str, str], ...], date: str, *, last: bool) -> h11.Response:
    """As :func:`response_head`. Cached, because h11's validation costs more than everything else in a short answer."""
    if not _STATUS.fullmatch(status):
        raise ValueError(f"{status[:_SHOWN]!r} is not a status line")
    fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    fields.append((b"Date", date.encode("ascii")))
    if last:
        fields.append((b"Connection", b"close"))
    return h11.Response(status_code=int(status[:3]), reason=status[4:].encode("latin-1"), headers=fields)


@functools.lru_cache(maxsize=1)
def _http_date(seconds: int) -> str:
    """The value of ``Date`` for Unix time (RFC 9110 section 5.6.7)."""
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(seconds))
