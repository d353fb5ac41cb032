"""Who is at the other end of a socket, as the kernel recorded it when the connection was made.

Reads SO_PEERCRED and SO_PEERGROUPS (unix(7), socket(7)) once, at accept. Decides nothing: ``config/access.py`` does.
Rights follow the process that connected; it may hand the connected descriptor to another one, which then acts in its
name. The pid is for the log only, since it may be reused.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from typing import Final

_SO_PEERGROUPS: Final = 59  # <asm-generic/socket.h>; Python has no name for it
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid
_GETSOCKOPT_LIMIT: Final = 1024  # bytes that Python's getsockopt takes: 256 groups


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that connected, with its primary and supplementary ``groups``; ids are None if unknown."""

    pid: int | None
    uid: int | None
    groups: frozenset[int] = frozenset()
    over_tcp: bool = False
    """Whether it came over the network stack, where a web page in a browser can come from, too."""

    def __str__(self) -> str:
        return "unauthenticated local" if self.uid is None else f"uid {self.uid} (pid {self.pid})"


UNAUTHENTICATED: Final = Peer(pid=None, uid=None)
"""The peer on stdin and stdout: some local process, the kernel does not say which."""
_LOOPBACK: Final = Peer(pid=None, uid=None, over_tcp=True)


def read_peer(sock: socket.socket) -> Peer:
    """The peer of a connected socket; ``OSError`` if the kernel does not tell for a Unix socket."""
    if sock.family != socket.AF_UNIX:
        return _LOOPBACK
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return Peer(pid, uid, _read_groups(sock) | {gid})


def _read_groups(sock: socket.socket) -> frozenset[int]:
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GETSOCKOPT_LIMIT)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        raw = _read_many_groups(sock)
    return frozenset(struct.unpack(f"{len(raw) // 4}I", raw))


def _read_many_groups(sock: socket.socket) -> bytes:
    import ctypes  # noqa: PLC0415 - rare: only for peers in more than 256 groups

    buffer = ctypes.create_string_buffer(65536 * 4)  # NGROUPS_MAX
    length = ctypes.c_uint32(len(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(sock.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, buffer, ctypes.byref(length)) != 0:
        raise OSError(ctypes.get_errno(), "SO_PEERGROUPS cannot be read")
    return buffer.raw[: length.value]
