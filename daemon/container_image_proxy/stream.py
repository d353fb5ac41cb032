"""The verified stream: a blob's bytes on their way to the client, hashed beside the transfer, the last chunk withheld.

The consumer holds all but the last chunk before the digest is known, and never the last chunk of a wrong blob. With the
answer's ``Content-Length`` being the descriptor's size, framing itself fails then, so that a complete answer is proof.
Hashing runs in a thread of its own as long as there are processors for that, because it is as much work as receiving
and sending together and ``hashlib`` works outside the interpreter lock.
"""

from __future__ import annotations

import os
import threading
from contextlib import closing, suppress
from queue import Queue
from typing import TYPE_CHECKING, Final, NoReturn

from container_image_proxy.config.limits import CHUNK_SIZE
from container_image_proxy.errors import DigestMismatchError, SizeMismatchError
from container_image_proxy.image.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Generator

    from container_image_proxy.image.manifest import Descriptor

_QUEUED_CHUNKS: Final = 3
_helpers = threading.BoundedSemaphore(len(os.sched_getaffinity(0)))
"""One for each processor: with more streams than that, their own threads keep all of them busy, and need no queues."""


def verify_stream(chunks: Generator[bytes, None, None], descriptor: Descriptor) -> Generator[bytes, None, None]:
    """Yield ``chunks`` (none empty) unchanged, the last only once size and digest are those of ``descriptor``.

    A blob that fits into ``CHUNK_SIZE`` is yielded in one piece, however many it came in, so that nothing of it leaves
    unverified. Raises :class:`SizeMismatchError` as soon as one byte too many arrives, :class:`DigestMismatchError` at
    the end, and that within ``chunks``, too; errors of ``chunks`` pass through. ``chunks`` is closed in every case.
    """
    received = 0
    withheld = b""
    with closing(chunks), closing(_BackgroundHash(descriptor.digest)) as content:
        for chunk in chunks:
            received += len(chunk)
            withheld += chunk
            if received > descriptor.size:
                raise SizeMismatchError(
                    f"{descriptor.digest} is longer than the {descriptor.size} bytes that its descriptor says"
                )
            if received == descriptor.size:
                if content.finish(withheld) != descriptor.digest:
                    _reject(chunks, descriptor)
            elif descriptor.size > CHUNK_SIZE:
                content.update(withheld)
                yield withheld
                withheld = b""
        if received != descriptor.size:
            raise SizeMismatchError(f"{descriptor.digest} ended after {received} of {descriptor.size} bytes")
        if withheld:
            yield withheld
        elif content.finish(b"") != descriptor.digest:
            _reject(chunks, descriptor)


def _reject(chunks: Generator[bytes, None, None], descriptor: Descriptor) -> NoReturn:
    """Fail, and let ``chunks`` fail alike: whoever supplied the content should be the last to be asked again."""
    error = DigestMismatchError(f"the source sent other content for {descriptor.digest}")
    with suppress(StopIteration):
        chunks.throw(error)
    raise error


class _BackgroundHash:
    """A running digest, computed from the second chunk by a helping thread, for which at most ``_QUEUED_CHUNKS`` wait;
    in the caller's own thread while there is no helper to be had.
    """

    def __init__(self, digest: Digest) -> None:
        self._algorithm = digest.algorithm
        self._hash = digest.hasher()
        self._queue: Queue[bytes] = Queue(_QUEUED_CHUNKS)
        self._thread: threading.Thread | None = None

    def update(self, chunk: bytes) -> None:
        """Have ``chunk`` (not empty) hashed soon; blocks while the queue is full."""
        if self._thread is None:
            self._thread = self._find_helper()
        if self._thread is None:
            self._hash.update(chunk)
        else:
            self._queue.put(chunk)

    def _find_helper(self) -> threading.Thread | None:
        if not _helpers.acquire(blocking=False):
            return None
        thread = threading.Thread(target=self._run, name="blob-hash")
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads for us
            _helpers.release()
            return None
        return thread

    def finish(self, last_chunk: bytes) -> Digest:
        """The digest of everything, ``last_chunk`` included."""
        self.close()
        self._hash.update(last_chunk)
        return Digest(self._algorithm, self._hash.hexdigest())

    def close(self) -> None:
        """End the thread; what is queued is hashed first, a matter of milliseconds."""
        if self._thread is not None:
            self._queue.put(b"")
            self._thread.join()
            self._thread = None
            _helpers.release()

    def _run(self) -> None:
        while chunk := self._queue.get():
            self._hash.update(chunk)
