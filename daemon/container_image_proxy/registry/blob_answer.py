"""One answer with the content of a blob: where in the blob it begins, and whether a gzip has to be undone to get at it.

Where a server cannot send what follows an offset, the whole is asked for and its beginning skipped. A label that says
gzip may mean that the blob was compressed on the way, or that it is a gzip itself. The label cannot tell which. The
descriptor's size and digest can, and nothing else is asked (contrib/adr/0021).
"""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from container_image_proxy.config.limits import MIB
from container_image_proxy.errors import CannotResumeError, RegistryError, SizeMismatchError, UpstreamError
from container_image_proxy.registry.http.coding import (
    GZIP_MAGIC,
    DamagedGzipError,
    Gunzipped,
    Replayed,
    gunzip,
    may_be_gzip,
    told,
)
from container_image_proxy.registry.http.failures import ConnectionLostError
from container_image_proxy.registry.http.headers import parse_content_range

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.image.descriptor import Descriptor
    from container_image_proxy.registry.http.coding import Source
    from container_image_proxy.registry.http.reply import Reply

_HELD: Final = 1 * MIB
"""How much of an answer is held while it is decided what it is, in bytes."""
_PIECE: Final = 64 * 1024
_ANSWERS_TO_RANGES: Final = frozenset({HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE})


class BlobAnswer:
    """The content of a blob of ``size`` bytes from an offset to its end, as one answer brings it."""

    def __init__(self, reply: Reply, size: int, content: Source, *, is_gzip: bool | None = None) -> None:
        self._reply = reply
        self._size = size
        self._content = content
        self.is_gzip = is_gzip
        """Whether a gzip is undone, so that no part of the server's bytes is of use; None if that was no question."""

    @property
    def label(self) -> str:
        """A clause for messages, if a content coding may explain why the content is wrong; else empty."""
        return told(self._reply.codings)

    def readinto(self, buffer: memoryview) -> int:
        """Fill the beginning of ``buffer``, which is not empty and no larger than what is missing; at least one byte.

        Raises :class:`UpstreamError`, and :class:`SizeMismatchError` if the content is shorter than the blob.
        """
        reply = self._reply
        try:
            count = self._content.readinto(buffer)
        except DamagedGzipError:
            length = "an answer" if reply.length is None else f"{reply.length} bytes"
            raise SizeMismatchError(
                f"{reply.endpoint} sent {length} for a blob of {self._size} bytes, and no gzip of it{self.label}"
            ) from None
        if count:
            return count
        if self.label and self.is_gzip is not None:  # it was whole, and is not the blob either way
            kind = "a gzip of less than" if self.is_gzip else "less than"
            raise SizeMismatchError(f"{reply.endpoint} sent {kind} the blob's {self._size} bytes{self.label}")
        reason = f"{reply.endpoint}: the answer ended before the blob's {self._size} bytes"
        raise reply.fault(ConnectionLostError, reason, retryable=True)

    def skip(self, count: int, most: int) -> None:
        """Read what was had before; :class:`CannotResumeError` if that is more than ``most`` bytes."""
        if count > most:
            raise self._reply.fault(
                CannotResumeError,
                f"{self._reply.endpoint} cannot resume a transfer, and too much of it would have to be fetched again",
            )
        skipped = memoryview(bytearray(min(_PIECE, count)))
        while count > 0:
            count -= self.readinto(skipped[:count])

    def verify_end(self) -> None:
        """No byte may follow the last that belongs to the blob; how the connection ended does not matter any more."""
        surplus = 0
        with suppress(UpstreamError, DamagedGzipError):
            surplus = self._content.readinto(memoryview(bytearray(1)))
        if surplus:
            raise SizeMismatchError(
                f"{self._reply.endpoint} has more than the {self._size} bytes of the blob's descriptor"
            )

    def close(self) -> None:
        """Close the connection, unless the answer came to its end. May be called again."""
        self._reply.close()


def open_answer(
    ask: Callable[[int | None], Reply],
    context: Context,
    descriptor: Descriptor,
    offset: int,
    stop: int,
    *,
    most_skipped: int,
    is_gzip: bool | None = None,
) -> BlobAnswer:
    """What follows ``offset``, at least up to ``stop``.

    ``ask(offset)`` sends a request for that, ``ask(None)`` one for the whole, which may be answered in any case.
    ``is_gzip`` is what an earlier answer turned out to be, if there was one. Raises what ``ask`` and the reading of an
    answer do, :class:`SizeMismatchError` for another size, :class:`RegistryError` for another part than asked for.
    """
    size = descriptor.size
    reply = ask(None if is_gzip else offset)
    try:
        # Some servers know no range, or send a part of something else, such as of what they compressed for this answer.
        if reply.status in _ANSWERS_TO_RANGES and not _is_wanted(reply, size, offset, stop):
            reply.close()
            reply = ask(None)
        if reply.status == HTTPStatus.PARTIAL_CONTENT:
            _verify_wanted(reply, size, offset, stop)
            return BlobAnswer(reply, size, reply.body(context))
        body = reply.body(context)
        is_gzip, seen = _examine(reply, body, descriptor, is_gzip)
        if seen is None:  # more was read than is held, so the answer has to be sent once more
            reply.close()
            reply = ask(None)
            body = reply.body(context)
            is_gzip, seen = _examine(reply, body, descriptor, is_gzip)
        content = Replayed(seen, body) if seen else body
        answer = BlobAnswer(reply, size, Gunzipped(content, size) if is_gzip else content, is_gzip=is_gzip)
        answer.skip(offset, most_skipped)
    except BaseException:  # a client that leaves ends up here, too
        reply.close()
        raise
    return answer


def _is_wanted(reply: Reply, size: int, offset: int, stop: int) -> bool:
    """Whether the answer is the part of the blob that was asked for (RFC 9110 section 14.4)."""
    if reply.status != HTTPStatus.PARTIAL_CONTENT:
        return False
    try:
        found = parse_content_range(reply.header("Content-Range") or "")
    except RegistryError:
        return False
    return found.first == offset and found.last == stop - 1 and found.complete in {None, size}


def _verify_wanted(reply: Reply, size: int, offset: int, stop: int) -> None:
    if not _is_wanted(reply, size, offset, stop):
        raise reply.fault(RegistryError, f"{reply.endpoint} sent another part of the blob than asked for")


# --- whether it is encoded -------------------------------------------------------------------------------------------


def _examine(
    reply: Reply,
    body: Source,
    descriptor: Descriptor,
    known: bool | None,  # noqa: FBT001
) -> tuple[bool, bytearray | None]:
    """Whether a whole answer is a gzip of the blob, and what was read of it to find out; None if that was too much.

    An answer of the blob's size is the blob as it is. One of another size is a gzip of it, if it is labelled so.
    """
    size, is_labelled = descriptor.size, may_be_gzip(reply.codings)
    if reply.length not in {None, size}:
        if not is_labelled:
            label = told(reply.codings)
            raise SizeMismatchError(f"{reply.endpoint} has {reply.length} bytes for a blob of {size}{label}")
        return True, bytearray()
    if not is_labelled or (reply.length is not None and size > _HELD):
        return False, bytearray()
    if reply.length is None and known is not None:
        return known, bytearray()
    return _judge(_read(body, min(size, _HELD) + 1), body, descriptor)


def _judge(beginning: bytearray, rest: Source, descriptor: Descriptor) -> tuple[bool, bytearray | None]:
    """The same, by what was read of the answer: the whole of it, or more than can be held."""
    if not beginning.startswith(GZIP_MAGIC):
        return False, beginning
    if len(beginning) > descriptor.size:
        return True, beginning
    if len(beginning) <= _HELD:
        return _is_gzip_of(beginning, descriptor), beginning
    return _is_applied(Replayed(beginning, rest), descriptor.size), None


def _is_gzip_of(body: bytearray, descriptor: Descriptor) -> bool:
    """Of a whole body in hand the digest decides: it can have the same size either way."""
    if len(body) != descriptor.size:
        return True
    if descriptor.digest.matches(memoryview(body)):
        return False
    try:
        return gunzip(body, descriptor.size) is not None
    except DamagedGzipError:
        return False


def _is_applied(source: Source, size: int) -> bool:
    """Read an answer of unknown length both ways until one is ruled out: by its size, or because it is no gzip."""
    encoded = _Counted(source)
    content = _Counted(Gunzipped(encoded, size))
    piece = memoryview(bytearray(_PIECE))
    try:
        while content.count <= size and encoded.count <= size and content.readinto(piece):
            pass
    except DamagedGzipError:
        return encoded.count > size
    return content.count <= size and encoded.count != size


def _read(source: Source, size: int) -> bytearray:
    """At most ``size`` bytes; fewer at the end."""
    body, filled = bytearray(size), 0
    with memoryview(body) as view:
        while filled < size and (count := source.readinto(view[filled:])):
            filled += count
    del body[filled:]
    return body


class _Counted:
    """A source that knows how much of it was read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.count = 0

    def readinto(self, buffer: memoryview) -> int:
        """As the source does."""
        count = self._source.readinto(buffer)
        self.count += count
        return count
