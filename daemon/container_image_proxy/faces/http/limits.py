"""What one client may take from the socket side, in numbers."""

from __future__ import annotations

from msgspec import Struct


class ServerLimits(Struct, frozen=True):
    """Bounds in count, bytes and seconds; the defaults fit a host with a handful of clients."""

    connections: int = 128
    """Each may have 1 MiB of a blob in memory, and the unit has ``MemoryMax=256M``."""
    connections_per_uid: int = 64
    head_bytes: int = 64 * 1024
    head_seconds: float = 10.0
    """Seconds from the first to the last byte of a request head; also how long a new connection may stay silent."""
    keep_alive_seconds: float = 75.0
    """Seconds that a connection may stay silent after an answer."""
    send_seconds: float = 60.0
    """Seconds that a client may leave a full send buffer unread."""
    linger_seconds: float = 1.0
    """Seconds that a refused client gets to read its answer before the connection goes."""
    retry_after_seconds: int = 1
    """Seconds after which a client that met a cap may come back."""
    accept_pause_seconds: float = 1.0
    """How long nothing is accepted when the system has no descriptors or memory left, unless a connection ends."""
    drain_seconds: float = 60.0
    """Seconds that running requests get after a stop."""
    idle_exit_seconds: float = 0.0
    """Seconds without any connection after which the server ends; 0: never."""
