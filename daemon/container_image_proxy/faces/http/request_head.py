"""The strict gate before the HTTP parser: cuts bytes into request heads, refuses what others might read differently.

Pure: no socket, no clock. RFC 9112 section 2.2 (line ends), 3 (request line), 5.2 (obs-fold), 6.3 (framing); a request
has no body here, so the only framing allowed is none or ``Content-Length: 0``.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from container_image_proxy.errors import Error

_END: Final = b"\r\n\r\n"
_ILLEGAL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?=[^\n])|(?<!\r)\n")
_REQUEST_LINE: Final = re.compile(rb"[!-~]+ [!-~]+ HTTP/1\.[01]\r\n")
_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length:([^\r]*)")
_LENGTH: Final = re.compile(rb"[0-9]{1,20}")


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
        if illegal := _ILLEGAL.search(self._data, max(0, self._scanned - 1), length):
            raise _malformed(f"byte {illegal.start()} of the request head is a control character or half a line end")
        if not self._line_seen and self._data.find(b"\r\n", max(0, self._scanned - 1), length) >= 0:
            if not _REQUEST_LINE.match(self._data):
                raise _malformed("the first line is not a request line of HTTP/1.0 or HTTP/1.1")
            self._line_seen = True

    def _cut(self, length: int) -> bytes:
        head = bytes(self._data[:length])
        del self._data[:length]
        self._scanned = 0
        self._line_seen = False
        _check_framing(head.lower())
        return head


def _check_framing(head: bytes) -> None:
    if b"\r\n " in head or b"\r\n\t" in head:
        raise _malformed("a header field is folded over two lines")
    if b"\r\ntransfer-encoding:" in head:
        raise _malformed("Transfer-Encoding is not accepted: requests have no body here")
    if b"\r\ncontent-length:" in head:
        _check_length([value.strip(b" \t") for value in _CONTENT_LENGTH.findall(head)])


def _check_length(lengths: list[bytes]) -> None:
    if len(lengths) != 1 or not _LENGTH.fullmatch(lengths[0]):
        raise _malformed("Content-Length must be there once at most, as a plain number")
    if int(lengths[0]) != 0:
        raise RefusedRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "requests have no body here")


def _malformed(detail: str) -> RefusedRequestError:
    return RefusedRequestError(HTTPStatus.BAD_REQUEST, detail)
