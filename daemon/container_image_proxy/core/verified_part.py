"""A part of a blob, verified: its end is withheld until the blob is known to be right up to there.

A part that goes to the blob's end is verified by the blob's own digest. Behind any other part, more bytes are read:
up to the next checkpoint of a blob that was verified before, or else to the blob's end. The bytes before the part are
read from the last checkpoint on, before anything leaves, so that the digest of everything before the part can be told
first. A client that holds those bytes compares it. Decision: contrib/adr/0030.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from container_image_proxy.config.limits import KIB, MIB
from container_image_proxy.core.verified_stream import RING_SIZE, VerifiedBlob, page_aligned
from container_image_proxy.errors import CannotResumeError, DigestMismatchError, IntegrityError, SizeMismatchError
from container_image_proxy.image.digest import Digest, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.core.checkpoints import BlobHash, BlobRecord
    from container_image_proxy.image.descriptor import Descriptor
    from container_image_proxy.transports.source import BlobReader

MAX_VAIN: Final = 64 * MIB
"""Bytes that are fetched and not sent for a part that ends before the blob's end. If there were more, the client gets
the whole instead.
"""
_PIECE: Final = 256 * KIB


class OpenBlob(Protocol):
    """Opens a part of a blob."""

    def __call__(self, offset: int, stop: int) -> BlobReader:
        """A reader of the blob from ``offset`` on, up to ``stop`` and no further."""


class VerifiedPart(Struct, frozen=True):
    """The bytes of a blob in ``span``, in pieces. ``prefix`` is the digest of all bytes before them."""

    span: range
    prefix: Digest
    pieces: VerifiedBlob | PartOfBlob


def open_part(
    context: Context,
    open_blob: OpenBlob,
    descriptor: Descriptor,
    known: BlobRecord,
    span: range,
    *,
    use_checkpoints: bool = True,
) -> VerifiedPart | None:
    """The bytes of the blob in ``span``; None if the whole is to be sent instead, because the part is not to be had
    or would cost too much.

    ``open_blob`` opens the blob, of which ``known`` is what earlier transfers have shown. Raises what reading raises.
    """
    # A client that continues a blob which lately proved wrong may hold its wrong beginning. Not every client compares.
    if span.start and known.is_suspect:
        return None
    if descriptor.size <= RING_SIZE:  # verified as a whole before a byte leaves, as without a range
        whole = VerifiedBlob(open_blob(0, descriptor.size), descriptor).read_all()
        prefix = digest_of(whole[: span.start], descriptor.digest.algorithm)
        return VerifiedPart(span, prefix, PartOfBlob(iter([memoryview(whole)[span.start : span.stop]])))
    hashed = known.hash_at(span.start if use_checkpoints else 0)
    decided_at, digest = known.decision(span.stop)
    in_vain = span.start - hashed.offset + decided_at - span.stop
    if span.stop < descriptor.size and in_vain > MAX_VAIN:
        return None
    began_at = hashed.offset
    reader = open_blob(began_at, decided_at)
    try:
        _advance(context, reader, hashed, span.start, descriptor)
        prefix = hashed.digest()
        with _telling_of(descriptor.digest, reader):
            blob = VerifiedBlob(reader, replace(descriptor, digest=digest, size=decided_at), hashed)
    except CannotResumeError:
        # The source has the blob from its beginning only, and refuses to throw away so much of it. Read from the
        # beginning, nothing is thrown away: it is hashed.
        reader.close()
        if began_at == 0:
            raise
        return open_part(context, open_blob, descriptor, known, span, use_checkpoints=False)
    except BaseException:
        reader.close()
        raise
    if span.start == 0 and span.stop == descriptor.size:
        return VerifiedPart(span, prefix, blob)
    return VerifiedPart(span, prefix, PartOfBlob(_decided_at_end(blob, reader, len(span), descriptor.digest, hashed)))


def _advance(context: Context, reader: BlobReader, hashed: BlobHash, offset: int, descriptor: Descriptor) -> None:
    """Read and hash the bytes before ``offset``."""
    buffer = page_aligned(_PIECE)
    try:
        while left := offset - hashed.offset:
            context.check()
            count = reader.readinto(buffer[:left])
            if count == 0:
                raise SizeMismatchError(
                    f"{reader.place}: {descriptor.digest} ended after {hashed.offset} of {descriptor.size} bytes"
                )
            hashed.update(buffer[:count])
    except IntegrityError:
        hashed.refute()
        raise


def _decided_at_end(
    blob: VerifiedBlob, reader: BlobReader, length: int, digest: Digest, hashed: BlobHash
) -> Iterator[memoryview]:
    """The first ``length`` bytes of ``blob``. The last piece of them comes when all of the blob has proved right.

    It does not come if an earlier transfer was broken off that had other content: its client may be this one.
    """
    last = memoryview(b"")
    with closing(blob), _telling_of(digest, reader):
        for piece in blob:
            if len(piece) < length:
                length -= len(piece)
                yield piece
            elif length:
                last = memoryview(bytes(piece[:length]))  # the stream needs its memory again
                length = 0
            del piece
    del blob  # and its memory, for as long as the client takes
    if hashed.is_contradicted:
        raise DigestMismatchError(f"an earlier transfer of {digest} began with other content")
    yield last


@contextmanager
def _telling_of(digest: Digest, reader: BlobReader) -> Iterator[None]:
    """Name the blob in errors about a part of it, which is verified by a digest of its own."""
    try:
        yield
    except DigestMismatchError as error:
        raise error.retold(f"{reader.place} has other content than {digest}") from error
    except SizeMismatchError as error:
        raise error.retold(f"{reader.place} has less or more of {digest} than was asked for") from error


class PartOfBlob:
    """The pieces of a part. One thread uses it. The first piece is read before the constructor returns."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._first = [next(pieces)]

    def __iter__(self) -> Iterator[memoryview]:
        while self._first:
            yield self._first.pop()  # and not kept: a piece of a ring would keep the ring's memory
        yield from self._pieces

    def close(self) -> None:
        """Close the blob that the pieces come from. May be called again."""
        if isinstance(self._pieces, Generator):
            self._pieces.close()
