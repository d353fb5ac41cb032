"""The limits of requests to registries, in time, number and size.

Limits of a document's content are where it is parsed; limits for clients are in ``faces/http/limits.py``.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from container_image_proxy.image.manifest import MAX_MANIFEST_SIZE

KIB: Final = 1024
MIB: Final = 1024 * KIB


class Limits(Struct, frozen=True):
    """Limits of requests to registries. Times are in seconds, sizes in bytes, rates in bytes per second."""

    connect_timeout: float = 10.0
    """For name resolution and TCP connect together; the TLS handshake has the same time again."""
    first_byte_timeout: float = 45.0
    """From the request to the end of the response's head. A pull-through cache asks its own upstream meanwhile."""
    idle_timeout: float = 30.0
    """The longest wait for the next byte of a body."""
    minimum_rate: float = 8 * KIB
    """Of a body. Waiting uses up ``idle_timeout``, and each byte gives time back at this rate. So a source that sends a
    byte now and then times out as well.
    """

    answer_timeout: float = 150.0
    """From a request to the end of its response's head, with all logins, redirects and protocols in between."""

    attempts: int = 6
    """How often each source of an image is tried before a request fails. Progress resets the count."""
    backoff: float = 0.5
    """The first pause between two rounds over the sources. Each further pause is twice as long, with jitter."""
    longest_pause: float = 60.0
    """Of a single pause, also if ``Retry-After`` asks for more."""
    total_pause: float = 120.0
    """Of all pauses of one request together."""
    total_time: float = 300.0
    """From the first failure since the last progress; no round starts later."""
    endpoint_rest: float = 60.0
    """How long an endpoint that could not be reached is tried after all others."""
    endpoint_distrust: float = 3600.0
    """The same for an endpoint that sent wrong content, for example a mirror with a damaged disk."""

    redirects: int = 10
    manifest_size: int = MAX_MANIFEST_SIZE
    token_size: int = 1 * MIB
    error_size: int = 64 * KIB
    """Of an error's body, in which only the error codes are read."""
    discarded: int = 64 * MIB
    """How much of a blob may be fetched a second time and discarded because a server ignores ``Range``."""
    connections: int = 8
    """Idle connections that are kept for each host. More may be in use."""

    minimum_token_lifetime: float = 60.0
    """A token with a shorter ``expires_in`` counts as valid for so long: the token specification has this minimum."""
