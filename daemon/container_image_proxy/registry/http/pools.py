"""The HTTP library: what of urllib3 and requests is replaced, so that connections are opened and read by our rules.

The only user of ``requests``; of urllib3 others know the exceptions and the answer. Nothing of the comfort is used
that would decide something for us: no environment, no cookies, no redirects, no decoding, no retries, no trust store
of the library's own. So its adapter is called and not a ``Session``, which reads the bodies of redirects whole even
when it does not follow them.

Most of what is overridden is public. The rest, and what is only by chance as it has to be, is pinned by
``tests/registry/http/test_pools.py``, which says what a new version of the library has changed.
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
"""What the library raises where there is no answer."""
_HOSTS: Final = 16  # whose idle connections are kept: a registry may redirect to any number of hosts


class RoundTrip:
    """One request and the head of its answer: what its connection is told of it beside the HTTP library, and tells.

    ``context`` and ``idle`` (seconds) bound its waits. ``request_target`` is asked for byte for byte, where the library
    would rewrite its percent-encoding. ``socks`` is the proxy by way of which to connect. ``answer`` is what read the
    last head, a proxy's included.
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
        """What broke the connection, if it was while receiving. The library's exceptions tell less."""
        return self.answer.socket.broken if self.answer is not None else None


class Patience(float):
    """Seconds, and the trip that waits no longer: as a time-out the library hands both down to the connection."""

    trip: RoundTrip

    @classmethod
    def of(cls, trip: RoundTrip, seconds: float) -> Self:
        """``seconds`` for ``trip``."""
        patience = cls(seconds)
        patience.trip = trip
        return patience


class PlainConnection(HTTPConnection):
    """Opens its connections by :func:`connect`, a proxy's included, and reads answers by :class:`FramedResponse`."""

    @property
    def trip(self) -> RoundTrip:
        """The one under way."""
        if not isinstance(self.timeout, Patience):
            raise TypeError("urllib3 did not hand on the time-out that it was given")
        return self.timeout.trip

    def connect(self) -> None:
        """Connect, and note that it went well."""
        super().connect()
        self.trip.has_connected = True

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> None:  # noqa: ARG002 - urllib3's
        """Ask for the trip's target; ``url`` is the same after the pool has rewritten its percent-encoding."""
        if not self.is_closed:
            self.trip.has_connected = True
        try:
            super().request(method, self.trip.request_target, *arguments, **options)
        except ssl.SSLEOFError as error:
            # The server said why it closes before it did: this is the one error after which the pool reads on.
            raise BrokenPipeError(errno.EPIPE, "the server closed the connection") from error

    def response_class(self, sock: Any, *arguments: Any, **options: Any) -> FramedResponse:  # type: ignore[override]  # callable
        """The reader of the next answer, a proxy's included. It receives under the trip's context."""
        trip = self.trip
        # Of TLS within TLS, which is an object of urllib3's, the outer socket is what waits.
        receiving = sock if isinstance(sock, PunctualSocket | PunctualTLSSocket) else sock.socket
        receiving.wait_under(trip.context, idle=trip.idle)
        trip.answer = FramedResponse(sock, *arguments, **options)
        trip.answer.socket = receiving
        return trip.answer

    def _tunnel(self) -> None:
        """Have the proxy open the way. Its answer came in slices of time, and what follows has a time of its own."""
        super()._tunnel()
        self.sock.settimeout(float(self.timeout or 0.0))

    def _new_conn(self) -> socket.socket:
        trip, seconds, host = self.trip, float(self.timeout or 0.0), self.host.strip("[]")
        if trip.socks is not None:
            return _connect_by_way_of(trip.socks, host, self.port, trip.context, seconds)
        context = trip.context.within(seconds)
        # The proxy is the administrator's choice; what lies behind it is the proxy's to resolve.
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
    """A connection to ``host`` through ``proxy``, within ``seconds`` for each of the two; ``ProxyError``."""
    connection = None
    try:
        connection = connect(proxy.host, proxy.port, context.within(seconds).towards(AddressPolicy.ANYWHERE))
        connection.settimeout(seconds)
        connection.wait_under(context.within(seconds), idle=seconds)
        open_tunnel(connection, proxy, host, port)
        connection.settimeout(seconds)  # for what follows: its answers came in slices of time
    except OSError as error:
        if connection is not None:
            connection.close()
        raise ProxyError("no connection by way of the SOCKS proxy", error) from error
    return connection


class TLSConnection(PlainConnection, HTTPSConnection):
    """The same under TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = PlainConnection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = TLSConnection

    def _validate_conn(self, conn: BaseHTTPConnection) -> None:
        """Connect early as the original does, but do not warn: not to verify a host is the administrator's choice."""
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
        """The answer, its body unread. Of the target the library learns the ``origin`` alone, a URL: the rest goes by
        the trip. Raises one of ``FAILURES``.
        """
        request = requests.Request(method, f"{origin}/", headers=headers, data=form).prepare()
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
        """The same by way of a proxy."""
        manager = super().proxy_manager_for(proxy, ssl_context=self._context, **options)
        manager.pool_classes_by_scheme = _POOL_CLASSES
        return manager

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """What :meth:`ask` unwraps; the original would read the cookies, in quadratic time, to throw them away."""
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
