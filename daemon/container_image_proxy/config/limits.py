"""How long, how often and how much: the bounds of talking to registries.

Plain numbers; nothing here reads the environment or a file. What a document may hold is bounded where it is parsed,
what a client may take by ``faces/http/limits.py``.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from container_image_proxy.image.manifest import MAX_MANIFEST_SIZE

KIB: Final = 1024
MIB: Final = 1024 * KIB


class Limits(Struct, frozen=True):
    """Bounds for talking to registries. Times in seconds, sizes in bytes, rates in bytes per second."""

    connect_timeout: float = 10.0
    """Name resolution and TCP connect together; the TLS handshake has as long again."""
    first_byte_timeout: float = 45.0
    """From the request to the end of the answer's head. A pull-through cache asks its own upstream in that time."""
    idle_timeout: float = 30.0
    """The longest wait for a next byte of a body."""
    minimum_rate: float = 8 * KIB
    """Of a body. Waiting uses up ``idle_timeout``, and each byte gives time back at this rate. A source that only drips
    counts as dead after that time.
    """

    answer_timeout: float = 150.0
    """From a request to the end of its answer's head, with all logins, redirects and protocols on the way."""

    attempts: int = 6
    """How often every source of an image is tried before a request fails; progress starts the count anew."""
    backoff: float = 0.5
    """The first pause between two rounds over the sources; each following one is twice as long, with jitter."""
    longest_pause: float = 60.0
    """The cap on a single pause, also when ``Retry-After`` asks for more."""
    total_pause: float = 120.0
    """The cap on all pauses of one request together."""
    total_time: float = 300.0
    """No further round begins so long after the first failure that was not overcome."""
    endpoint_rest: float = 60.0
    """For so long an endpoint that could not be reached is asked only after all others."""
    endpoint_distrust: float = 3600.0
    """The same for an endpoint that sent other content than was asked for, a mirror whose disk is damaged for one."""

    redirects: int = 10
    manifest_size: int = MAX_MANIFEST_SIZE
    token_size: int = 1 * MIB
    error_size: int = 64 * KIB
    """Of an error's body only the codes are of interest."""
    discarded: int = 64 * MIB
    """How much of a blob may be fetched again and thrown away because a server ignores ``Range``."""
    connections: int = 8
    """Idle connections kept for each host; more may be open at a time."""

    minimum_token_lifetime: float = 60.0
    """Shorter lives of tokens are not believed, as the ecosystem does."""
