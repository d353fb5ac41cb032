"""How much the clients of this protocol may take, and the bound on what they hold open together."""

from __future__ import annotations

import threading
from typing import Final

from msgspec import Struct

from container_image_proxy.errors import OverloadedError

PIPE_SIZE: Final = 256 * 1024
"""Bytes that a pipe takes before anybody reads. A user may have 256 such pipes (pipe(7), pipe-user-pages-soft)."""

SMALL_PIPE: Final = 64 * 1024
"""Bytes that a pipe takes by default (pipe(7))."""

LEFT_BEHIND: Final = 16 << 20
"""Bytes at the end of a blob, but at most an eighth of it, that a client may leave unread and still gets a verdict."""


class ImageProxyLimits(Struct, frozen=True):
    """Bounds in count, bytes and seconds. The defaults are for an instance, which has clients of several users."""

    transfers: int = 64
    """Transfers under way, of all clients. Each has a thread, up to 1 MiB of a blob, and a pipe."""
    transfers_per_client: int = 32
    verdicts: int = 1024
    """Ended transfers of a client that no ``FinishPipe`` has asked about. Older ones are forgotten."""
    images_per_client: int = 64
    held_bytes: int = 32 << 20
    """Bytes of the manifests of open images, and of documents on their way, of all clients."""
    greeting_seconds: float | None = 10.0
    """Seconds that a new client may be silent; None for any time. After its first message any client may be silent."""
    opening_seconds: float = 2.0
    """Seconds that the answer to ``GetBlob`` waits for the source. ``FinishPipe`` tells what goes wrong later."""
    send_seconds: float = 60.0
    """Seconds that a client may leave a full pipe, or an answer, unread."""


STAND_ALONE: Final = ImageProxyLimits(
    transfers=256, transfers_per_client=256, images_per_client=256, greeting_seconds=None
)
"""For a process with one client: as many pipes as 1024 descriptors allow, and any time to begin."""


class Room:
    """A number of bytes that may be held at a time. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._lock = threading.Lock()
        self._left = size

    def take(self, size: int) -> None:
        """Hold ``size`` bytes more. Raises :class:`OverloadedError` if there is no room for them."""
        with self._lock:
            if size > self._left:
                raise OverloadedError("too much is held open for clients at the moment: close images, finish pipes")
            self._left -= size

    def give_back(self, size: int) -> None:
        """Hold ``size`` bytes less."""
        with self._lock:
            self._left += size
