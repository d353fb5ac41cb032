from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from container_image_proxy.errors import ConfigurationError
from container_image_proxy.service import activation
from container_image_proxy.service.activation import from_descriptor, is_listening, listen_tcp, listen_unix
from tests.support.script import importing_project
from tests.support.socket_server import listen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What systemd does between fork and exec: descriptors from 3 on, and the three variables.
_EXEC = """
import os, sys
names, code, *given = sys.argv[1:]
given = [os.dup2(int(fd), 100 + position) for position, fd in enumerate(given)]
for position, fd in enumerate(given):
    os.dup2(fd, 3 + position)
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(given)), LISTEN_FDNAMES=names)
os.execv(sys.executable, [sys.executable, "-c", code])
"""
_REPORT = """
import os
from container_image_proxy.service.activation import inherited_sockets
sockets, unusable = inherited_sockets()
print([(s.fileno(), s.getsockname(), s.get_inheritable()) for s in sockets], "LISTEN_FDS" in os.environ, unusable)
"""


def activated(names: str, *sockets: socket.socket) -> str:
    pytest.importorskip("systemd.daemon")
    descriptors = [sock.fileno() for sock in sockets]
    command = [sys.executable, "-c", _EXEC, names, importing_project(_REPORT), *map(str, descriptors)]
    return subprocess.run(command, pass_fds=descriptors, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def test_sockets_come_from_systemd_once_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    with listen(first) as one, listen(second) as two:
        assert activated("x:y", one, two) == f"[(3, {str(first)!r}, False), (4, {str(second)!r}, False)] False None"


def test_without_activation_there_are_none() -> None:
    assert activation.inherited_sockets() == ([], None)


@contextlib.contextmanager
def _connected() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


@pytest.mark.parametrize(
    "make",
    [
        lambda: socket.create_server(("127.0.0.1", 0)),
        lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET),
        _connected,
    ],
)
def test_another_kind_of_socket_is_an_error_that_names_it_beside_those_that_can_be_used(
    tmp_path: Path, make: Callable[[], contextlib.AbstractContextManager[socket.socket]]
) -> None:
    with make() as sock, listen(tmp_path / "s") as usable:
        output = activated("web:os", sock, usable)
    assert output.startswith(f"[(4, {str(tmp_path / 's')!r}, False)] False socket 'web' from systemd: it is not a")
    assert "ListenStream=" in output


def test_a_descriptor_that_is_no_socket_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file, pytest.raises(ConfigurationError, match=r"--sockfd .* not a socket"):
        from_descriptor(file.fileno())
    with pytest.raises(ConfigurationError, match="--sockfd 9999"):
        from_descriptor(9999)


def test_a_passed_socket_says_whether_it_listens(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    ours.set_inheritable(True)
    with theirs, from_descriptor(ours.detach()) as connected, listen(tmp_path / "s") as listener:
        assert not is_listening(connected)
        assert is_listening(listener)
        assert not connected.get_inheritable()


def test_a_passed_datagram_socket_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="not a stream socket"):
        from_descriptor(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach())


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_a_socket_has_its_mode_from_the_start_and_goes_with_its_close(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "s"
    umask = os.umask(0o027)
    try:
        with listen_unix(path, mode):
            assert path.stat().st_mode & 0o777 == mode
    finally:
        os.umask(umask)
    assert not path.exists()


def test_a_socket_can_be_seen_only_when_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    real = socket.socket.listen

    def listen_later(sock: socket.socket, backlog: int) -> None:
        seen.append((tmp_path / "s").exists())
        real(sock, backlog)

    monkeypatch.setattr(activation.UnixListener, "listen", listen_later)
    with listen_unix(tmp_path / "s"):
        assert (tmp_path / "s").is_socket()
    assert seen == [False]
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_find_a_stale_socket_at_once_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen(tmp_path / "s").close()
    probe = activation._is_served

    def probe_and_let_another_start(path: Path) -> bool:
        monkeypatch.setattr(activation, "_is_served", probe)
        served = probe(path)
        with pytest.raises(ConfigurationError, match="another process listens there"):
            listen_unix(path)
        return served

    monkeypatch.setattr(activation, "_is_served", probe_and_let_another_start)
    with listen_unix(tmp_path / "s"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))


def test_a_lock_that_was_removed_by_who_had_it_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process opens the lock, another that has it ends, a third makes it anew; then the first gets the old one."""
    real = activation.fcntl.flock
    others: list[activation.UnixListener] = []

    def flock_late(descriptor: int, operation: int) -> None:
        if not others:
            (tmp_path / "s.lock").unlink()
            others.append(activation.UnixListener(socket.AF_UNIX))
            others[0].lock(tmp_path / "s")
        real(descriptor, operation)

    monkeypatch.setattr(activation.fcntl, "flock", flock_late)
    with pytest.raises(ConfigurationError, match="another process listens there"):
        listen_unix(tmp_path / "s")
    others[0].close()


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path: Path) -> None:
    for name in ("s", "s.new"):
        listen(tmp_path / name).close()
    (tmp_path / "s.lock").touch(mode=0o600)
    with listen_unix(tmp_path / "s"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
    assert list(tmp_path.iterdir()) == []


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    listen(tmp_path / "s").close()
    with listen_unix(tmp_path / "s"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))


def test_a_socket_that_is_listened_on_is_not_replaced(tmp_path: Path) -> None:
    with listen(tmp_path / "s", backlog=0), contextlib.ExitStack() as clients:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=r"--socket .*/s: another process listens there"):
                listen_unix(tmp_path / "s")
            client = clients.enter_context(socket.socket(socket.AF_UNIX))  # the second time its backlog is full
            client.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(tmp_path / "s"))


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_what_is_no_socket_is_never_replaced(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "s")
    with pytest.raises(ConfigurationError, match="not a socket"):
        listen_unix(tmp_path / "s")
    assert os.path.lexists(tmp_path / "s")


@pytest.mark.parametrize("name", ["no/such/directory", "a" * 200, "nul\0"])
def test_a_path_that_cannot_be_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="--socket"):
        listen_unix(tmp_path / name)


def test_a_socket_that_took_its_place_is_left_alone(tmp_path: Path) -> None:
    with listen_unix(tmp_path / "s"):
        (tmp_path / "s").unlink()
        successor = listen(tmp_path / "s")
    with successor:
        assert (tmp_path / "s").is_socket()


def test_tcp_listens_on_loopback_only_and_says_who_can_connect(caplog: pytest.LogCaptureFixture) -> None:
    with listen_tcp(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        assert "any local user can connect" in caplog.text
        with pytest.raises(ConfigurationError, match=r"--port \d+: .*in use"):
            listen_tcp(listener.getsockname()[1])


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_an_error(port: int) -> None:
    with pytest.raises(ConfigurationError, match="--port"):
        listen_tcp(port)
