"""Opening connections: resolve the name, check where its addresses lead, take the first address that answers.

All of it shares one deadline, that of the caller's context. Must not know HTTP. Spec: RFC 8305 (Happy Eyeballs).
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
"""Seconds for which the next address waits for the one before it (RFC 8305 section 5)."""


def connect(host: str, port: int, context: Context) -> PunctualSocket:
    """A TCP connection to ``host``.

    Raises ``OSError``, :class:`CancelledError`, and :class:`RegistryError` if the context forbids where the name leads.
    """
    addresses = resolve(host, port, context)
    # One forbidden address is enough to refuse: any of them may win the race.
    for _, address in addresses:
        verify_address(context.addresses, host, address[0])
    winner = _race(addresses, context)
    # Otherwise the last piece of a request could wait for an acknowledgement of the one before (Nagle's algorithm).
    winner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return winner


def resolve(host: str, port: int, context: Context) -> list[Address]:
    """The addresses of ``host``, each with its family, the families alternating (RFC 8305 section 4).

    Raises ``OSError`` (``socket.gaierror`` if there are none), and :class:`CancelledError`.
    """
    # getaddrinfo() has no time-out. A thread of its own waits for it, and is left behind if it takes too long.
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
    if isinstance(answer[0], UnicodeError):  # of the IDNA codec, for a label that is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, "not a host name")
    addresses = [(info[0], info[4]) for info in answer[0]]
    first = [address for address in addresses if address[0] == addresses[0][0]]
    second = [address for address in addresses if address[0] != addresses[0][0]]
    return [address for pair in zip_longest(first, second) for address in pair if address is not None]


def _race(addresses: Sequence[Address], context: Context) -> PunctualSocket:
    """Start a connection to each address in turn, a moment apart. The first to succeed wins, the others are closed."""
    waiting = list(addresses)
    failure: OSError = TimeoutError("timed out")
    with contextlib.ExitStack() as contenders, selectors.DefaultSelector() as selector:
        while waiting or selector.get_map():
            if waiting:
                failure = _start(waiting.pop(0), contenders, selector) or failure
            context.check()
            # Those that have succeeded or failed by now; waits a moment for one. Without any, the next one starts now.
            is_waiting = bool(selector.get_map())
            patience = max(0.0, min(context.deadline.left, _STAGGER))
            for key, _ in selector.select(patience) if is_waiting else ():
                contender = cast("PunctualSocket", key.fileobj)
                selector.unregister(contender)
                code = contender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    # The stack closes every contender: the winner's descriptor moves to a socket that it does not know.
                    number = contender.detach()
                    winner = PunctualSocket(contender.family, contender.type, contender.proto, fileno=number)
                    winner.settimeout(None)
                    return winner
                failure = OSError(code, os.strerror(code))
    raise failure


def _start(address: Address, contenders: contextlib.ExitStack, selector: selectors.BaseSelector) -> OSError | None:
    """Begin to connect. Returns the error if that failed at once, as it does without a route."""
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
