"""Values of the socket options SO_RCVTIMEO and SO_SNDTIMEO, by which the kernel limits waits (socket(7))."""

from __future__ import annotations

import struct
from typing import Final

_LEAST: Final = 0.001  # seconds; the kernel takes 0 for "no limit"


def timeval(seconds: float) -> bytes:
    """A ``struct timeval`` of ``seconds``, but at least a millisecond."""
    whole, part = divmod(max(seconds, _LEAST), 1)
    return struct.pack("ll", int(whole), int(part * 1e6))
