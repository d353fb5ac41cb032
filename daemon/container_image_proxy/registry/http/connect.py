"""Opening connections: resolve, check where the addresses lead, take the first that answers, in one budget (RFC 8305).

No HTTP here beyond the connection classes of urllib3 whose way of connecting is replaced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import ssl
import threading
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final, cast

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError, ProxyError

from container_image_proxy.concurrency.context import AddressPolicy
from container_image_proxy.registry.http.address_policy import verify_address
from container_image_proxy.registry.http.response import FramedResponse
from container_image_proxy.registry.http.sockets import PunctualSocket, PunctualTLSSocket
from container_image_proxy.registry.http.socks import open_tunnel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from urllib3._base_connection import BaseHTTPConnection
    from urllib3.response import HTTPResponse

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.registry.http.socks import SocksProxy

    Address = tuple[int, Any]

_STAGGER: Final = 0.25
"""So long the next address waits for the one before it (RFC 8305 section 5), in seconds."""


class Exchange:
    """One request and the head of its answer, as its connection is told of it beside the HTTP library, and tells.

    ``context`` and ``idle`` bound its waits. ``request_target`` is asked for byte for byte, where the library would
    rewrite its percent-encoding. ``socks`` is the proxy by way of which to connect.
    """

    def __init__(self, context: Context, *, idle: float, request_target: str, socks: SocksProxy | None) -> None:
        self.context = context
        self.idle = idle
        self.request_target = request_target
        self.socks = socks
        self.has_connected = False
        self.socket: PunctualSocket | PunctualTLSSocket | None = None

    @property
    def failure(self) -> OSError | None:
        """What broke the connection, if it was while receiving."""
        return self.socket.broken if self.socket is not None else None

    def receive_from(self, connection: Any) -> PunctualSocket | PunctualTLSSocket:
        """Let the answer be received under the context. Of TLS within TLS the outer socket is what waits."""
        self.socket = connection if isinstance(connection, PunctualSocket | PunctualTLSSocket) else connection.socket
        self.socket.wait_under(self.context, idle=self.idle)
        return self.socket


class Patience(float):
    """Seconds, and the exchange that waits no longer: as a time-out the HTTP library hands both to the connection."""

    exchange: Exchange

    @classmethod
    def of(cls, exchange: Exchange, seconds: float) -> Self:
        """``seconds`` for ``exchange``."""
        patience = cls(seconds)
        patience.exchange = exchange
        return patience


def connect(host: str, port: int, context: Context) -> PunctualSocket:
    """A TCP connection to ``host``.

    Raises ``OSError``, and :class:`RegistryError` if the name leads where the context does not let connections lead.
    """
    addresses = resolve(host, port, context)
    for _, address in addresses:
        verify_address(context.addresses, host, address[0])
    winner = _race(addresses, context)
    winner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return winner


def resolve(host: str, port: int, context: Context) -> list[Address]:
    """The addresses of ``host``, families alternating. The C library knows no time-out, so a thread waits for it."""
    answer: list[Any] = []
    done = threading.Event()

    def ask() -> None:
        try:
            answer.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answer.append(error)
        done.set()

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    with context.cancellation.calling(done.set):
        done.wait(max(0.0, min(context.deadline.left, threading.TIMEOUT_MAX)))
    if not answer:
        context.check()
        raise TimeoutError("name resolution timed out")
    if isinstance(answer[0], OSError):
        raise answer[0]
    if isinstance(answer[0], UnicodeError):
        raise socket.gaierror(socket.EAI_NONAME, "not a host name")
    return _alternate([(info[0], info[4]) for info in answer[0]])


def _alternate(addresses: list[Address]) -> list[Address]:
    first = [address for address in addresses if address[0] == addresses[0][0]]
    second = [address for address in addresses if address[0] != addresses[0][0]]
    return [address for pair in zip_longest(first, second) for address in pair if address is not None]


def _race(addresses: Sequence[Address], context: Context) -> PunctualSocket:
    """Start a connection to each address in turn, a moment apart; the first to succeed wins, the others are closed."""
    waiting = list(addresses)
    failure: OSError = TimeoutError("timed out")
    with contextlib.ExitStack() as contenders, selectors.DefaultSelector() as selector:
        while waiting or selector.get_map():
            if waiting:
                failure = _start(waiting.pop(0), contenders, selector) or failure
            for contender in _settled(selector, context):
                code = contender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    return _detached(contender)
                failure = OSError(code, os.strerror(code))
    raise failure


def _start(address: Address, contenders: contextlib.ExitStack, selector: selectors.BaseSelector) -> OSError | None:
    """Begin to connect; what failed at once, if it did."""
    try:
        contender = contenders.enter_context(PunctualSocket(address[0], socket.SOCK_STREAM))
        contender.settimeout(0)
        code = contender.connect_ex(address[1])
    except OSError as error:
        return error
    if code not in {0, errno.EINPROGRESS}:
        return OSError(code, os.strerror(code))
    selector.register(contender, selectors.EVENT_WRITE)
    return None


def _settled(selector: selectors.BaseSelector, context: Context) -> list[PunctualSocket]:
    """Those that succeeded or failed, no longer watched; waits a moment for one."""
    context.check()
    if not selector.get_map():
        return []
    settled = [
        cast("PunctualSocket", key.fileobj)
        for key, _ in selector.select(max(0.0, min(context.deadline.left, _STAGGER)))
    ]
    for contender in settled:
        selector.unregister(contender)
    return settled


def _detached(contender: PunctualSocket) -> PunctualSocket:
    """The same connection out of reach of what closes the losers."""
    winner = PunctualSocket(contender.family, contender.type, contender.proto, fileno=contender.detach())
    winner.settimeout(None)
    return winner


class _Dialling(HTTPConnection):
    """Opens its connections by :func:`connect`, a proxy's included."""

    @property
    def _exchange(self) -> Exchange:
        """The one under way."""
        if not isinstance(self.timeout, Patience):
            raise TypeError("urllib3 did not hand on the time-out that it was given")
        return self.timeout.exchange

    def connect(self) -> None:
        super().connect()
        self._exchange.has_connected = True

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> None:  # noqa: ARG002 - urllib3's
        """Ask for the exchange's target; ``url`` is the same after the pool has rewritten its percent-encoding."""
        if not self.is_closed:
            self._exchange.has_connected = True
        try:
            super().request(method, self._exchange.request_target, *arguments, **options)
        except ssl.SSLEOFError as error:
            # The server said why it closes before it did: this is the one error after which the pool reads on.
            raise BrokenPipeError(errno.EPIPE, "the server closed the connection") from error

    def response_class(self, sock: Any, *arguments: Any, **options: Any) -> FramedResponse:  # type: ignore[override]  # callable
        """The reader of the next answer, a proxy's included, which :meth:`getresponse` hands on."""
        self._framed = FramedResponse(sock, *arguments, **options)
        self._framed.socket = self._exchange.receive_from(sock)
        return self._framed

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # urllib3's, not http.client's
        """The answer. ``framed`` is the reader below it, which can read into memory of the caller's."""
        response = super().getresponse()
        response.framed = self._framed  # type: ignore[attr-defined]
        return response

    def _new_conn(self) -> socket.socket:
        exchange, seconds, host = self._exchange, float(self.timeout or 0.0), self.host.strip("[]")
        context = exchange.context.within(seconds)
        if exchange.socks is not None:
            return _connect_by_way_of(exchange.socks, host, self.port, exchange.context, seconds)
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
    except OSError as error:
        if connection is not None:
            connection.close()
        raise ProxyError("no connection by way of the SOCKS proxy", error) from error
    return connection


class _DiallingTLS(_Dialling, HTTPSConnection):
    """The same under TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Dialling


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _DiallingTLS

    def _validate_conn(self, conn: BaseHTTPConnection) -> None:
        """Connect early as the original does, but do not warn: not to verify a host is the administrator's choice."""
        if conn.is_closed:
            conn.connect()


POOL_CLASSES: Final = {"http": _Pool, "https": _TLSPool}
"""For ``PoolManager.pool_classes_by_scheme``."""
