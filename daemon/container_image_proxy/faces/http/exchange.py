"""One request through a WSGI application (PEP 3333), and its answer through h11 onto the channel.

The head leaves together with the first non-empty chunk, so that an application can fail cleanly until then. Afterwards
a failure can only cut the connection, which the caller does. Chunks are passed on as they are: no payload is copied.
Must not know the application. Spec: PEP 3333, RFC 9112.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote_to_bytes

import h11

from container_image_proxy.faces.http.request_head import RefusedRequestError
from container_image_proxy.faces.http.response_head import response_head

if TYPE_CHECKING:
    from types import TracebackType

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.core.peer import Peer
    from container_image_proxy.faces.http.channel import Channel

Environ = dict[str, Any]
ExceptionInfo = tuple[type[BaseException], BaseException, "TracebackType"]
Application = Callable[[Environ, Callable[..., Callable[[bytes], None]]], Iterable[bytes | memoryview]]

_TARGET: Final = re.compile(rb"(?:[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*|(?=/))(/[^?#]*)?(?:\?([^#]*))?")
# Our own keys of the environ: the peer, the context of its request, the path before percent-decoding, a dict for fields
# of the access record, and whether a chunk of the body may be a memoryview, which is sent before the next is asked for.
PEER: Final = "container_image_proxy.peer"
CONTEXT: Final = "container_image_proxy.context"
RAW_PATH: Final = "container_image_proxy.raw_path"
LOG_FIELDS: Final = "container_image_proxy.log"
TAKES_VIEWS: Final = "container_image_proxy.takes_views"

_UNPREFIXED: Final = {"CONTENT_TYPE", "CONTENT_LENGTH"}
_BODILESS: Final = {204, 304}
_NEEDS_CHUNKS: Final = "an answer of unknown length needs HTTP/1.1"


def split_target(target: bytes) -> tuple[str, str]:
    """Path and query, percent-encoded, of an origin-form or absolute-form target (RFC 9112 section 3.2).

    Raises :class:`RefusedRequestError` for any other form.
    """
    match = _TARGET.fullmatch(target)
    if match is None:
        raise RefusedRequestError(HTTPStatus.BAD_REQUEST, "the request target must be a path or an absolute URL")
    return (match[1] or b"/").decode("ascii"), (match[2] or b"").decode("ascii")


def build_environ(request: h11.Request, peer: Peer, context: Context, details: dict[str, str]) -> Environ:
    """The environ of a request (PEP 3333). ``details`` takes fields for the access log."""
    path, query = split_target(request.target)
    environ: Environ = {
        "REQUEST_METHOD": request.method.decode("ascii"),
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": f"HTTP/{request.http_version.decode('ascii')}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        RAW_PATH: path,
        PEER: peer,
        CONTEXT: context,
        LOG_FIELDS: details,
        TAKES_VIEWS: True,
    }
    for name, value in request.headers:
        # The environ has underscores for hyphens: "If_Range" would pass for "If-Range".
        if b"_" in name:
            continue
        key = name.decode("ascii").upper().replace("-", "_")
        key = key if key in _UNPREFIXED else f"HTTP_{key}"
        text = value.decode("latin-1")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    return environ


class Exchange:
    """A request and its answer. ``status`` and ``sent`` (bytes of body) tell how far it got.

    ``details`` are for the access log. ``last`` says that the connection closes after the answer.
    """

    def __init__(
        self, request: h11.Request, protocol: h11.Connection, channel: Channel, send_seconds: float, *, last: bool
    ) -> None:
        self._request = request
        self._protocol = protocol
        self._channel = channel
        self._send_seconds = send_seconds
        self._last = last
        self.head_only = request.method == b"HEAD"
        self.details: dict[str, str] = {}
        self._head: h11.Response | None = None
        self.status = 0
        self.sent = 0
        self.committed = False
        """Whether anything has been sent, so that no other answer is possible."""
        self._length: int | None = None
        """The size in bytes of a body that h11 is told of at its end."""

    def run(self, application: Application, peer: Peer, context: Context) -> None:
        """Call the application and send its answer. Raises what the application, h11 or the channel raise."""
        body = application(build_environ(self._request, peer, context, self.details), self._start_response)
        try:
            for chunk in body:
                if chunk:
                    self._write(chunk)
                if self.head_only:
                    break
            buffers = [] if self.committed else self._encode_head()
            if self._length is not None:
                if self.sent < self._length:
                    raise RuntimeError("the application's answer is shorter than it said")
                self._encode(h11.Data(data=cast("bytes", _Body(self._length))))
            self._send(buffers + self._encode(h11.EndOfMessage()))
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExceptionInfo | None = None
    ) -> Callable[[bytes], None]:
        """PEP 3333, "The start_response() Callable"."""
        if exc_info is not None and self.committed:
            raise exc_info[1].with_traceback(exc_info[2])
        if exc_info is None and self._head is not None:
            raise RuntimeError("start_response was called a second time without exc_info")
        self._head = response_head(status, tuple(headers), last=self._last)
        self.status = self._head.status_code
        return self._write

    def _write(self, chunk: bytes | memoryview) -> None:
        buffers = [] if self.committed else self._encode_head()
        if self._length is not None:
            if self.sent + len(chunk) > self._length:
                raise RuntimeError("the application's answer is longer than it said")
            buffers.append(chunk)
        else:
            buffers += self._encode(h11.Data(data=b"" if self.head_only else cast("bytes", chunk)))
        self._send(buffers)
        self.sent += 0 if self.head_only else len(chunk)

    def _encode_head(self) -> list[bytes | memoryview]:
        """The head. The chunks of a body of known length are sent without h11, which is told of all of them at the end:
        its events would cost more than everything else that is done for a chunk.
        """
        head = self._head
        if head is None:
            raise RuntimeError("the application has not called start_response")
        fields = head.headers.raw_items()  # the headers themselves are slow to go through
        length = next((int(value) for name, value in fields if name.lower() == b"content-length"), None)
        has_body = not (self.head_only or head.status_code in _BODILESS)
        if self._protocol.their_http_version == b"1.0" and has_body and length is None:
            # Without chunks a client could not tell a whole answer from a cut one.
            raise RefusedRequestError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, _NEEDS_CHUNKS)
        if has_body:
            self._length = length
        return [self._protocol.send(head) or b""]

    def _encode(self, event: h11.Data | h11.EndOfMessage) -> list[bytes | memoryview]:
        return list(self._protocol.send_with_data_passthrough(event) or ())

    def _send(self, buffers: list[bytes | memoryview]) -> None:
        self.committed = True
        self._channel.send([buffer for buffer in buffers if buffer], self._send_seconds)


class _Body:
    """Stands for a whole body, as what sendfile would be given does (h11, "send_with_data_passthrough")."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length
