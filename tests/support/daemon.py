"""The real daemon as a child process, started as systemd would, and a client for its socket.

READY=1 is awaited on a notification socket of our own, so that a test begins when the daemon can answer and not some
time later.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ACCEPT_ANYTHING = {"default": [{"type": "insecureAcceptAnything"}]}
_START_SECONDS = 30.0
_REQUEST_SECONDS = 60.0


@dataclass(frozen=True)
class Reply:
    """A whole HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class UnixConnection(http.client.HTTPConnection):
    """``http.client`` over a Unix socket."""

    def __init__(self, path: Path, timeout: float = _REQUEST_SECONDS) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


@dataclass
class RunningDaemon:
    """A daemon that has said READY=1; everything that it says afterwards is in ``notifications``."""

    process: subprocess.Popen[bytes]
    socket: Path
    log: Path
    notify: socket.socket
    notifications: list[str] = field(default_factory=list)

    def request(self, method: str, target: str, headers: Mapping[str, str] | None = None) -> Reply:
        with contextlib.closing(UnixConnection(self.socket)) as connection:
            connection.request(method, target, headers=dict(headers or {}))
            response = connection.getresponse()
            return Reply(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )

    def get(self, target: str, headers: Mapping[str, str] | None = None) -> Reply:
        return self.request("GET", target, headers)

    @contextlib.contextmanager
    def open(self, target: str) -> Iterator[http.client.HTTPResponse]:
        """An answer whose body nobody has read yet."""
        with contextlib.closing(UnixConnection(self.socket)) as connection:
            connection.request("GET", target)
            yield connection.getresponse()

    def open_files(self) -> list[str]:
        """What its descriptors are open on. One that it closes meanwhile is not told."""
        files: list[str] = []
        for descriptor in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                files.append(str(descriptor.readlink()))
        return files

    def curl(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--unix-socket",
            str(self.socket),
            *arguments,
        ]
        return subprocess.run(command, capture_output=True, check=False, timeout=90)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_for_notification(self, text: str) -> str:
        """The next notification that contains ``text``, earlier unread ones included."""
        while True:
            if found := next((one for one in self.notifications if text in one), None):
                self.notifications.remove(found)
                return found
            self.notifications.append(self.notify.recv(65536).decode())

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(_START_SECONDS)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")


def command(*arguments: str) -> list[str]:
    """The daemon's command line under this interpreter."""
    return [sys.executable, "-m", "container_image_proxy", *arguments]


def write_policy(directory: Path, policy: object = ACCEPT_ANYTHING) -> Path:
    """A policy.json that nobody else can write."""
    path = directory / "policy.json"
    path.write_text(json.dumps(policy))
    path.chmod(0o600)
    return path


def write_instance(directory: Path, name: str, text: str) -> Path:
    """An instance file in a ``--config-dir``."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.toml"
    path.write_text(text)
    path.chmod(0o644)
    return path


@contextlib.contextmanager
def activated(
    directory: Path,
    arguments: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    mode: int = 0o666,
    prefix: Sequence[str] = (),
    more: Sequence[socket.socket] = (),
) -> Iterator[RunningDaemon]:
    """The daemon on a listening socket that it inherits as descriptor 3, as with socket activation; ``more`` follow."""
    directory.mkdir(exist_ok=True)
    path = directory / "proxy.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen(1024)
        with _started(directory, path, arguments, environ or {}, [listener, *more], prefix) as daemon:
            yield daemon


@contextlib.contextmanager
def stand_alone(
    directory: Path, arguments: Sequence[str], *, environ: Mapping[str, str] | None = None
) -> Iterator[RunningDaemon]:
    """The daemon with ``--socket``, which it makes itself."""
    directory.mkdir(exist_ok=True)
    path = directory / "own.sock"
    with _started(directory, path, ["--socket", str(path), *arguments], environ or {}, [], ()) as daemon:
        yield daemon


@contextlib.contextmanager
def on_port(
    directory: Path, arguments: Sequence[str], *, environ: Mapping[str, str] | None = None
) -> Iterator[tuple[RunningDaemon, int]]:
    """The daemon with ``--port``, and which port that is."""
    directory.mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    with _started(directory, directory / "none", ["--port", str(port), *arguments], environ or {}, [], ()) as daemon:
        yield daemon, port


@contextlib.contextmanager
def _started(
    directory: Path,
    path: Path,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    listeners: Sequence[socket.socket],
    prefix: Sequence[str],
) -> Iterator[RunningDaemon]:
    notify_path, log = directory / "notify.sock", directory / "daemon.log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, log.open("wb") as log_file:
        notify.bind(str(notify_path))
        notify_path.chmod(0o666)
        notify.settimeout(_START_SECONDS)
        full = {**os.environ, "NOTIFY_SOCKET": str(notify_path), "PYTHONWARNINGS": "error", **environ}
        process = subprocess.Popen(
            [*prefix, *(with_listeners(*listeners) if listeners else ()), *command(*arguments)],
            env=full,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            pass_fds=[listener.fileno() for listener in listeners],
        )
        daemon = RunningDaemon(process, path, log, notify)
        try:
            _await_ready(daemon)
            yield daemon
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            notify_path.unlink()


def fill(notify: socket.socket) -> None:
    """Leave so many messages unread that the next one, whoever sends it, would have to wait."""
    is_full = False
    while not is_full:
        is_full = True
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(BlockingIOError):
            while True:  # until its own send buffer is full, or the queue
                sender.sendto(b"noise", socket.MSG_DONTWAIT, notify.getsockname())
                is_full = False


_PASS_LISTENERS = """
import os, sys
count = int(sys.argv[1])
given = [os.dup2(int(descriptor), 100 + number) for number, descriptor in enumerate(sys.argv[2 : 2 + count])]
for number, descriptor in enumerate(given):
    os.dup2(descriptor, 3 + number, inheritable=True)
    os.close(descriptor)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count), LISTEN_FDNAMES=":".join(["test"] * count))
os.execvp(sys.argv[2 + count], sys.argv[2 + count :])
"""


def with_listeners(*listeners: socket.socket) -> list[str]:
    """What systemd does between fork and exec: descriptors from 3 on, and LISTEN_* for this very process."""
    descriptors = [str(listener.fileno()) for listener in listeners]
    return [sys.executable, "-S", "-c", _PASS_LISTENERS, str(len(listeners)), *descriptors]


def _await_ready(daemon: RunningDaemon) -> None:
    daemon.notify.settimeout(0.2)
    for _ in range(int(_START_SECONDS / 0.2)):
        with contextlib.suppress(TimeoutError):
            daemon.notifications.append(daemon.notify.recv(65536).decode())
            if any("READY=1" in one for one in daemon.notifications):
                daemon.notify.settimeout(_START_SECONDS)
                return
        if daemon.process.poll() is not None:
            break
    raise AssertionError(f"the daemon is not ready (exit {daemon.process.poll()}):\n{daemon.log_text()}")
