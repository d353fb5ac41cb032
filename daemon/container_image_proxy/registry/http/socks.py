"""SOCKS5: asking a proxy for a connection to somebody else. RFC 1928, and RFC 1929 for its login.

Own, though there are libraries: their sockets know no deadline for a whole handshake, and resolve and connect in their
own ways. Names are resolved by the proxy, whether its URL says socks5 or socks5h, as Go's clients have it.
"""

from __future__ import annotations

import ipaddress
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes, urlsplit

from container_image_proxy.image.confidential import Confidential

if TYPE_CHECKING:
    import socket

SCHEMES: Final = frozenset({"socks5", "socks5h"})
DEFAULT_PORT: Final = 1080
_VERSION: Final = b"\x05"
_NO_LOGIN: Final = 0
_LOGIN: Final = 2
_LOGIN_VERSION: Final = b"\x01"
_CONNECT: Final = b"\x01"
_IPV4: Final = 1
_NAME: Final = 3
_IPV6: Final = 4
_LONGEST: Final = 255
_ADDRESS_SIZES: Final = MappingProxyType({_IPV4: 4, _IPV6: 16})
_REPLIES: Final = MappingProxyType(
    {
        1: ("it failed", True),
        2: ("its rules do not allow the connection", False),
        3: ("the network cannot be reached", True),
        4: ("the host cannot be reached", True),
        5: ("the connection was refused", True),
        6: ("the connection took too long", True),
        7: ("it does not connect anybody", False),
        8: ("it does not know this kind of address", False),
    }
)


class SocksError(OSError):
    """The proxy gives no connection, or is none; ``may_pass`` says whether it may later."""

    def __init__(self, reason: str, *, may_pass: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.may_pass = may_pass


class SocksProxy(Confidential, frozen=True):
    """Where it is, and who we are there; no login if ``username`` is empty."""

    host: str
    port: int
    username: bytes = b""
    password: bytes = b""


def parse_socks_proxy(url: str) -> SocksProxy | None:
    """The proxy of a ``socks5://`` or ``socks5h://`` URL; None for every other. ``ValueError`` if it is unusable."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        return None
    username, password = (unquote_to_bytes(text or "") for text in (parts.username, parts.password))
    if len(username) > _LONGEST or len(password) > _LONGEST or not parts.hostname:
        raise ValueError("no host, or a login that is too long")
    return SocksProxy(parts.hostname, parts.port or DEFAULT_PORT, username, password)


def open_tunnel(connection: socket.socket, proxy: SocksProxy, host: str, port: int) -> None:
    """Let ``connection``, which leads to the proxy, lead to ``host``. Raises :class:`SocksError` and ``OSError``."""
    methods = bytes([_NO_LOGIN, _LOGIN] if proxy.username else [_NO_LOGIN])
    connection.sendall(_VERSION + bytes([len(methods)]) + methods)
    method = _receive(connection, 2)
    if method[:1] != _VERSION:
        raise SocksError("it does not speak SOCKS5", may_pass=False)
    if method[1] not in methods:
        raise SocksError("it wants a login" + (" of another kind" if proxy.username else ""), may_pass=False)
    if method[1] == _LOGIN:
        _log_in(connection, proxy)
    connection.sendall(_VERSION + _CONNECT + b"\0" + _address(host) + port.to_bytes(2, "big"))
    _read_reply(connection)


def _log_in(connection: socket.socket, proxy: SocksProxy) -> None:
    user, password = proxy.username, proxy.password
    connection.sendall(_LOGIN_VERSION + bytes([len(user)]) + user + bytes([len(password)]) + password)
    if _receive(connection, 2)[1] != 0:
        raise SocksError("it does not accept the login", may_pass=False)


def _address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("ascii")
        if len(name) > _LONGEST:
            raise SocksError("the host's name is too long for it", may_pass=False) from None
        return bytes([_NAME, len(name)]) + name
    return bytes([_IPV4 if isinstance(address, ipaddress.IPv4Address) else _IPV6]) + address.packed


def _read_reply(connection: socket.socket) -> None:
    """The verdict, and the address that the proxy connects from, which nobody needs."""
    version, reply, _, kind = _receive(connection, 4)
    if bytes([version]) != _VERSION:
        raise SocksError("it does not speak SOCKS5", may_pass=False)
    if reply != 0:
        reason, may_pass = _REPLIES.get(reply, ("it failed for a reason that nobody knows", True))
        raise SocksError(reason, may_pass=may_pass)
    size = _receive(connection, 1)[0] if kind == _NAME else _ADDRESS_SIZES.get(kind)
    if size is None:
        raise SocksError("it does not speak SOCKS5", may_pass=False)
    _receive(connection, size + 2)


def _receive(connection: socket.socket, size: int) -> bytes:
    """Exactly ``size`` bytes: what follows belongs to somebody else."""
    buffer = bytearray(size)
    view, filled = memoryview(buffer), 0
    while filled < size:
        # A socket that keeps time tells its failure at the second call after the last byte.
        count = connection.recv_into(view[filled:]) or connection.recv_into(view[filled:])
        if count == 0:
            raise SocksError("it closed the connection", may_pass=True)
        filled += count
    return bytes(buffer)
