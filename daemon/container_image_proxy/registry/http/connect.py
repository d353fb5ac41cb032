"""Opening connections: resolve, check where the addresses lead, take the first that answers (RFC 8305).

Knows no HTTP. All of it shares one deadline, that of the caller's context.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import threading
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final, cast

from container_image_proxy.registry.http.address_policy import verify_address
from container_image_proxy.registry.http.sockets import PunctualSocket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from container_image_proxy.concurrency.context import Context

    Address = tuple[int, Any]

_STAGGER: Final = 0.25
"""So long the next address waits for the one before it (RFC 8305 section 5), in seconds."""


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
