"""container-image-proxy as systemd starts it: on a listening socket that it inherits, with an instance file."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarking import curl
from benchmarking.processes import Transfer, running

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROGRAM: Final = str(Path(sys.executable).with_name("container-image-proxy"))
_INSTANCE: Final = "benchmark"
_LISTEN: Final = 'LISTEN_PID=$$ exec "$@" 3<&0 0</dev/null'
"""For sh(1): what systemd does between fork and exec, with the listening socket as standard input."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon on the socket at ``path``, perhaps still starting; ``started`` is when, by ``time.perf_counter``."""

    pid: int
    path: Path
    started: float

    def connect(self) -> socket.socket:
        """A connection; it succeeds at once, even if the daemon is only starting."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.path))
        return connection

    def fetch_blob(self, digest: str) -> Transfer:
        """Read a blob with curl; the cost is the daemon's."""
        return curl.fetch_from_socket(self.path, f"/blobs/{digest}", self.pid)


def write_instance(
    directory: Path,
    reference: str,
    policy: Path,
    cert_dir: Path | None,
    *,
    fresh_for: float,
    registries_d: Path | None,
) -> None:
    """An instance that serves one image."""
    trust = f'cert-dir = "{cert_dir}"' if cert_dir else "tls-verify = false"
    path = directory / f"{_INSTANCE}.toml"
    path.write_text(
        f'[images.os]\nreference = "{reference}"\nfresh-for = {fresh_for}\n'
        f'[registry]\n{trust}\n[trust]\npolicy = "{policy}"\n'
        + (f'registries-d = "{registries_d}"\n' if registries_d else "")
    )
    path.chmod(0o600)


@contextmanager
def serving_daemon(
    reference: str,
    policy: Path,
    cert_dir: Path | None = None,
    *,
    fresh_for: float = 1.0,
    registries_d: Path | None = None,
) -> Iterator[Daemon]:
    """The daemon as installed beside this interpreter; it has been started, but need not be ready when this yields."""
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as listener:
        directory = Path(name)
        write_instance(directory, reference, policy, cert_dir, fresh_for=fresh_for, registries_d=registries_d)
        listener.bind(str(directory / "socket"))
        listener.listen()
        program = [_PROGRAM, "--instance", _INSTANCE, "--config-dir", name]
        # A shell's PYTHONDONTWRITEBYTECODE would have it compile all modules at each start.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environ |= {"LISTEN_FDS": "1", "LISTEN_FDNAMES": _INSTANCE}
        started = time.perf_counter()
        command = ["/bin/sh", "-c", _LISTEN, "sh", *program]
        with (
            (directory / "log").open("wb") as log,
            running(command, stdin=listener.fileno(), stderr=log.fileno(), environ=environ) as process,
        ):
            yield Daemon(process.pid, directory / "socket", started)


@contextmanager
def serving_port(reference: str, policy: Path) -> Iterator[int]:
    """The daemon on a port of 127.0.0.1, ready, in front of a registry that speaks plain HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    options = ["--port", str(port), "--policy", str(policy), "--tls-verify=false", "--no-creds", "--log-level=error"]
    with running([_PROGRAM, *options, reference]) as process:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        yield port
