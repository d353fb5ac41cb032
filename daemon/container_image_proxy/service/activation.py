"""Where sockets come from: inherited from systemd, made at a path or a port, or passed as a descriptor.

With ``journal.py`` the only module that uses systemd's library. Must not accept connections.
Spec: sd_listen_fds_with_names(3), systemd.socket(5), unix(7).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
import sys
from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import ConfigurationError, Error
from container_image_proxy.service.journal import one_line

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_log = logging.getLogger(__name__)

_PORTS: Final = range(65536)
_BACKLOG: Final = 4096  # the kernel cuts it to net.core.somaxconn


def inherited_sockets() -> tuple[list[socket.socket], ConfigurationError | None]:
    """The listening Unix sockets that systemd opened for us, of streams and of packets; none without activation.

    And what is wrong with the first socket that is of another kind; None if there is none. The variables are removed
    from the environment, so that no child takes the sockets for its own. :class:`Error` without systemd's library.
    """
    try:
        import systemd.daemon  # noqa: PLC0415 - stand-alone use does without, in containers for one
    except ImportError as error:
        raise Error("systemd-python is not installed, which an instance needs (Debian's python3-systemd)") from error
    names = systemd.daemon.listen_fds_with_names(unset_environment=True)
    # The library removes them from the process's environment, of which os.environ is a copy.
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(variable, None)
    usable: list[socket.socket] = []
    complaints: list[ConfigurationError] = []
    for descriptor, name in sorted(names.items()):
        try:
            usable.append(_inherited(descriptor, name))
        except ConfigurationError as error:
            complaints.append(error)
    return usable, next(iter(complaints), None)


def _inherited(descriptor: int, name: str) -> socket.socket:
    what = f"socket {one_line(name)!r} from systemd"
    remedy = "in the socket unit, ListenStream= or ListenSequentialPacket= with a path, and Accept=no"
    wrong = ConfigurationError(what, "it is not a listening Unix socket of streams or packets", remedy=remedy)
    return _adopt(descriptor, what, {socket.SOCK_STREAM, socket.SOCK_SEQPACKET}, wrong, unix_listens=True)


def occupy_standard_descriptors() -> None:
    """Open /dev/null in place of each standard stream that is closed (``<&-`` in a shell).

    Otherwise a file or a socket would get its number, and what is meant for the stream would go there. Reading from
    such a standard input fails, as does writing to such an output.
    """
    for stream, flags in ((sys.stdin, os.O_WRONLY), (sys.stdout, os.O_RDONLY), (sys.stderr, os.O_RDONLY)):
        if stream is None:
            descriptor = os.open(os.devnull, flags)  # the lowest number that is free (open(2)): the stream's
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - it takes no name


def from_descriptor(descriptor: int) -> socket.socket:
    """The stream socket, listening or connected, that the parent process passed.

    Raises :class:`ConfigurationError` for any other descriptor.
    """
    what = f"--sockfd {descriptor}"
    wrong = ConfigurationError(what, "it is not a stream socket", remedy="use SOCK_STREAM")
    return _adopt(descriptor, what, {socket.SOCK_STREAM}, wrong)


def packets_from_descriptor(descriptor: int) -> socket.socket:
    """The connected socket of packets that the parent process passed, as clients of skopeo's image proxy do.

    Raises :class:`ConfigurationError` for any other descriptor.
    """
    what, remedy = f"--sockfd {descriptor}", "pass one end of socketpair(AF_UNIX, SOCK_SEQPACKET)"
    wrong = ConfigurationError(what, "it is not a connected Unix socket of packets", remedy=remedy)
    return _adopt(descriptor, what, {socket.SOCK_SEQPACKET}, wrong, unix_listens=False)


def _adopt(
    descriptor: int,
    what: str,
    types: Collection[int],
    wrong: ConfigurationError,
    *,
    unix_listens: bool | None = None,
) -> socket.socket:
    """The socket with that descriptor, which children will not inherit. Raises ``wrong`` unless it is of ``types``.

    If ``unix_listens`` is given, it must also be a Unix socket that listens, or does not.
    """
    try:
        sock = socket.socket(fileno=descriptor)
    except (OSError, ValueError, OverflowError) as error:
        remedy = "pass the number of an open socket"
        raise ConfigurationError(what, f"it is not a socket: {_reason(error)}", remedy=remedy) from error
    is_meant = unix_listens is None or (sock.family == socket.AF_UNIX and is_listening(sock) == unix_listens)
    if sock.type not in types or not is_meant:
        sock.close()
        raise wrong
    sock.set_inheritable(False)
    return sock


def is_open_to_all(descriptor: int) -> bool:
    """Whether ``descriptor`` is a listening socket that does not tell who connects; False if it is no socket."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            return sock.family != socket.AF_UNIX and is_listening(sock)
    except (OSError, OverflowError):
        return False


def is_listening(sock: socket.socket) -> bool:
    """Whether a socket accepts connections, rather than being one."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def listen_tcp(port: int) -> socket.socket:
    """Listen on a port of 127.0.0.1, 0 for any free one. Raises :class:`ConfigurationError` if that cannot be."""
    what, remedy = f"--port {port}", "choose another port"
    if port not in _PORTS:
        raise ConfigurationError(what, "a port is a number from 0 to 65535", remedy=remedy)
    try:
        sock = socket.create_server(("127.0.0.1", port), backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError(what, _reason(error), remedy=remedy) from error
    _log.warning("any local user can connect to 127.0.0.1 port %d", sock.getsockname()[1])
    return sock


class UnixListener(socket.socket):
    """A listening socket that removes its path when it is closed, if the path is still its own.

    As long as it is open it holds a lock for the path, a file beside it. Of two processes that start at once, neither
    can thus take the other's socket for one that nobody serves.
    """

    _lock: tuple[Path, int] | None = None
    _made: tuple[Path, os.stat_result] | None = None

    def lock(self, path: Path) -> None:
        """Become the only process that may listen at ``path``. Raises ``BlockingIOError`` if another one is."""
        place = path.absolute().with_name(f"{path.name}.lock")
        self._lock = place, _lock_file(place)

    def listen_at(self, path: Path, mode: int) -> None:
        """Listen at ``path``, in place of what is there. The path appears when the socket has its mode and listens."""
        new = path.absolute().with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        self.bind(os.fspath(new))
        self._made = new, new.lstat()
        new.chmod(mode)
        self.listen(_BACKLOG)
        new.rename(path)
        self._made = path.absolute(), self._made[1]

    def close(self) -> None:
        """Close the socket, and remove its path and lock."""
        made, self._made = self._made, None
        lock, self._lock = self._lock, None
        super().close()
        if made is not None:
            path, status = made
            with contextlib.suppress(OSError):
                if os.path.samestat(path.lstat(), status):
                    path.unlink()
        if lock is not None:
            with contextlib.suppress(OSError):
                lock[0].unlink()
            os.close(lock[1])


def _lock_file(path: Path) -> int:
    """The descriptor of the file at ``path``, locked. Raises ``BlockingIOError`` if another process has locked it."""
    # Whoever had the lock may have removed the file between our opening and locking it: then it is made anew.
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.lstat()):
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def listen_unix(path: Path, mode: int = 0o600) -> UnixListener:
    """Listen at ``path``, in place of a socket that nobody listens on.

    Raises :class:`ConfigurationError` if that cannot be.
    """
    what = f"--socket {path}"
    sock = UnixListener(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.lock(path)
        _verify_free(path, what)
        sock.listen_at(path, mode)
    except BlockingIOError as error:
        sock.close()
        raise _occupied(what) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        sock.close()
        raise ConfigurationError(what, _reason(error), remedy="choose a short path in a directory of yours") from error
    except ConfigurationError:
        sock.close()
        raise
    return sock


def _verify_free(path: Path, what: str) -> None:
    """Raise :class:`ConfigurationError` if anything is at ``path`` but a socket that nobody listens on."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise ConfigurationError(what, "there is something that is not a socket", remedy="choose another path")
    if _is_served(path):
        raise _occupied(what)


def _occupied(what: str) -> ConfigurationError:
    return ConfigurationError(what, "another process listens there", remedy="stop it, or choose another path")


def _is_served(path: Path) -> bool:
    """Whether anybody listens at ``path``. What cannot be told (a full backlog, no permission) counts as yes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        return probe.connect_ex(os.fspath(path)) not in (errno.ECONNREFUSED, errno.ENOENT)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
