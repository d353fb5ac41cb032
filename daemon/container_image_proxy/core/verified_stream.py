"""The verified stream: a blob's bytes on their way to the client, the end withheld until size and digest are right.

A stream owns a ring, which is all the memory that it needs, page-aligned. The client is sent the very memory that a
reader filled. While few streams run, each has a helping thread, which hashes one half of the ring while the other is
filled. Of many streams each fills its whole ring, sends it and hashes it itself: then all processors are busy anyway,
and each handover from thread to thread is lost time.

A client holds all pieces but the last before the digest is known, and never the last piece of a wrong blob. The
answer's ``Content-Length`` is the descriptor's size, so a wrong blob makes the framing itself fail, and a complete
answer is proof. A blob that fits the ring is one piece, and verified before its first byte leaves.

The ring is not a ``bytearray``: on current processors, copying from the kernel to memory at page offset 0x10, where
those lie, is three times slower than to a page's beginning.
"""

from __future__ import annotations

import mmap
import os
import threading
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Final, Self

from container_image_proxy.config.limits import KIB, MIB
from container_image_proxy.core.checkpoints import BlobHash, blob_hash
from container_image_proxy.errors import DigestMismatchError, IntegrityError, SizeMismatchError

if TYPE_CHECKING:
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import Descriptor
    from container_image_proxy.transports.source import BlobReader

RING_SIZE: Final = 1 * MIB
"""Smaller pieces would be more, and for each the interpreter's lock is let go three times."""
FIRST_SIZE: Final = 64 * KIB
"""Of the first piece, for which a client waits: more memory, more to hash or a thread to start would double that."""
_PRIVATE: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_MOMENT: Final = 0.1
"""In seconds. A source that is too slow to fill half a ring in that time is passed on as it comes."""
_PROCESSORS: Final = len(os.sched_getaffinity(0))
"""So many streams may run while each has a helper. With more, their own threads keep all processors busy."""
_turns: Final[SimpleQueue[None]] = SimpleQueue()
"""One for each processor, taken while a piece is hashed. If all of many streams hashed at once, the system would divide
the processors between them, and each would find its ring out of the cache when it goes on. A turn waits for no other.
(A queue, because threading.Semaphore costs as much time as there is to win.)
"""
for _ in range(_PROCESSORS):
    _turns.put(None)
_running: Final[set[VerifiedBlob]] = set()
"""All streams that are not closed. Adding, discarding and counting are one step each for the interpreter."""


def page_aligned(size: int) -> memoryview:
    """Fresh memory of so many bytes, but at least one, that begins with a page."""
    return memoryview(mmap.mmap(-1, max(1, size), flags=_PRIVATE))


class VerifiedBlob:
    """Iterates over the pieces of a blob, each valid until the next one is asked for. One thread uses it.

    Raises what the reader raises, :class:`SizeMismatchError` as soon as the blob turns out longer or shorter than
    ``descriptor`` says, and :class:`DigestMismatchError` instead of the last piece. A reader whose content was wrong is
    told. The first piece is read before the constructor returns; the reader is closed by :meth:`close`, or if the
    constructor fails.

    With ``hashed``, the hash of what lies before, it begins where that ends, and so must the reader.
    """

    def __init__(self, reader: BlobReader, descriptor: Descriptor, hashed: BlobHash | None = None) -> None:
        self._reader = reader
        self._descriptor = descriptor
        hashed = hashed or blob_hash(descriptor.digest)
        self._received = hashed.offset
        self._is_complete = False
        left = descriptor.size - hashed.offset
        self._is_one_piece = left <= RING_SIZE
        self._digest = _RunningDigest(hashed)
        self._ring = page_aligned(min(left, RING_SIZE))
        self._half = 0
        self._is_first = True
        self._first: memoryview | None = None
        _running.add(self)
        try:
            self._first = self._read()
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> memoryview:
        """The next piece, never empty."""
        piece, self._first = self._first, None
        if piece is None:
            piece = self._read()
        if not piece:
            raise StopIteration
        return piece

    def read_all(self) -> bytes:
        """All that was not taken yet, in one. The stream is closed."""
        try:
            return b"".join(bytes(piece) for piece in self)
        finally:
            self.close()

    def close(self) -> None:
        """End the helping thread and close the reader. May be called again."""
        _running.discard(self)
        self._digest.close()
        self._digest.leave()
        self._reader.close()

    def _read(self) -> memoryview:
        """The next piece: the buffer whose turn it is, filled. Empty only if all has been read and verified."""
        if self._is_complete:
            return memoryview(b"")
        size = self._descriptor.size
        buffer = self._next_buffer()[: size - self._received]
        try:
            count = self._fill(buffer)
            piece = buffer[:count]
            self._received += count
            if self._received == size:
                self._verify(piece)
            elif not count or self._is_one_piece:
                raise SizeMismatchError(
                    f"{self._reader.place}: {self._descriptor.digest} ended after {self._received} of {size} bytes"
                )
            else:
                self._digest.update(piece)
        except IntegrityError:
            self._digest.refute()
            raise
        return piece

    def _next_buffer(self) -> memoryview:
        """Memory whose content has been sent, and hashed."""
        if self._is_one_piece:
            return self._ring
        if self._is_first:
            self._is_first = False
            return self._ring[:FIRST_SIZE]
        start, size = 0, RING_SIZE
        if self._digest.be_helped(wanted=len(_running) <= _PROCESSORS):
            self._half ^= 1
            size //= 2
            start = self._half * size
        # A piece ends at a multiple of its size. Checkpoints lie at such places, so that they cut no piece in two.
        return self._ring[start : start + size - self._received % size]

    def _fill(self, buffer: memoryview) -> int:
        """Read into ``buffer`` until it is full, or what has come should not wait any longer."""
        filled = count = self._reader.readinto(buffer)
        if filled == len(buffer):
            return filled
        until = monotonic() + _MOMENT
        while count and filled < len(buffer) and (self._is_one_piece or monotonic() < until):
            count = self._reader.readinto(buffer[filled:])
            filled += count
        return filled

    def _verify(self, last_piece: memoryview) -> None:
        """Nothing may follow the last piece, and with it the digest is right."""
        descriptor = self._descriptor
        if self._reader.readinto(memoryview(bytearray(1))):
            raise SizeMismatchError(
                f"{self._reader.place}: {descriptor.digest} is longer than the {descriptor.size} bytes"
                " that its descriptor says"
            )
        if self._digest.finish(last_piece) != descriptor.digest:
            self._reader.reject()
            raise DigestMismatchError(f"{self._reader.place} has other content than {descriptor.digest}")
        self._digest.confirm()
        self._is_complete = True


class _RunningDigest:
    """A digest, computed by a helping thread or by the caller's own. That hashes a piece only when the next is to be
    read, and the last one was sent, so that the client does not wait for it.

    Hashing is as much work as receiving and sending together, and ``hashlib`` works outside the interpreter lock.
    """

    def __init__(self, hashed: BlobHash) -> None:
        self._hash = hashed
        self._pieces: SimpleQueue[memoryview | None] = SimpleQueue()
        self._hashed: SimpleQueue[None] = SimpleQueue()
        self._waiting = 0  # pieces that the thread has not hashed yet
        self._unhashed: memoryview | None = None  # the last piece, where nobody helps
        self._thread: threading.Thread | None = None

    def update(self, piece: memoryview) -> None:
        """Have ``piece`` hashed soon. Until :meth:`be_helped` has returned its memory must stay as it is, and with a
        helper until it has returned twice.
        """
        if self._thread is None:
            self._unhashed = piece
        else:
            self._waiting += 1
            self._pieces.put(piece)

    def be_helped(self, *, wanted: bool) -> bool:
        """Begin or end to be helped if that is wanted and possible. Returns whether a thread helps from now on.

        With a helper the last piece may not be hashed yet, without one all are.
        """
        if self._thread is None:
            self._wait(0)
            if wanted:
                self._thread = self._start_helper()
        elif wanted:
            self._wait(1)
        else:
            self.close()
        return self._thread is not None

    def finish(self, last_piece: memoryview) -> Digest:
        """The digest of everything, ``last_piece`` included."""
        self.close()
        self._hash_now(last_piece)
        return self._hash.digest()

    def confirm(self) -> None:
        """The digest of everything was right."""
        self._hash.confirm()

    def leave(self) -> None:
        """Nobody wants any more, be it complete or not."""
        self._hash.leave()

    def refute(self) -> None:
        """The blob is wrong; what waits is hashed before, so that nothing is noted of it afterwards."""
        self.close()
        self._hash.refute()

    def close(self) -> None:
        """End the thread; what waits is hashed first, a matter of milliseconds."""
        self._wait(0)
        if self._thread is not None:
            self._pieces.put(None)
            self._thread.join()
            self._thread = None

    def _wait(self, pieces: int) -> None:
        """Return when at most the last ``pieces`` are not hashed yet."""
        if self._unhashed is not None:
            self._hash_now(self._unhashed)
            self._unhashed = None
        while self._waiting > pieces:
            self._hashed.get()
            self._waiting -= 1

    def _start_helper(self) -> threading.Thread | None:
        thread = threading.Thread(target=self._run, name="blob-hash", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads for us
            return None
        return thread

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._hash_now(piece)
            self._hashed.put(None)

    def _hash_now(self, piece: memoryview) -> None:
        _turns.get()
        try:
            self._hash.update(piece)
        finally:
            _turns.put(None)
