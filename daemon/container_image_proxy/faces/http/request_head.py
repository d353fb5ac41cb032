"""The gate before the HTTP parser: cuts bytes into request heads, and refuses what h11 would let pass.

h11 itself refuses a malformed request line, field or length. This module refuses what h11 accepts, but what a parser
between the client and us, or an application behind us, might read differently. It also refuses every body, because no
request has one. Pure: no socket, no clock.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final, cast

import h11

from container_image_proxy.errors import Error

_END: Final = b"\r\n\r\n"
# RFC 9112 section 2.2: some parsers end a line at a lone CR or LF, h11 at a lone LF, so that a second request could
# hide behind it. RFC 9110 section 5.5: but for TAB, control characters in a value are invalid; h11 refuses a few.
_ILLEGAL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?=[^\n])|(?<!\r)\n")
# RFC 9112 section 2.3: h11 takes any version for one of HTTP/1. It waits for the whole head, where a client of HTTP/0.9
# has said everything with its first line.
_FIRST_LINE: Final = re.compile(rb"[^\r]* HTTP/1\.[01]\r\n")
_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length:([^\r]*)")
_SHOWN: Final = 200


class RefusedRequestError(Error):
    """A request that the server answers itself, with ``status`` and ``code``; the connection closes with the answer.

    ``retry_after`` is in seconds.
    """

    def __init__(
        self, status: HTTPStatus, detail: str, code: str = "UNSUPPORTED", *, retry_after: int | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.retry_after = retry_after


class HeadBuffer:
    """Bytes in, request heads out, in order; what follows a head stays for the next one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self._scanned = 0
        self._line_seen = False

    def __bool__(self) -> bool:
        return bool(self._data)

    def feed(self, data: bytes) -> None:
        """Append what the client sent."""
        self._data += data

    def take(self) -> bytes | None:
        """The next head with its empty line, None until it is whole; :class:`RefusedRequestError` if it cannot become
        one.
        """
        end = self._data.find(_END, max(0, self._scanned - len(_END)))
        length = end + len(_END) if end >= 0 else len(self._data)
        if length > self._limit:
            detail = f"a request head has at most {self._limit} bytes here"
            raise RefusedRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
        self._check(length)
        if end < 0:
            self._scanned = length
            return None
        return self._cut(length)

    def _check(self, length: int) -> None:
        """Refuse as soon as it is seen what cannot become a legal head; nothing is looked at twice."""
        start = max(0, self._scanned - 1)
        if illegal := _ILLEGAL.search(self._data, start, length):
            raise _malformed(f"byte {illegal.start()} of the request head is a control character or half a line end")
        if not self._line_seen and self._data.find(b"\r\n", start, length) >= 0:
            if not _FIRST_LINE.match(self._data):
                raise _malformed("the first line is not a request line of HTTP/1.0 or HTTP/1.1")
            self._line_seen = True

    def _cut(self, length: int) -> bytes:
        head = bytes(self._data[:length])
        del self._data[:length]
        self._scanned = 0
        self._line_seen = False
        lower = head.lower()
        # RFC 9112 section 5.2: h11 unfolds a folded field, other parsers see two, or one with a strange name.
        if b"\r\n " in lower or b"\r\n\t" in lower:
            raise _malformed("a header field is folded over two lines")
        # RFC 9112 section 6.3: a request has no body here, so its only framing is none, or one length of 0.
        if b"\r\ntransfer-encoding:" in lower:
            raise _malformed("Transfer-Encoding is not accepted: requests have no body here")
        lengths = _CONTENT_LENGTH.findall(lower)
        if len(lengths) > 1 or any(b"," in value for value in lengths):  # equal ones are one to h11
            raise _malformed("Content-Length must be there once at most")
        return head


def parse_head(protocol: h11.Connection, head: bytes) -> h11.Request:
    """The request that a head of :class:`HeadBuffer` is, and all of it; :class:`RefusedRequestError` for none."""
    protocol.receive_data(head)
    try:
        request = cast("h11.Request", protocol.next_event())
        following = protocol.next_event()
    except h11.RemoteProtocolError as error:
        raise _malformed(str(error)[:_SHOWN]) from error
    if not isinstance(following, h11.EndOfMessage):
        raise RefusedRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "requests have no body here")
    return request


def _malformed(detail: str) -> RefusedRequestError:
    return RefusedRequestError(HTTPStatus.BAD_REQUEST, detail)
