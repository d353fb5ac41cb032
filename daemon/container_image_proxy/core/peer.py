"""Who is at the other end of a socket, as the kernel recorded it when the connection was made.

It is read once, when the connection is accepted. Rights follow the process that connected: if it hands the connected
descriptor to another process, that one acts in its name. The pid is for the log only, because it may be reused.
Must not decide who may have what, which ``config/access.py`` does. Spec: unix(7), SO_PEERCRED; SO_PEERGROUPS.
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
"""Supplementary groups of a peer that are read. Whoever has subordinate gids (subgid(5)) can be in all 65536 that Linux
allows. To list them takes the kernel a hundred times as long as everything else that turning a peer away takes.
"""
PID_SIZE: Final = 4
"""Bytes of the pid, with which credentials begin. The rest is equal for processes of one user in the same groups."""
_SOL_SOCKET: Final = socket.SOL_SOCKET
_SO_PEERCRED: Final = socket.SO_PEERCRED
_SO_PEERGROUPS: Final = 59  # <asm-generic/socket.h>; Python has no name for it
_UCRED: Final = struct.Struct("iII")  # pid, uid, gid
_UCRED_SIZE: Final = _UCRED.size
_GROUP_SIZE: Final = 4
_GETSOCKOPT_LIMIT: Final = 1024  # bytes that Python's getsockopt takes: 256 groups


class Peer(Struct, frozen=True):
    """The process that connected. ``groups`` are its primary and supplementary gids. Unknown ids are None."""

    pid: int | None
    uid: int | None
    groups: frozenset[int] = frozenset()
    over_tcp: bool = False
    """Whether it connected over TCP, as a web page in a browser can do, too."""

    @property
    def user(self) -> str:
        """Whose process it is, in words for messages."""
        return "unauthenticated local" if self.uid is None else f"uid {self.uid}"

    def __str__(self) -> str:
        return self.user if self.uid is None else f"{self.user} (pid {self.pid})"


UNAUTHENTICATED: Final = Peer(pid=None, uid=None)
"""The peer on stdin and stdout: some local process. The kernel does not say which."""
_LOOPBACK: Final = Peer(pid=None, uid=None, over_tcp=True)


def read_peer(sock: socket.socket) -> Peer:
    """The peer of a connected socket. Raises ``OSError`` if the kernel does not tell it for a Unix socket."""
    return parse_peer(read_credentials(sock))


def read_credentials(sock: socket.socket) -> bytes:
    """The peer's credentials as the kernel has them (``struct ucred``, then gids); empty for a peer over TCP.

    Unparsed, so that turning a peer away costs little. Raises ``OSError``.
    """
    ucred = sock.getsockopt(_SOL_SOCKET, _SO_PEERCRED, _UCRED_SIZE)
    try:
        return ucred + sock.getsockopt(_SOL_SOCKET, _SO_PEERGROUPS, _GETSOCKOPT_LIMIT)
    except OSError as error:
        if sock.family != socket.AF_UNIX:  # for TCP, SO_PEERCRED succeeds and says nothing
            return b""
        if error.errno != errno.ERANGE:  # the buffer is too small
            raise
        return ucred + _read_many_groups(sock)


def parse_peer(credentials: bytes) -> Peer:
    """The peer with the credentials that :func:`read_credentials` returned."""
    if not credentials:
        return _LOOPBACK
    pid, uid, gid = _UCRED.unpack_from(credentials)
    return Peer(pid, uid, frozenset({gid, *array("I", credentials[_UCRED_SIZE:])}))


@functools.cache
def _c_library() -> ctypes.CDLL:
    import ctypes  # noqa: PLC0415 - rare

    return ctypes.CDLL(None, use_errno=True)


def _read_many_groups(sock: socket.socket) -> bytes:
    """The groups of a peer that is in more than 256; none if it is in more than ``MAX_GROUPS``.

    By the C library, because Python's getsockopt() takes no larger buffer.
    """
    import ctypes  # noqa: PLC0415 - rare

    buffer = ctypes.create_string_buffer(MAX_GROUPS * _GROUP_SIZE)
    length = ctypes.c_uint32(len(buffer))
    if _c_library().getsockopt(sock.fileno(), _SOL_SOCKET, _SO_PEERGROUPS, buffer, ctypes.byref(length)) == 0:
        return buffer.raw[: length.value]
    if ctypes.get_errno() == errno.ERANGE:
        return b""
    raise OSError(ctypes.get_errno(), "SO_PEERGROUPS cannot be read")
