"""How much of a blob to read at once: fast streams in large pieces, many or slow ones in small pieces.

Owns no bytes and no clock but the monotonic one.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from container_image_proxy.config.limits import CHUNK_SIZE, KIB

_STEP: Final = 64 * KIB  # and the smallest piece
_FAST: Final = 0.002
_SLOW: Final = 0.008


class Pace:
    """The size of each piece of a stream of ``size`` bytes, such that one takes some milliseconds all the way.

    All the way means until the next one is asked for, so that it counts how fast the client takes them and how many
    streams share processors and network. What a stream holds is thus proportional to its speed, and all streams
    together hold little more than one that has the machine for itself. A stream that fits into one chunk is one.
    """

    def __init__(self, size: int) -> None:
        self._size = CHUNK_SIZE if size <= CHUNK_SIZE else _STEP
        self._last: float | None = None

    def next(self) -> int:
        """How many bytes to read now, at most ``CHUNK_SIZE``; to be called right before each read."""
        now = monotonic()
        if self._last is not None:
            self._size = _next_size(self._size, now - self._last)
        self._last = now
        return self._size


def _next_size(size: int, seconds: float) -> int:
    if seconds < _FAST:
        return min(CHUNK_SIZE, size + _STEP)
    return max(_STEP, size - _STEP) if seconds > _SLOW else size
