"""The framing of an answer: where its head ends, what the head says, and where the body ends.

Takes the place of :mod:`http.client`'s reader, which stops at 100 header lines, loses the lines behind a malformed one,
knows one interim answer only, and guesses where lengths contradict each other. Heads are bounded in bytes alone. What
Go's client accepts is accepted, and what it refuses is refused: where a body ends must not be a guess.
Must not know URLs or statuses of registries. Spec: RFC 9112 sections 4 to 7.
"""

from __future__ import annotations

import http.client
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec import Struct

from container_image_proxy.config.limits import MIB
from container_image_proxy.registry.http.headers import TCHAR

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from container_image_proxy.registry.http.sockets import PunctualSocket, PunctualTLSSocket

MAX_HEAD_SIZE: Final = 1 * MIB
"""Bytes of the head and all interim answers before it. Go's client takes 10 MiB, proxies in between some KiB."""
MAX_INTERIM_ANSWERS: Final = 1024
"""Answers with a status of 1xx before the final one. Servers send one or two; each costs more time than its bytes."""

_HTTP: Final = b"HTTP/"
_NO_HTTP: Final = "its answer does not begin as HTTP/1 does"
# Lenient where Go is: several spaces before the status, no reason phrase (RFC 9112 section 4).
_STATUS_LINE: Final = re.compile(r"HTTP/([0-9])\.([0-9]) +([0-9]{3})(?: (.*))?", re.DOTALL)
_FIELD: Final = re.compile(rf"([{TCHAR} ]+):([\t\x20-\x7e\x80-\xff]*)")
_LENGTH: Final = re.compile(r"[0-9]+")
_MOST_DIGITS: Final = 20  # enough for 2**64; int() takes quadratic time, and refuses more than 4300
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?\r?\n", re.DOTALL)
_MAX_CHUNK_LINE: Final = 64 * 1024  # bytes; a chunk may have extensions (RFC 9112 section 7.1.1), which nobody uses
_WORTHWHILE: Final = 64 * 1024  # bytes: smaller pieces cost more to pass on than to collect
_BODILESS: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class FramingError(http.client.HTTPException):
    """An answer that is not HTTP, or does not tell where it ends. The text is ours, and may be shown."""


class Lines(Protocol):
    """A stream that is read line by line."""

    def readline(self, size: int, /) -> bytes:
        """A line with its end, but at most ``size`` bytes of it. Without a line end if it is longer, or the last."""


class ResponseHead(Struct, frozen=True):
    """Status line and fields, in the order in which they came. ``version`` is (1, 1) for HTTP/1.1. Text is Latin-1."""

    version: tuple[int, int]
    status: int
    reason: str
    fields: tuple[tuple[str, str], ...]

    def values(self, name: str) -> list[str]:
        """The values of all lines of the field ``name`` (in lower case)."""
        return [value for field, value in self.fields if field.lower() == name]


def read_head(stream: Lines) -> ResponseHead:
    """The head of the final answer. Interim answers (1xx) before it are skipped (RFC 9110 section 15.2).

    Raises :class:`FramingError`, and :class:`http.client.IncompleteRead` if the stream ends before.
    """
    left = MAX_HEAD_SIZE
    for _ in range(MAX_INTERIM_ANSWERS + 1):
        lines: list[bytes] = []
        while not lines or lines[-1] not in {b"\r\n", b"\n"}:
            line = stream.readline(left + 1)
            left -= len(line)
            if left < 0:
                raise FramingError(f"its head is larger than {MAX_HEAD_SIZE} bytes")
            if not line.endswith(b"\n"):
                # The stream ended within a line. Frames of HTTP/2 have no line ends: that is another reason.
                if not lines and not _HTTP.startswith(line[: len(_HTTP)]):
                    raise FramingError(_NO_HTTP)
                raise http.client.IncompleteRead(b"")
            lines.append(line)
        head = parse_head(lines)
        if head.status >= HTTPStatus.OK or head.status == HTTPStatus.SWITCHING_PROTOCOLS:
            return head
    raise FramingError(f"it sent more than {MAX_INTERIM_ANSWERS} interim answers")


def parse_head(lines: Iterable[bytes]) -> ResponseHead:
    """Read the lines of a head. Raises :class:`FramingError` for one that is no status line or no field."""
    text = (line.decode("latin-1").removesuffix("\n").removesuffix("\r") for line in lines)
    status_line, *field_lines = text
    match = _STATUS_LINE.fullmatch(status_line)
    if match is None:
        raise FramingError(_NO_HTTP)
    fields = []
    for line in _unfolded(field_lines):
        field = _FIELD.fullmatch(line)
        if field is None or field[1].startswith(" "):
            raise FramingError("a header line of its answer is malformed")
        # A space in a name, above all before the colon, is how one parser is made to see a header that another does not
        # (RFC 9112 section 5.1). Such a field decides nothing.
        if " " not in field[1]:
            fields.append((field[1], field[2].strip(" \t")))
    return ResponseHead(
        version=(int(match[1]), int(match[2])),
        status=int(match[3]),
        reason=(match[4] or "").strip(),
        fields=tuple(fields),
    )


def _unfolded(lines: Sequence[str]) -> list[str]:
    """One line for each field: a line that begins with white space continues the one before it (section 5.2)."""
    unfolded: list[list[str]] = []
    for line in filter(None, lines):
        if line[:1] in {" ", "\t"} and unfolded:
            unfolded[-1].append(line.strip(" \t"))
        else:
            unfolded.append([line])
    return [" ".join(parts) for parts in unfolded]


def is_chunked(transfer_encodings: Sequence[str]) -> bool:
    """Whether the body comes in chunks. Raises :class:`FramingError` for any other coding (RFC 9112 section 6.1)."""
    if not transfer_encodings:
        return False
    if [coding.lower() for coding in transfer_encodings] != ["chunked"]:
        raise FramingError("its answer has a transfer coding other than chunked")
    return True


def parse_content_length(values: Sequence[str]) -> int | None:
    """The length in bytes that all lines agree on; None if there is none (RFC 9112 section 6.3).

    Raises :class:`FramingError` if they contradict each other, or one is no number.
    """
    # Lines and list elements that agree are allowed (RFC 9110 section 8.6).
    lengths = {length.strip(" \t") for value in values for length in value.split(",")}
    if lengths <= {""}:
        return None
    if len(lengths) > 1 or not _LENGTH.fullmatch(length := lengths.pop()):
        raise FramingError("the Content-Length of its answer is malformed or contradicts itself")
    return int(length[:_MOST_DIGITS])  # a number that is cut here is still larger than anything may be


class FramedResponse(http.client.HTTPResponse):
    """An ``HTTPResponse`` with our reader of heads and chunk sizes, for ``HTTPConnection.response_class``.

    ``socket`` is the one that it receives from.
    """

    socket: PunctualSocket | PunctualTLSSocket

    def begin(self) -> None:
        """Read the head, and find out how the body ends (RFC 9112 section 6.3)."""
        if self.headers is not None:  # it was read before
            return
        head = read_head(self.fp)
        self.version = 11 if head.version >= (1, 1) else 10
        self.code = self.status = head.status
        self.reason = head.reason
        self.headers = self.msg = http.client.HTTPMessage()
        for name, value in head.fields:
            self.headers.set_raw(name, value)  # for parsers: __setitem__ asks a policy, which has no say here
        self.chunked = is_chunked(head.values("transfer-encoding"))
        self.chunk_left = None
        # Chunks win over a length beside them (RFC 9112 section 6.3).
        self.length = None if self.chunked else parse_content_length(head.values("content-length"))
        if self._method == "HEAD" or head.status < HTTPStatus.OK or head.status in _BODILESS:
            self.length = 0
        options = {option.strip().lower() for value in head.values("connection") for option in value.split(",")}
        is_last = "close" in options or (head.version < (1, 1) and "keep-alive" not in options)  # section 9.3
        self.will_close = is_last or not (self.chunked or self.length is not None)

    def readinto1(self, buffer: Any) -> int:
        """Receive what is there into ``buffer`` (not empty), without waiting for more. Returns the number of bytes, 0
        only at the end of the body.

        Small chunks are collected until they make a piece that is worth passing on. Raises :class:`FramingError`, and
        :class:`http.client.IncompleteRead` if the stream ends before the body does.
        """
        if self.fp is None:
            return 0
        view, received = memoryview(buffer), 0
        if not self.chunked:
            received = self.fp.readinto1(view if self.length is None else view[: self.length])
            if self.length is not None:
                if received == 0 < self.length:
                    raise http.client.IncompleteRead(b"", self.length)
                self.length -= received
            if received == 0 or self.length == 0:
                self._close_conn()  # type: ignore[attr-defined]  # not in its stubs, nor is the next
            return received
        while received < min(len(view), _WORTHWHILE):
            left = self._get_chunk_left()  # type: ignore[attr-defined]
            if left is None:
                break
            count = self.fp.readinto1(view[received : received + left])
            if count == 0:
                raise http.client.IncompleteRead(b"", left)
            self.chunk_left = left - count
            received += count
        return received

    def _read_next_chunk_size(self) -> int:
        """The size of the next chunk in bytes (RFC 9112 section 7.1).

        The original reads it by ``int()``, which takes a sign, "0x" and underscores for part of a number.
        """
        line: bytes = self.fp.readline(_MAX_CHUNK_LINE + 1)
        if len(line) <= _MAX_CHUNK_LINE and not line.endswith(b"\n"):
            raise http.client.IncompleteRead(b"")
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            self.close()
            raise FramingError("a chunk of its answer is malformed")
        return int(match[1], 16)
