"""The time as HTTP writes it."""

from __future__ import annotations

import functools
import time


def http_date() -> str:
    """Now, for ``Date`` (RFC 9110 sections 5.6.7 and 6.6.1)."""
    return _format(int(time.time()))


@functools.lru_cache(maxsize=1)
def _format(seconds: int) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(seconds))
