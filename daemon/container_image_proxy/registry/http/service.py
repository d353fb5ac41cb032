"""HTTP towards a service that is no registry, over a Unix socket, TCP or TLS: one GET for each connection.

There are no proxies, redirects or logins, because whoever names the service means that one. Framing and deadlines are
those of all connections. Must not know any API. Spec: RFC 9112.
"""

from __future__ import annotations

import errno
import socket
import ssl
from http.client import HTTPException
from typing import TYPE_CHECKING, Final, cast

from msgspec import Struct

from container_image_proxy import __version__
from container_image_proxy.registry.http.connect import connect
from container_image_proxy.registry.http.failures import diagnose
from container_image_proxy.registry.http.response import FramedResponse
from container_image_proxy.registry.http.sockets import PunctualSocket, PunctualTLSSocket
from container_image_proxy.registry.http.tls import client_context
from container_image_proxy.registry.http.tls_failures import is_plain_text

if TYPE_CHECKING:
    from typing import Self

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.certificates import TlsFiles

_SLICE: Final = 64 * 1024
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM})


class Service(Struct, frozen=True):
    """Where the service is: at the Unix socket ``path``, or at ``host`` and ``port``, under TLS if ``tls`` is set.

    Without ``verify`` any certificate is accepted.
    """

    path: str | None = None
    host: str = "localhost"
    port: int = 0
    tls: TlsFiles | None = None
    verify: bool = True


class ServiceFailure(Exception):  # noqa: N818 - the caller makes the error, which says whose service it is
    """No answer, or not all of it. ``retryable`` is as in :class:`UpstreamError`. The text has no subject."""

    def __init__(self, reason: str, *, retryable: bool) -> None:
        super().__init__(reason)
        self.retryable = retryable


class Answer:
    """An answer while it is read. Whoever asked for it closes it. ``patience`` (seconds) bounds each wait for bytes."""

    def __init__(self, connection: PunctualSocket | PunctualTLSSocket, context: Context, patience: float) -> None:
        self._connection = connection
        self._context = context
        self._patience = patience
        self._response = FramedResponse(connection, method="GET")

    def begin(self) -> Self:
        """Read the head. Raises :class:`ServiceFailure`."""
        try:
            self._connection.wait_under(self._context, idle=self._patience)
            self._response.begin()
        except (HTTPException, OSError) as error:
            raise _failure(self._connection.broken or error) from None
        return self

    @property
    def status(self) -> int:
        """The status code."""
        return self._response.status

    def header(self, name: str) -> str | None:
        """A header's value; None without one."""
        return self._response.headers.get(name)

    def readinto(self, buffer: memoryview) -> int:
        """Fill the beginning of ``buffer``. Returns the number of bytes, 0 only at the end of the body.

        Raises :class:`ServiceFailure`.
        """
        try:
            count = self._response.readinto1(buffer)
        except (HTTPException, OSError) as error:
            raise _failure(self._connection.broken or error) from None
        if count == 0 and self._connection.broken is not None:  # a socket that fails says "end" first (see sockets)
            raise _failure(self._connection.broken)
        return count

    def read_all(self, limit: int) -> bytes:
        """The whole body. Raises :class:`ServiceFailure`, also if it has more than ``limit`` bytes."""
        body, buffer = bytearray(), memoryview(bytearray(_SLICE))
        while count := self.readinto(buffer):
            body += buffer[:count]
            if len(body) > limit:
                raise ServiceFailure(f"its answer is longer than {limit} bytes", retryable=False)
        return bytes(body)

    def close(self) -> None:
        """End the connection."""
        self._response.close()
        self._connection.close()


def get(service: Service, target: str, context: Context, *, patience: float, connect_timeout: float) -> Answer:
    """The answer to a GET of ``target``, a path whose special characters are percent-encoded.

    ``patience`` bounds the waits for the head and for each piece of the body, ``connect_timeout`` all that comes
    before, both in seconds. Raises :class:`ServiceFailure`.
    """
    try:
        connection = _connect(service, context.within(connect_timeout))
    except ssl.SSLError as error:
        raise _failure(error) from None
    except OSError as error:
        reason = error.strerror or "no connection in time"
        raise ServiceFailure(reason, retryable=error.errno not in _DENIED) from None
    answer = None
    try:
        host = "localhost" if service.path is not None else f"{service.host}:{service.port}"
        head = (
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: container-image-proxy/{__version__}\r\n"
            "Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
        )
        connection.settimeout(connect_timeout)
        connection.sendall(head.encode("ascii"))
        answer = Answer(connection, context, patience)
        return answer.begin()
    except BaseException as error:
        (answer or connection).close()
        if isinstance(error, OSError):
            raise _failure(error) from None
        raise


def _connect(service: Service, context: Context) -> PunctualSocket | PunctualTLSSocket:
    is_local = service.path is not None
    connection = PunctualSocket(socket.AF_UNIX) if is_local else connect(service.host, service.port, context)
    try:
        connection.settimeout(max(0.0, context.deadline.left))
        if service.path is not None:
            connection.connect(service.path)
        elif service.tls is not None:
            tls = client_context(service.tls, verify=service.verify)
            return cast("PunctualTLSSocket", tls.wrap_socket(connection, server_hostname=service.host))
    except BaseException:
        connection.close()
        raise
    return connection


def _failure(error: BaseException) -> ServiceFailure:
    if isinstance(error, ssl.SSLError) and is_plain_text(error):
        return ServiceFailure("it does not speak TLS, which http:// would ask it without", retryable=False)
    _, reason, retryable = diagnose(error, "connect")
    return ServiceFailure(reason, retryable=retryable)
