"""The HTTP library: the parts of urllib3 and requests that are replaced, so that our rules hold for connections.

No other module uses ``requests``. Of urllib3 others use the exceptions and the answer. Nothing is used that would
decide something for us: no environment, no cookies, no redirects, no decoding, no retries, no trust store of the
library's own. So ``requests``' adapter is called and no ``Session``, which reads the bodies of redirects whole even
when it does not follow them.

Most of what is overridden is public API. ``tests/registry/http/test_pools.py`` pins the rest, and says what a new
version of the library has changed.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final, cast

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError, ProxyError

from container_image_proxy.concurrency.context import AddressPolicy
from container_image_proxy.registry.http.connect import connect
from container_image_proxy.registry.http.library import HTTPAdapter, requests
from container_image_proxy.registry.http.response import FramedResponse
from container_image_proxy.registry.http.sockets import PunctualSocket, PunctualTLSSocket
from container_image_proxy.registry.http.socks import open_tunnel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from urllib3._base_connection import BaseHTTPConnection
    from urllib3.response import HTTPResponse

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.registry.http.socks import SocksProxy

# At DEBUG it shows URLs with their signatures; at WARNING that a pool was full, which is nothing to warn of.
logging.getLogger("urllib3").setLevel(logging.ERROR)
FAILURES: Final = (requests.RequestException, HTTPError, TimeoutError)
"""What the library raises when there is no answer."""
_HOSTS: Final = 16  # that keep idle connections: a registry may redirect to any number of hosts


class RoundTrip:
    """One request and the head of its answer: what we and our connection class tell each other past the library.

    ``context`` and ``idle`` (seconds) bound its waits. ``request_target`` is sent byte for byte: the library would
    rewrite its percent-encoding, which breaks signed links. ``socks`` is the proxy to connect through. ``answer`` is
    the reader of the last head, be it a proxy's.
    """

    def __init__(self, context: Context, *, idle: float, request_target: str, socks: SocksProxy | None = None) -> None:
        self.context = context
        self.idle = idle
        self.request_target = request_target
        self.socks = socks
        self.has_connected = False
        self.answer: FramedResponse | None = None

    @property
    def failure(self) -> OSError | None:
        """What broke the connection while it received, if anything did. The library's exceptions tell less."""
        return self.answer.socket.broken if self.answer is not None else None


class Patience(float):
    """A time-out in seconds that carries a trip: the library hands nothing else down to the connection."""

    trip: RoundTrip

    @classmethod
    def of(cls, trip: RoundTrip, seconds: float) -> Self:
        """A time-out of ``seconds`` that carries ``trip``."""
        patience = cls(seconds)
        patience.trip = trip
        return patience


class PlainConnection(HTTPConnection):
    """Opens its connections by :func:`connect`, a proxy's included, and reads answers by :class:`FramedResponse`."""

    @property
    def trip(self) -> RoundTrip:
        """The one that is under way."""
        if not isinstance(self.timeout, Patience):
            raise TypeError("urllib3 did not hand on the time-out that it was given")
        return self.timeout.trip

    def connect(self) -> None:
        """Connect, and note that it succeeded."""
        super().connect()
        self.trip.has_connected = True

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> None:  # noqa: ARG002 - urllib3's
        """Send the request for the trip's target instead of ``url``, which the pool has rewritten."""
        if not self.is_closed:  # a kept connection
            self.trip.has_connected = True
        try:
            super().request(method, self.trip.request_target, *arguments, **options)
        except ssl.SSLEOFError as error:
            # A server that refuses a request early closes after its answer. The pool reads it after this error alone.
            raise BrokenPipeError(errno.EPIPE, "the server closed the connection") from error

    def response_class(self, sock: Any, *arguments: Any, **options: Any) -> FramedResponse:  # type: ignore[override]  # callable
        """The reader of the next answer, be it a proxy's. It receives under the trip's context."""
        trip = self.trip
        # For TLS within TLS, urllib3 has an object that is no socket. The outer socket is the one that waits.
        receiving = sock if isinstance(sock, PunctualSocket | PunctualTLSSocket) else sock.socket
        receiving.wait_under(trip.context, idle=trip.idle)
        trip.answer = FramedResponse(sock, *arguments, **options)
        trip.answer.socket = receiving
        return trip.answer

    def _tunnel(self) -> None:
        """Have the proxy connect to the origin (RFC 9110 section 9.3.6)."""
        super()._tunnel()
        # Receiving the proxy's answer has set short time-outs. The TLS handshake that follows has a whole one.
        self.sock.settimeout(float(self.timeout or 0.0))

    def _new_conn(self) -> socket.socket:
        trip, seconds, host = self.trip, float(self.timeout or 0.0), self.host.strip("[]")
        if trip.socks is not None:
            return _connect_by_way_of(trip.socks, host, self.port, trip.context, seconds)
        context = trip.context.within(seconds)
        # The administrator chose the proxy, and the proxy resolves what lies behind it.
        if self.proxy is not None:
            context = context.towards(AddressPolicy.ANYWHERE)
        try:
            connection = connect(host, self.port, context)
        except socket.gaierror as error:
            raise NameResolutionError(host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "timed out") from error
        except OSError as error:
            raise NewConnectionError(self, "cannot connect") from error
        connection.settimeout(seconds)
        return connection


def _connect_by_way_of(proxy: SocksProxy, host: str, port: int, context: Context, seconds: float) -> socket.socket:
    """A connection to ``host`` through ``proxy``. Connecting to the proxy may take ``seconds``, and so may its reply.

    Raises ``ProxyError``.
    """
    connection = None
    try:
        connection = connect(proxy.host, proxy.port, context.within(seconds).towards(AddressPolicy.ANYWHERE))
        connection.settimeout(seconds)
        connection.wait_under(context.within(seconds), idle=seconds)
        open_tunnel(connection, proxy, host, port)
        connection.settimeout(seconds)  # receiving has set short time-outs
    except OSError as error:
        if connection is not None:
            connection.close()
        raise ProxyError("no connection by way of the SOCKS proxy", error) from error
    return connection


class TLSConnection(PlainConnection, HTTPSConnection):
    """A :class:`PlainConnection` under TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = PlainConnection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = TLSConnection

    def _validate_conn(self, conn: BaseHTTPConnection) -> None:
        """Connect early as the original does, but do not warn: the administrator chose not to verify the host."""
        if conn.is_closed:
            conn.connect()


_POOL_CLASSES: Final = {"http": _Pool, "https": _TLSPool}


class Adapter(HTTPAdapter):
    """requests' adapter with our own TLS context and our own way to connect, to the proxy as well."""

    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        self._context = context
        super().__init__(pool_connections=_HOSTS, pool_maxsize=connections)

    def ask(
        self,
        trip: RoundTrip,
        method: str,
        origin: str,
        headers: Mapping[str, str],
        form: Mapping[str, str] | None,
        *,
        connect_seconds: float,
        proxy: str | None,
    ) -> HTTPResponse:
        """The answer, its body unread. A ``form`` is sent as the body of a POST.

        ``origin`` is a URL without path; the trip carries the rest of the target. ``proxy`` is the URL of a proxy of
        HTTP. Raises one of ``FAILURES``.
        """
        # Piece by piece: preparing a whole Request would read the URL once more, and look for cookies.
        request = requests.PreparedRequest()
        request.prepare_method(method)
        request.url = f"{origin}/"
        request.prepare_headers(headers)
        request.prepare_body(form, None)
        response = self.send(
            request,
            stream=True,
            timeout=(Patience.of(trip, connect_seconds), Patience.of(trip, trip.idle)),
            verify=self._context.verify_mode != ssl.CERT_NONE,
            proxies={origin.partition(":")[0]: proxy} if proxy is not None else {},
        )
        return cast("HTTPResponse", response.raw)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:  # noqa: FBT001, FBT002 - requests'
        """Make pools of our connections."""
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._context, **options)
        self.poolmanager.pool_classes_by_scheme = _POOL_CLASSES

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Make pools of our connections by way of a proxy."""
        manager = super().proxy_manager_for(proxy, ssl_context=self._context, **options)
        manager.pool_classes_by_scheme = _POOL_CLASSES
        return manager

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """Wrap an answer for :meth:`ask` to unwrap. The original would read all cookies, in quadratic time."""
        response = requests.Response()
        response.status_code = resp.status
        response.raw = resp
        response.request = req
        return response

    def cert_verify(self, *_: Any) -> None:
        """Leave the context as it is; the original would add a bundle of requests' own."""

    def close(self) -> None:
        """Close the idle connections now; the original leaves them to the garbage collector."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 - iterating over it is not implemented
                manager.pools[key].close()
        super().close()
