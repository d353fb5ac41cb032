"""How long the kernel lets a thread wait for a socket, by SO_RCVTIMEO and SO_SNDTIMEO (socket(7))."""

from __future__ import annotations

import struct
from typing import Final

_LEAST: Final = 0.001  # seconds; of none the kernel makes for ever


def timeval(seconds: float) -> bytes:
    """The option's value: a ``struct timeval`` of so long, a millisecond at least."""
    whole, part = divmod(max(seconds, _LEAST), 1)
    return struct.pack("ll", int(whole), int(part * 1e6))
