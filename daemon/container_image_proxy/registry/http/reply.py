"""An answer while it is read: its status and headers, and its body in bounded pieces of the bytes on the wire."""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPException
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from urllib3.exceptions import HTTPError

from container_image_proxy.concurrency.memory import SMALL, unmetered
from container_image_proxy.config.limits import KIB
from container_image_proxy.errors import RegistryError, UpstreamError
from container_image_proxy.registry.http.coding import GZIP_MAGIC, DamagedGzipError, gunzip, may_be_gzip, parse_codings
from container_image_proxy.registry.http.failures import error_for_exception, error_for_status, parse_error_codes
from container_image_proxy.registry.http.headers import parse_retry_after
from container_image_proxy.registry.http.sockets import step

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests

    from container_image_proxy.config.limits import Limits
    from container_image_proxy.registry.http.request import Request

REDIRECTS: Final = frozenset(
    {
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.SEE_OTHER,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    }
)
_SMALL: Final = 16 * KIB
_PIECE: Final = 64 * KIB


class Reply:
    """One answer. Whoever gets it closes it, or reads it to its end; then the connection can be used again."""

    def __init__(self, response: requests.Response, request: Request, limits: Limits) -> None:
        self._raw: Any = response.raw
        self._patience = limits.idle_timeout
        """In seconds: waiting uses it up, and what arrives renews it at ``minimum_rate``."""
        self._limits = limits
        self.request = request
        self.status: int = response.status_code
        self._error: UpstreamError | None = None
        self.length: int | None = response.raw.length_remaining
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
        """What the body went through on the way, as far as its label can be believed."""
        return parse_codings(self.header_lines("Content-Encoding"))

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes: fewer at the end of the body or of what came before a failure, none only at the end.

        Raises :class:`UpstreamError` when the connection fails, stalls or drips.
        """
        limits = self._limits
        with step(limits.idle_timeout + size / limits.minimum_rate, idle=limits.idle_timeout) as running:
            try:
                data: bytes = self._raw.read(size, decode_content=False)
            except HTTPError as error:
                raise self._failed(running.failure or error) from None
        if not data and running.failure is not None:  # a trailer that never ended, taken for its end
            raise self._failed(running.failure)
        return data

    def readinto(self, buffer: memoryview) -> int:
        """Receive into the beginning of ``buffer`` what is there: how many bytes, none only at the end.

        Raises :class:`UpstreamError` when the connection fails, stalls or drips.
        """
        limits, framed, began = self._limits, self._raw.framed, monotonic()
        with step(self._patience, idle=limits.idle_timeout) as running:
            try:
                count: int = framed.readinto1(buffer)
            except (HTTPException, OSError) as error:
                raise self._failed(running.failure or error) from None
        earned = count / limits.minimum_rate
        self._patience = min(limits.idle_timeout, self._patience - (monotonic() - began) + earned)
        if count == 0 and running.failure is not None:  # a trailer that never ended, taken for its end
            raise self._failed(running.failure)
        if framed.isclosed():  # at its end the connection can be used again
            self._raw.release_conn()
        return count

    def _failed(self, cause: Exception) -> UpstreamError:
        return error_for_exception(cause, phase=self.request.phase, endpoint=self.endpoint)

    def read_all(self, limit: int, take: Callable[[int], object] = unmetered) -> bytes | None:
        """The whole body, and the reply is closed; None if it is longer than ``limit``.

        A document that begins as a gzip does, and is said to be one, was made one on the way: that is undone. ``take``
        is asked for the memory.
        """
        body = self._read_encoded(limit, take)
        if body is None or not body.startswith(GZIP_MAGIC) or not may_be_gzip(self.codings):
            return body
        try:
            document = gunzip(body, min(limit, SMALL))
            take(limit if document is None else len(document))
            return gunzip(body, limit) if document is None else document
        except DamagedGzipError:
            raise RegistryError(
                f"{self.endpoint} sent a damaged gzip of the {self.request.phase}",
                phase=self.request.phase,
                endpoint=self.endpoint,
                upstream_status=self.status,
            ) from None

    def _read_encoded(self, limit: int, take: Callable[[int], object] = unmetered) -> bytes | None:
        limits = self._limits
        body = bytearray()
        try:
            if self.length is not None and self.length > limit:
                return None
            with step(limits.idle_timeout + limit / limits.minimum_rate, idle=limits.idle_timeout):
                while len(body) <= limit and (piece := self.read(min(_PIECE, limit + 1 - len(body)))):
                    take(len(piece))
                    body += piece
        finally:
            self.close()
        return bytes(body) if len(body) <= limit else None

    def error(self) -> UpstreamError:
        """The error that this answer stands for; its body is read once, for error codes, and the reply is closed."""
        if self._error is None:
            self._error = error_for_status(
                self.status,
                parse_error_codes(self._error_body()),
                phase=self.request.phase,
                endpoint=self.endpoint,
                retry_after=parse_retry_after(self.header("Retry-After")),
            )
        return self._error

    def _error_body(self) -> bytes:
        with suppress(UpstreamError):
            return self.read_all(self._limits.error_size) or b""
        return b""

    def discard(self) -> None:
        """Be done with the reply; the connection survives if what is left is small."""
        if self.length is not None and self.length <= _SMALL:
            with suppress(UpstreamError):
                self._read_encoded(_SMALL)
        self.close()

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it. May be called again."""
        self._raw.close()
        self._raw.release_conn()
