"""The gate before the HTTP parser: cuts bytes into request heads, and refuses heads that h11 would accept.

h11 itself refuses a malformed request line, field or length. This module refuses what h11 accepts, and what a parser
between the client and us, or an application behind us, might read differently. It also refuses every body, because no
request has one. Pure: no socket, no clock. Spec: RFC 9112 sections 2, 5 and 6.
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
    """A request that the server answers itself, by ``status`` and ``code``, and closes the connection.

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
    """Takes bytes and returns request heads of at most ``limit`` bytes. The bytes after a head are for the next one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self._scanned = 0  # bytes that were looked at: a head that comes byte by byte must not cost quadratic time
        self._line_seen = False

    def __bool__(self) -> bool:
        return bool(self._data)

    def feed(self, data: bytes) -> None:
        """Append bytes that the client sent."""
        self._data += data

    def take(self) -> bytes | None:
        """The next head with its empty line; None until it is whole.

        Raises :class:`RefusedRequestError` as soon as the bytes cannot become a head that is accepted.
        """
        end = self._data.find(_END, max(0, self._scanned - len(_END)))
        length = end + len(_END) if end >= 0 else len(self._data)
        if length > self._limit:
            detail = f"a request head has at most {self._limit} bytes here"
            raise RefusedRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
        start = max(0, self._scanned - 1)  # one byte again: a CR may have been the last
        if illegal := _ILLEGAL.search(self._data, start, length):
            raise _malformed(f"byte {illegal.start()} of the request head is a control character or half a line end")
        if not self._line_seen and self._data.find(b"\r\n", start, length) >= 0:
            if not _FIRST_LINE.match(self._data):
                raise _malformed("the first line is not a request line of HTTP/1.0 or HTTP/1.1")
            self._line_seen = True
        if end < 0:
            self._scanned = length
            return None
        head = bytes(self._data[:length])
        del self._data[:length]
        self._scanned = 0
        self._line_seen = False
        _check_fields(head.lower())
        return head


def _check_fields(head: bytes) -> None:
    """Raise :class:`RefusedRequestError` for fields of a head (in lower case) that parsers do not agree on."""
    # RFC 9112 section 5.2: h11 unfolds a folded field, other parsers see two, or one with a strange name.
    if b"\r\n " in head or b"\r\n\t" in head:
        raise _malformed("a header field is folded over two lines")
    # RFC 9112 section 6.3: a request has no body here, so its only framing is none, or one length of 0.
    if b"\r\ntransfer-encoding:" in head:
        raise _malformed("Transfer-Encoding is not accepted: requests have no body here")
    # h11 takes several equal lengths for one, and others take the first or the last.
    lengths = _CONTENT_LENGTH.findall(head)
    if len(lengths) > 1 or any(b"," in value for value in lengths):
        raise _malformed("Content-Length must be there once at most")


def parse_head(protocol: h11.Connection, head: bytes) -> h11.Request:
    """The request with the head that :class:`HeadBuffer` returned.

    Raises :class:`RefusedRequestError` if h11 finds it malformed, or it announces a body.
    """
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
