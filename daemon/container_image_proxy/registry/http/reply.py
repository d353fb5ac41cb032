"""An answer while it is read: its status and headers, and its body in bounded pieces of the bytes on the wire."""

from __future__ import annotations

from contextlib import suppress
from http.client import HTTPException
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from urllib3.exceptions import HTTPError

from container_image_proxy.concurrency.memory import SMALL, unmetered
from container_image_proxy.config.limits import KIB
from container_image_proxy.errors import RegistryError, UpstreamError
from container_image_proxy.registry.http.coding import GZIP_MAGIC, DamagedGzipError, gunzip, may_be_gzip, parse_codings
from container_image_proxy.registry.http.failures import error_for_exception, error_for_status, parse_error_codes
from container_image_proxy.registry.http.headers import parse_retry_after
from container_image_proxy.registry.http.sockets import Wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from urllib3.response import HTTPResponse

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.limits import Limits
    from container_image_proxy.registry.http.request import Request
    from container_image_proxy.registry.http.response import FramedResponse

_E = TypeVar("_E", bound=UpstreamError)

_SMALL: Final = 16 * KIB
_PIECE: Final = 64 * KIB


class Reply:
    """One answer. Whoever gets it closes it, or reads it to its end; then the connection can be used again.

    What was sent with a context that ended with the head is read with another one.
    """

    def __init__(self, raw: HTTPResponse, framed: FramedResponse, request: Request, limits: Limits) -> None:
        self._raw = raw
        self._framed = framed
        self._limits = limits
        self.request = request
        self.status = raw.status
        self._error: UpstreamError | None = None
        self.length: int | None = raw.length_remaining
        """The size of the body in bytes, if the head tells it."""

    @property
    def endpoint(self) -> str:
        """Who really answered, as host and port."""
        return self.request.target.origin.authority

    def header(self, name: str) -> str | None:
        """A header's value; of several lines the first, as other clients take it."""
        return next(iter(self.header_lines(name)), None)

    def header_lines(self, name: str) -> tuple[str, ...]:
        """The values of all lines of a header."""
        return tuple(self._raw.headers.getlist(name))

    @property
    def codings(self) -> tuple[str, ...]:
        """The content codings that the label names. It may be wrong (contrib/adr/0021)."""
        return parse_codings(self.header_lines("Content-Encoding"))

    def read(self, context: Context, size: int) -> bytes:
        """At most ``size`` bytes: fewer at the end of the body or of what came before a failure, none only at the end.

        Raises :class:`UpstreamError` when the connection fails, stalls or is too slow.
        """
        if self._framed.isclosed():  # after the end of the body another request may have the connection
            return b""
        limits = self._limits
        # The time that the slowest transfer of so many bytes takes that is allowed.
        context = context.within(limits.idle_timeout + size / limits.minimum_rate)
        wait = self._framed.socket.wait_under(context, idle=limits.idle_timeout)
        try:
            data: bytes = self._raw.read(size, decode_content=False)
        except HTTPError as error:
            raise self.failed(wait.failure or error) from None
        if not data and wait.failure is not None:  # a trailer that never ended, taken for its end
            raise self.failed(wait.failure)
        return data

    def body(self, context: Context) -> Body:
        """What can be read of the body without a limit."""
        return Body(self, self._raw, self._framed, context, self._limits)

    def fault(self, kind: type[_E], reason: str, **more: Any) -> _E:
        """As :meth:`Request.fault`, of the request that this is the answer to: redirects may have led elsewhere."""
        return self.request.fault(kind, reason, **more)

    def failed(self, cause: Exception) -> UpstreamError:
        """What it means that its body could not be read."""
        return error_for_exception(self.request, cause)

    def read_all(self, context: Context, limit: int, take: Callable[[int], object] = unmetered) -> bytes | None:
        """The whole body, and the reply is closed; None if it is longer than ``limit``.

        A document that begins as a gzip does, and is labelled as one, was compressed on the way, and is decompressed.
        ``take`` is called with the size in bytes of what is held in memory.
        """
        body = self._read_encoded(context, limit, take)
        if body is None or not body.startswith(GZIP_MAGIC) or not may_be_gzip(self.codings):
            return body
        try:
            document = gunzip(body, min(limit, SMALL))
            take(limit if document is None else len(document))
            return gunzip(body, limit) if document is None else document
        except DamagedGzipError:
            reason = f"{self.endpoint} sent a damaged gzip of the {self.request.phase}"
            raise self.fault(RegistryError, reason, upstream_status=self.status) from None

    def _read_encoded(self, context: Context, limit: int, take: Callable[[int], object] = unmetered) -> bytes | None:
        body = bytearray()
        context = context.within(self._limits.idle_timeout + limit / self._limits.minimum_rate)
        try:
            if self.length is not None and self.length > limit:
                return None
            while len(body) <= limit and (piece := self.read(context, min(_PIECE, limit + 1 - len(body)))):
                take(len(piece))
                body += piece
        finally:
            self.close()
        return bytes(body) if len(body) <= limit else None

    def error(self, context: Context) -> UpstreamError:
        """The error that this answer stands for; its body is read once, for error codes, and the reply is closed."""
        if self._error is None:
            body = b""
            with suppress(UpstreamError):
                body = self.read_all(context, self._limits.error_size) or b""
            retry_after = parse_retry_after(self.header("Retry-After"), time())
            self._error = error_for_status(self.request, self.status, parse_error_codes(body), retry_after=retry_after)
        return self._error

    def discard(self, context: Context) -> None:
        """Be done with the reply; the connection survives if what is left is small."""
        if self.length is not None and self.length <= _SMALL:
            with suppress(UpstreamError):
                self._read_encoded(context, _SMALL)
        self.close()

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it. May be called again."""
        self._raw.close()
        self._raw.release_conn()


class Body:
    """The body of an answer, as it comes. Only the time during which the sender is waited for counts as slow.

    There are ``Limits.idle_timeout`` seconds for the next byte. Waiting uses them up, and what arrives renews them at
    ``minimum_rate``.
    """

    def __init__(
        self, reply: Reply, raw: HTTPResponse, framed: FramedResponse, context: Context, limits: Limits
    ) -> None:
        self._reply = reply
        self._raw = raw
        self._framed = framed
        self._limits = limits
        self._patience = limits.idle_timeout
        self._wait = Wait(context, limits.idle_timeout)
        self._end = context.deadline.at

    def readinto(self, buffer: memoryview) -> int:
        """Receive into the beginning of ``buffer`` what is there: how many bytes, none only at the end.

        Raises :class:`UpstreamError` when the connection fails, stalls or is too slow.
        """
        limits, framed, began = self._limits, self._framed, monotonic()
        if framed.isclosed():  # after the end of the body another request may have the connection
            return 0
        wait = framed.socket.wait = self._wait
        wait.end = min(self._end, began + self._patience)
        try:
            count = framed.readinto1(buffer)
        except (HTTPException, OSError) as error:
            raise self._reply.failed(wait.failure or error) from None
        earned = count / limits.minimum_rate
        self._patience = min(limits.idle_timeout, self._patience - (monotonic() - began) + earned)
        if count == 0 and wait.failure is not None:  # a trailer that never ended, taken for its end
            raise self._reply.failed(wait.failure)
        if framed.isclosed():  # at its end the connection can be used again
            self._raw.release_conn()
        return count
