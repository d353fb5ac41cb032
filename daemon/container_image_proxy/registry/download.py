"""The downloader: a reader of a blob, from whichever endpoint has it, resumed where a connection broke.

Content addressing makes byte N the same anywhere, so that another endpoint can go on where one failed. A blob that the
first buffer can hold comes whole and is compared with its digest here already, to turn to another endpoint in time. Any
other is hashed by whoever asked, who decides at its end, and tells, so that a mirror that spoiled a blob does not spoil
the next attempt. Sizes and offsets are in bytes.
"""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Generic, TypeVar

from container_image_proxy.config.limits import KIB
from container_image_proxy.errors import DigestMismatchError, Error, RegistryError, SizeMismatchError, UpstreamError
from container_image_proxy.registry.attempts import has_progressed
from container_image_proxy.registry.endpoints import Endpoint
from container_image_proxy.registry.failures import ConnectionLostError, own_errors
from container_image_proxy.registry.headers import parse_content_range

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.config.limits import Limits
    from container_image_proxy.image.descriptor import Descriptor
    from container_image_proxy.registry.attempts import Attempts, Clock
    from container_image_proxy.registry.reply import Reply

_E = TypeVar("_E", bound=Endpoint)
_SKIPPED = 64 * KIB


class Download(Generic[_E]):
    """The transfer of one blob as a reader of it. ``open_at(endpoint, offset)`` asks for what follows ``offset``."""

    def __init__(
        self,
        open_at: Callable[[_E, int], Reply],
        attempts: Attempts[_E],
        descriptor: Descriptor,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._open_at = open_at
        self._attempts = attempts
        self._digest = descriptor.digest
        self._size = descriptor.size
        self._limits = limits
        self._clock = clock
        self._reply: Reply | None = None
        self._is_complete = False
        self._suppliers: set[_E] = set()
        self._last_retry_offset: int | None = None
        self._last_retry_time = 0.0
        self.offset = 0
        """Where in the blob the next byte is from."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill the beginning of ``buffer``, which is not empty: how many bytes, none only at the end. A blob that fits
        into it comes whole.

        Raises what the endpoints raise when all of them failed, :class:`SizeMismatchError` if all have another size,
        :class:`DigestMismatchError` if all have other content that comes whole.
        """
        start = self.offset
        comes_whole = start == 0 and self._size <= len(buffer)
        while not self._is_complete and (comes_whole or self.offset == start):
            endpoint = self._attempts.endpoint
            try:
                with own_errors(endpoint.domain):
                    self._read(endpoint, buffer[self.offset - start :])
                    if self._is_complete and comes_whole:
                        self._compare(endpoint, buffer[: self._size])
            except Error as error:
                self.close()
                self._recover(error)
        return self.offset - start

    def reject(self) -> None:
        """The content was wrong: whoever supplied some of it is asked last from now on."""
        error = DigestMismatchError(f"other content was sent for {self._digest}")
        self._attempts.distrust(self._suppliers, error)

    def close(self) -> None:
        """Close the connection, unless the blob came to its end. May be called again."""
        if self._reply is not None:
            self._reply.close()
            self._reply = None

    def _read(self, endpoint: _E, buffer: memoryview) -> None:
        """Read what comes next, and see whether it is the end."""
        if self._reply is None:
            self._reply = self._open_at(endpoint, self.offset)
            self._skip(self._reply, _verify_position(self._reply, self.offset, self._size))
        reply, left = self._reply, self._size - self.offset
        count = reply.readinto(buffer[:left]) if left else 0
        if left and not count:
            raise _lost(reply)
        if count == left:  # before it counts as received: where more follows it may be wrong, too
            _verify_end(reply, self._size)
            self._is_complete = True
            self.close()
        self.offset += count
        self._suppliers.add(endpoint)

    def _compare(self, endpoint: _E, content: memoryview) -> None:
        """Begin anew if the whole blob is another one."""
        if not self._digest.matches(content):
            self._suppliers.discard(endpoint)  # who counts as failed anyway
            self.reject()
            self._suppliers.clear()
            self._is_complete, self.offset = False, 0
            raise DigestMismatchError(f"{endpoint.domain} sent other content for {self._digest}")

    def _recover(self, error: Error) -> None:
        """Go on where it broke: at the same endpoint if it had got somewhere, else as the attempts say."""
        is_further = self._has_progressed()
        if is_further:
            self._attempts.progressed()
        if not (is_further and isinstance(error, ConnectionLostError)):
            self._attempts.failed(error, persist=self.offset > 0)
        self._last_retry_offset, self._last_retry_time = self.offset, self._clock.now()

    def _has_progressed(self) -> bool:
        since = self._clock.now() - self._last_retry_time
        rate = self._limits.minimum_rate
        return self.offset > 0 and has_progressed(self.offset, self._last_retry_offset, since, rate)

    def _skip(self, reply: Reply, count: int) -> None:
        """Read what a server sent again because it knows no ranges."""
        if count > self._limits.discarded:
            raise RegistryError(
                f"{reply.endpoint} cannot resume a transfer, and too much of it would have to be fetched again",
                phase=reply.request.phase,
                endpoint=reply.endpoint,
            )
        while count > 0:
            piece = reply.read(min(_SKIPPED, count))
            if not piece:
                raise _lost(reply)
            count -= len(piece)


def _verify_position(reply: Reply, offset: int, size: int) -> int:
    """How many bytes to skip before ``offset`` is reached; the answer must be for this place in a blob of this size."""
    if reply.status == HTTPStatus.PARTIAL_CONTENT:
        _verify_range(reply, offset, size)
        return 0
    if reply.length is not None and reply.length != size:
        raise SizeMismatchError(f"{reply.endpoint} has {reply.length} bytes for a blob of {size}")
    return offset


def _verify_range(reply: Reply, offset: int, size: int) -> None:
    found = parse_content_range(reply.header("Content-Range") or "")
    if found.first != offset or found.last != size - 1 or found.complete not in {None, size}:
        raise RegistryError(
            f"{reply.endpoint} sent another part of the blob than asked for",
            phase=reply.request.phase,
            endpoint=reply.endpoint,
        )


def _verify_end(reply: Reply, size: int) -> None:
    """No byte may follow the last that belongs to the blob; how the connection ended does not matter any more."""
    surplus = b""
    with suppress(UpstreamError):
        surplus = reply.read(1)
    if surplus:
        raise SizeMismatchError(f"{reply.endpoint} has more than the {size} bytes of the blob's descriptor")


def _lost(reply: Reply) -> ConnectionLostError:
    return ConnectionLostError(
        f"{reply.endpoint}: the connection was lost", phase=reply.request.phase, endpoint=reply.endpoint, retryable=True
    )
