"""What one client may take from the socket side, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds in count, bytes and seconds; the defaults fit a host with a handful of clients."""

    connections: int = 256
    connections_per_uid: int = 64
    head_bytes: int = 64 * 1024
    head_seconds: float = 10.0
    """For a whole request head, counted from the accept or, on a kept connection, from its first byte."""
    keep_alive_seconds: float = 75.0
    send_seconds: float = 60.0
    """How long a client may leave a full send buffer unread."""
    linger_seconds: float = 1.0
    """How long a refused client gets to read its answer before the connection goes."""
    drain_seconds: float = 60.0
    idle_exit_seconds: float = 0.0
    """Without any connection for this long the server ends; 0: never."""
    retry_after_seconds: int = 1
