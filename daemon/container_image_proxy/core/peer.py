"""Who is at the other end of a socket, as the kernel recorded it when the connection was made.

Reads SO_PEERCRED and SO_PEERGROUPS (unix(7), socket(7)) once, at accept. Decides nothing: ``config/access.py`` does.
Rights follow the process that connected; it may hand the connected descriptor to another one, which then acts in its
name. The pid is for the log only, since it may be reused.
"""

from __future__ import annotations

import errno
import functools
import socket
import struct
from array import array
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    import ctypes

MAX_GROUPS: Final = 1024
"""Supplementary groups that are read of a peer. Whoever has subordinate gids (subgid(5)) can be in all 65536 that Linux
allows, and the kernel takes a hundred times as long to tell those as all the rest of turning somebody away.
"""
PID_SIZE: Final = 4
"""Bytes of credentials after which those of two processes of the same user, in the same groups, are alike."""
_SOL_SOCKET: Final = socket.SOL_SOCKET
_SO_PEERCRED: Final = socket.SO_PEERCRED
_SO_PEERGROUPS: Final = 59  # <asm-generic/socket.h>; Python has no name for it
_UCRED: Final = struct.Struct("iII")  # pid, uid, gid
_UCRED_SIZE: Final = _UCRED.size
_GROUP_SIZE: Final = 4
_GETSOCKOPT_LIMIT: Final = 1024  # bytes that Python's getsockopt takes: 256 groups


class Peer(Struct, frozen=True):
    """The process that connected, with its primary and supplementary ``groups``; ids are None if unknown."""

    pid: int | None
    uid: int | None
    groups: frozenset[int] = frozenset()
    over_tcp: bool = False
    """Whether it came over the network stack, where a web page in a browser can come from, too."""

    @property
    def user(self) -> str:
        """Whose process it is, in words."""
        return "unauthenticated local" if self.uid is None else f"uid {self.uid}"

    def __str__(self) -> str:
        return self.user if self.uid is None else f"{self.user} (pid {self.pid})"


UNAUTHENTICATED: Final = Peer(pid=None, uid=None)
"""The peer on stdin and stdout: some local process, the kernel does not say which."""
_LOOPBACK: Final = Peer(pid=None, uid=None, over_tcp=True)


def read_peer(sock: socket.socket) -> Peer:
    """The peer of a connected socket; ``OSError`` if the kernel does not tell for a Unix socket."""
    return parse_peer(read_credentials(sock))


def read_credentials(sock: socket.socket) -> bytes:
    """What the kernel says of the peer, as it says it; nothing of one that came over TCP."""
    ucred = sock.getsockopt(_SOL_SOCKET, _SO_PEERCRED, _UCRED_SIZE)
    try:
        return ucred + sock.getsockopt(_SOL_SOCKET, _SO_PEERGROUPS, _GETSOCKOPT_LIMIT)
    except OSError as error:
        if sock.family != socket.AF_UNIX:  # TCP has no peer but for ucred, and that is of nobody
            return b""
        if error.errno != errno.ERANGE:
            raise
        return ucred + _read_many_groups(sock)


def parse_peer(credentials: bytes) -> Peer:
    """The peer that :func:`read_credentials` told of."""
    if not credentials:
        return _LOOPBACK
    pid, uid, gid = _UCRED.unpack_from(credentials)
    return Peer(pid, uid, frozenset({gid, *array("I", credentials[_UCRED_SIZE:])}))


@functools.cache
def _c_library() -> ctypes.CDLL:
    import ctypes  # noqa: PLC0415 - rare

    return ctypes.CDLL(None, use_errno=True)


def _read_many_groups(sock: socket.socket) -> bytes:
    """The groups of a peer that is in more than 256; none if ``MAX_GROUPS`` are not all of them."""
    import ctypes  # noqa: PLC0415 - rare

    buffer = ctypes.create_string_buffer(MAX_GROUPS * _GROUP_SIZE)
    length = ctypes.c_uint32(len(buffer))
    if _c_library().getsockopt(sock.fileno(), _SOL_SOCKET, _SO_PEERGROUPS, buffer, ctypes.byref(length)) == 0:
        return buffer.raw[: length.value]
    if ctypes.get_errno() == errno.ERANGE:
        return b""
    raise OSError(ctypes.get_errno(), "SO_PEERGROUPS cannot be read")
