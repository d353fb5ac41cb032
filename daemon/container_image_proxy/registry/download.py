"""A reader of a blob, from whichever endpoint has it, resumed where a connection broke.

Byte N of a digest's content is the same everywhere, so another endpoint can continue where one failed. A blob that the
first buffer can hold is fetched whole and compared with its digest here, while another endpoint can still be asked. Any
other blob is hashed by the caller, who reports a wrong one by :meth:`Download.reject`.
Sizes and offsets are in bytes. Must not vouch for anything. Spec: RFC 9110 section 14, OCI distribution-spec "Pull".
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from container_image_proxy.errors import DigestMismatchError, Error
from container_image_proxy.registry.attempts import has_progressed
from container_image_proxy.registry.blob_answer import open_answer
from container_image_proxy.registry.endpoints import Endpoint
from container_image_proxy.registry.http.failures import ConnectionLostError, own_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.limits import Limits
    from container_image_proxy.image.descriptor import Descriptor
    from container_image_proxy.registry.attempts import Attempts, Clock
    from container_image_proxy.registry.blob_answer import BlobAnswer
    from container_image_proxy.registry.http.reply import Reply

_E = TypeVar("_E", bound=Endpoint)


class Download(Generic[_E]):
    """A :class:`BlobReader` of one blob from ``offset`` up to ``stop``, by default the end. One thread uses it.

    ``open_at(endpoint, offset)`` sends a request for the bytes from an offset up to ``stop``, and for the whole blob if
    the offset is None.
    """

    def __init__(
        self,
        context: Context,
        open_at: Callable[[_E, int | None], Reply],
        attempts: Attempts[_E],
        descriptor: Descriptor,
        limits: Limits,
        clock: Clock,
        offset: int = 0,
        stop: int | None = None,
    ) -> None:
        self._context = context
        self._open_at = open_at
        self._attempts = attempts
        self._descriptor = descriptor
        self._limits = limits
        self._clock = clock
        self._answer: BlobAnswer | None = None
        self._is_gzip: dict[_E, bool] = {}  # what an endpoint's first answer turned out to be (contrib/adr/0021)
        self._stop = descriptor.size if stop is None else stop
        # No range begins at the end (RFC 9110 section 14.1.2). An empty blob is asked for, to learn whether it exists.
        self._is_complete = 0 < offset == self._stop
        self._suppliers: set[_E] = set()  # the endpoints that sent some of the content
        self._last_retry_offset: int | None = None
        self._opened_at = 0.0
        self._first_offset = offset
        self.offset = offset
        """The position in the blob of the next byte to be read."""

    @property
    def place(self) -> str:
        """Which endpoints have supplied something."""
        return " and ".join(sorted(endpoint.domain for endpoint in self._suppliers)) or "the registry"

    def readinto(self, buffer: memoryview) -> int:
        """Fill the beginning of ``buffer``, which is not empty. Returns the number of bytes, 0 only at the end.

        A blob that fits into the buffer comes whole. Raises :attr:`Attempts.verdict` when all endpoints failed: among
        others :class:`SizeMismatchError` for a blob of another size, and :class:`DigestMismatchError` for other content
        of a blob that comes whole.
        """
        start = self.offset
        comes_whole = start == 0 and self._stop == self._descriptor.size <= len(buffer)
        for endpoint in self._attempts:
            try:
                while not self._is_complete and (comes_whole or self.offset == start):
                    answer = self._read(endpoint, buffer[self.offset - start :])
                    if self._is_complete and comes_whole:
                        self._verify_whole(endpoint, buffer[: self.offset], answer.label)
            except Exception as error:  # noqa: BLE001 - a defect is an error, too, and another endpoint is asked
                self.close()
                self._recover(own_error(error, endpoint.domain))
            else:
                return self.offset - start
        raise self._attempts.verdict

    def reject(self) -> None:
        """Take note that the content was wrong: the mirrors that sent some of it are asked last from now on."""
        error = DigestMismatchError(f"other content was sent for {self._descriptor.digest}")
        self._attempts.distrust(self._suppliers, error)

    def close(self) -> None:
        """Close the connection, unless the blob came to its end. May be called again."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _read(self, endpoint: _E, buffer: memoryview) -> BlobAnswer:
        """Read what comes next from the current answer, or from a new one, and note whether it is the end."""
        answer = self._answer
        if answer is None:
            self._opened_at = self._clock.now()
            answer = self._answer = open_answer(
                partial(self._open_at, endpoint),
                self._context,
                self._descriptor,
                self.offset,
                self._stop,
                most_skipped=self._limits.discarded,
                is_gzip=self._is_gzip.get(endpoint),
            )
            if answer.is_gzip is not None:
                self._is_gzip[endpoint] = answer.is_gzip
        left = self._stop - self.offset
        count = answer.readinto(buffer[:left]) if left else 0
        if count == left:
            # Before the last bytes count as received: where more follows, they may be wrong, too.
            if self._stop == self._descriptor.size:
                answer.verify_end()
            self._is_complete = True
            self.close()
        self.offset += count
        self._suppliers.add(endpoint)
        return answer

    def _verify_whole(self, endpoint: _E, content: memoryview, label: str) -> None:
        """Begin anew elsewhere if the blob is another one. Raises :class:`DigestMismatchError`."""
        digest = self._descriptor.digest
        if not digest.matches(content):
            # This endpoint counts as failed by the error. If others sent the beginning, the wrong bytes may be theirs.
            self._suppliers.discard(endpoint)
            self.reject()
            self._suppliers.clear()
            self._is_complete, self.offset = False, 0
            raise DigestMismatchError(f"{endpoint.domain} sent other content for {digest}{label}")

    def _recover(self, error: Error) -> None:
        """Decide who continues: the same endpoint if it had got somewhere and lost its connection, else the next."""
        is_further = self.offset > self._first_offset and has_progressed(
            self.offset, self._last_retry_offset, self._clock.now() - self._opened_at, self._limits.minimum_rate
        )
        if is_further:
            self._attempts.progressed()
        if not (is_further and isinstance(error, ConnectionLostError)):
            self._attempts.failed(error, persist=self.offset > self._first_offset)
        self._last_retry_offset = self.offset
