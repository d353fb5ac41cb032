"""What the clients of this protocol may take, in numbers, and the bound on what they hold open together."""

from __future__ import annotations

import threading
from typing import Final

from msgspec import Struct

from container_image_proxy.errors import OverloadedError

PIPE_SIZE: Final = 256 * 1024
"""Bytes that a pipe takes before somebody reads. Any user may have 256 such pipes (pipe(7), pipe-user-pages-soft)."""

SMALL_PIPE: Final = 64 * 1024
"""What the kernel gives a pipe by itself."""

LEFT_BEHIND: Final = 16 << 20
"""Bytes at the end of a blob, an eighth of it at most, that a client need not read to be told whether it was right."""


class ImageProxyLimits(Struct, frozen=True):
    """Bounds in count, bytes and seconds; the defaults are those of an instance, which has clients of several users."""

    transfers: int = 64
    """Transfers under way, over all clients: each has a thread, up to 1 MiB of a blob, and the pipe."""
    transfers_per_client: int = 32
    verdicts: int = 1024
    """What became of transfers that ended and that no ``FinishPipe`` asked about. Older ones are forgotten."""
    images_per_client: int = 64
    held_bytes: int = 32 << 20
    """Of the manifests of open images, and of configurations on their way, over all clients."""
    greeting_seconds: float | None = 10.0
    """How long a new client may be silent; None: for ever. One that has spoken may think as long as it likes."""
    opening_seconds: float = 2.0
    """How long the answer to ``GetBlob`` waits for the source. What goes wrong later is told by ``FinishPipe``."""
    send_seconds: float = 60.0
    """How long a client may leave a full pipe, or an answer, unread."""


STAND_ALONE: Final = ImageProxyLimits(
    transfers=256, transfers_per_client=256, images_per_client=256, greeting_seconds=None
)
"""For the one client of a process of its own: as many pipes as 1024 descriptors allow, and all the time it needs."""


class Room:
    """A number of bytes that may be held. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._lock = threading.Lock()
        self._left = size

    def take(self, size: int) -> None:
        """Hold ``size`` more; :class:`OverloadedError` if there is no room for it."""
        with self._lock:
            if size > self._left:
                raise OverloadedError("too much is held open for clients at the moment: close images, finish pipes")
            self._left -= size

    def give_back(self, size: int) -> None:
        """Hold ``size`` less."""
        with self._lock:
            self._left += size
