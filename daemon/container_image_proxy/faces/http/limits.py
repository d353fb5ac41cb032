"""How much clients may take from the server."""

from __future__ import annotations

from msgspec import Struct


class ServerLimits(Struct, frozen=True):
    """Bounds in count, bytes and seconds. The defaults are for a host with a handful of clients."""

    connections: int = 128
    """Each connection may have 1 MiB of a blob in memory, and the unit has ``MemoryMax=256M``."""
    connections_per_uid: int = 64
    """Half of all, so that one user cannot keep everybody else out."""
    head_bytes: int = 64 * 1024
    """Bytes of a request's head. h11 allows 16 KiB by default, and other servers 8 to 64 KiB."""
    head_seconds: float = 10.0
    """Seconds from the first to the last byte of a request head, and before the first byte of a new connection."""
    keep_alive_seconds: float = 75.0
    """Seconds that a connection may stay silent after an answer."""
    send_seconds: float = 60.0
    """Seconds that a client may leave a full send buffer unread."""
    linger_seconds: float = 1.0
    """Seconds that a refused client has to read its answer before the connection is closed."""
    retry_after_seconds: int = 1
    """Seconds after which a client that was one too many may come back."""
    accept_pause_seconds: float = 1.0
    """Seconds without accepting when the system has no descriptors or memory left, unless a connection ends before."""
    drain_seconds: float = 60.0
    """Seconds that running requests have after a stop."""
    idle_exit_seconds: float = 0.0
    """Seconds without any connection after which the server ends; 0 for never."""
