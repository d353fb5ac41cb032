"""The downloader: a blob's bytes in order, from whichever endpoint has them, resumed where a connection broke.

Content addressing makes byte N the same anywhere, so that another endpoint can go on where one failed. A blob that
comes in one chunk is compared with its digest here already, to turn to another endpoint in time. Any other is hashed
by whoever asked, who decides at its end, and tells, so that a mirror that spoiled a blob does not spoil the next
attempt. Sizes and offsets are in bytes.
"""

from __future__ import annotations

from contextlib import closing, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Generic, TypeVar

from container_image_proxy.config.limits import CHUNK_SIZE
from container_image_proxy.errors import DigestMismatchError, Error, RegistryError, SizeMismatchError, UpstreamError
from container_image_proxy.pace import Pace
from container_image_proxy.registry.attempts import has_progressed
from container_image_proxy.registry.endpoints import Endpoint
from container_image_proxy.registry.failures import ConnectionLostError, own_errors
from container_image_proxy.registry.headers import parse_content_range

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from container_image_proxy.config.limits import Limits
    from container_image_proxy.image.descriptor import Descriptor
    from container_image_proxy.registry.attempts import Attempts, Clock
    from container_image_proxy.registry.reply import Reply

_E = TypeVar("_E", bound=Endpoint)


class Download(Generic[_E]):
    """The transfer of one blob. ``open_at(endpoint, offset)`` asks for what follows ``offset``."""

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
        self._offset = 0
        self._suppliers: set[_E] = set()
        self._last_retry_offset: int | None = None
        self._last_retry_time = 0.0

    def chunks(self) -> Generator[bytes, None, None]:
        """The bytes, in chunks of at most ``CHUNK_SIZE``; closing the generator closes the connection at once.

        Raises what the endpoints raise when all of them failed, :class:`SizeMismatchError` if all have another size,
        :class:`DigestMismatchError` if all have other content that comes in one chunk. Whoever finds out later that the
        content is wrong throws that into the generator.
        """
        while True:
            endpoint = self._attempts.endpoint
            try:
                with own_errors(endpoint.domain):
                    yield from self._transfer(endpoint)
            except Error as error:
                if isinstance(error, DigestMismatchError) and self._suppliers:
                    self._attempts.distrust(self._suppliers, error)
                    raise
                self._recover(error)
            else:
                return

    def _recover(self, error: Error) -> None:
        """Go on where it broke: at the same endpoint if it had got somewhere, else as the attempts say."""
        is_further = self._has_progressed()
        if is_further:
            self._attempts.progressed()
        if not (is_further and isinstance(error, ConnectionLostError)):
            self._attempts.failed(error, persist=self._offset > 0)
        self._last_retry_offset, self._last_retry_time = self._offset, self._clock.now()

    def _has_progressed(self) -> bool:
        since = self._clock.now() - self._last_retry_time
        rate = self._limits.minimum_rate
        return self._offset > 0 and has_progressed(self._offset, self._last_retry_offset, since, rate)

    def _transfer(self, endpoint: _E) -> Generator[bytes, None, None]:
        with closing(self._open_at(endpoint, self._offset)) as reply:
            self._skip(reply, _verify_position(reply, self._offset, self._size))
            pace = Pace(self._size - self._offset)
            if self._size == 0:
                _verify_end(reply, self._size)
            while (left := self._size - self._offset) > 0:
                chunk = reply.read(min(pace.next(), left))
                if not chunk:
                    raise _lost(reply)
                if len(chunk) == left:  # before it counts as received: where more follows it may be wrong, too
                    _verify_end(reply, self._size)
                if len(chunk) == self._size and not self._digest.matches(chunk):
                    raise DigestMismatchError(f"{reply.endpoint} sent other content for {self._digest}")
                self._offset += len(chunk)
                self._suppliers.add(endpoint)
                yield chunk

    def _skip(self, reply: Reply, count: int) -> None:
        """Read what a server sent again because it knows no ranges."""
        if count > self._limits.discarded:
            raise RegistryError(
                f"{reply.endpoint} cannot resume a transfer, and too much of it would have to be fetched again",
                phase=reply.request.phase,
                endpoint=reply.endpoint,
            )
        while count > 0:
            piece = reply.read(min(CHUNK_SIZE, count))
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
