"""SOCKS5: asking a proxy for a connection to another host.

There are libraries for this, but their sockets know no deadline for a whole handshake, and they resolve and connect in
ways of their own. The proxy resolves names, whether its URL says socks5 or socks5h, as with Go's clients.
Spec: RFC 1928, RFC 1929 for the login.
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
_LONGEST: Final = 255  # bytes of a name, user or password: each is sent behind one byte with its length
_ADDRESS_SIZES: Final = MappingProxyType({_IPV4: 4, _IPV6: 16})
# RFC 1928 section 6: the reason in words, and whether it may pass.
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
    """The proxy gives no connection, or is no SOCKS5 proxy. ``may_pass`` says whether the same may succeed later."""

    def __init__(self, reason: str, *, may_pass: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.may_pass = may_pass


class SocksProxy(Confidential, frozen=True):
    """Where the proxy is, and our login there; none if ``username`` is empty."""

    host: str
    port: int
    username: bytes = b""
    password: bytes = b""


def parse_socks_proxy(url: str) -> SocksProxy | None:
    """The proxy of a ``socks5://`` or ``socks5h://`` URL; None for any other URL.

    Raises ``ValueError`` if it has no host, or a login that the protocol cannot carry.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        return None
    username, password = (unquote_to_bytes(text or "") for text in (parts.username, parts.password))
    if len(username) > _LONGEST or len(password) > _LONGEST or not parts.hostname:
        raise ValueError("no host, or a login that is too long")
    return SocksProxy(parts.hostname, parts.port or DEFAULT_PORT, username, password)


def open_tunnel(connection: socket.socket, proxy: SocksProxy, host: str, port: int) -> None:
    """Make ``connection``, which leads to the proxy, lead to ``host``. Raises :class:`SocksError` and ``OSError``."""
    # 1. Agree on a way to log in (RFC 1928 section 3).
    methods = bytes([_NO_LOGIN, _LOGIN] if proxy.username else [_NO_LOGIN])
    connection.sendall(_VERSION + bytes([len(methods)]) + methods)
    method = _receive(connection, 2)
    if method[:1] != _VERSION:
        raise SocksError("it does not speak SOCKS5", may_pass=False)
    if method[1] not in methods:
        raise SocksError("it wants a login" + (" of another kind" if proxy.username else ""), may_pass=False)
    # 2. Log in (RFC 1929).
    if method[1] == _LOGIN:
        user, password = proxy.username, proxy.password
        connection.sendall(_LOGIN_VERSION + bytes([len(user)]) + user + bytes([len(password)]) + password)
        if _receive(connection, 2)[1] != 0:
            raise SocksError("it does not accept the login", may_pass=False)
    # 3. Name the host (RFC 1928 section 4); the zero is reserved.
    connection.sendall(_VERSION + _CONNECT + b"\0" + _address(host) + port.to_bytes(2, "big"))
    # 4. Read the reply whole, with the address that the proxy connects from: what follows is the host's (section 6).
    version, reply, _, kind = _receive(connection, 4)
    if bytes([version]) != _VERSION:
        raise SocksError("it does not speak SOCKS5", may_pass=False)
    if reply != 0:
        reason, may_pass = _REPLIES.get(reply, ("it failed for a reason that nobody knows", True))
        raise SocksError(reason, may_pass=may_pass)
    size = _receive(connection, 1)[0] if kind == _NAME else _ADDRESS_SIZES.get(kind)
    if size is None:
        raise SocksError("it does not speak SOCKS5", may_pass=False)
    _receive(connection, size + 2)  # two bytes are the port


def _address(host: str) -> bytes:
    """The host as the protocol has it: kind and address, or kind, length and name (RFC 1928 section 5)."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("ascii")
        if len(name) > _LONGEST:
            raise SocksError("the host's name is too long for it", may_pass=False) from None
        return bytes([_NAME, len(name)]) + name
    return bytes([_IPV4 if isinstance(address, ipaddress.IPv4Address) else _IPV6]) + address.packed


def _receive(connection: socket.socket, size: int) -> bytes:
    """Exactly ``size`` bytes: what follows is the host's."""
    buffer = bytearray(size)
    view, filled = memoryview(buffer), 0
    while filled < size:
        # A socket of ours tells a failure as the end of the stream, and raises it at the next call.
        count = connection.recv_into(view[filled:]) or connection.recv_into(view[filled:])
        if count == 0:
            raise SocksError("it closed the connection", may_pass=True)
        filled += count
    return bytes(buffer)
