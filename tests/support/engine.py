"""What speaks the Docker Engine API: podman's service, dockerd, and a simulator for faults that neither shows."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.support.requirements import require_program, require_root
from tests.support.waiting import await_true

_START = 60.0


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


@dataclass(frozen=True)
class RunningEngine:
    """An engine that listens on a Unix socket."""

    path: str

    @property
    def host(self) -> str:
        return f"unix://{self.path}"

    def request(self, method: str, target: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = UnixConnection(self.path)
        with contextlib.closing(connection):
            connection.request(method, target, body, {"Content-Type": "application/x-tar"} if body else {})
            reply = connection.getresponse()
            return reply.status, reply.read()

    def load(self, archive: Path, name: str) -> str:
        """Have the one image of an archive, under ``name`` alone; its ID."""
        status, said = self.request("POST", "/v1.40/images/load", archive.read_bytes())
        assert status == 200, said
        status, found = self.request("GET", f"/v1.40/images/{name}/json")
        assert status == 200, found
        return str(json.loads(found)["Id"])


@contextlib.contextmanager
def podman_service() -> Iterator[RunningEngine]:
    """``podman system service`` over a store of its own."""
    require_root("podman's store is root's")
    require_program("podman")
    with tempfile.TemporaryDirectory(prefix="engine-", dir="/tmp") as place:  # sockets have short names
        store = ["--root", f"{place}/root", "--runroot", f"{place}/run", "--storage-driver", "vfs"]
        with _running(["podman", *store, "system", "service", "--time", "0", f"unix://{place}/sock"], place) as engine:
            yield engine


@contextlib.contextmanager
def docker_daemon() -> Iterator[RunningEngine]:
    """dockerd, with nothing that containers would need."""
    require_root("dockerd is root's")
    require_program("dockerd")
    with tempfile.TemporaryDirectory(prefix="engine-", dir="/tmp") as place:
        options = ["--data-root", f"{place}/data", "--exec-root", f"{place}/exec", "--pidfile", f"{place}/pid"]
        bare = ["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"]
        with _running(["dockerd", *options, *bare, "--host", f"unix://{place}/sock"], place) as engine:
            yield engine


@contextlib.contextmanager
def _running(command: list[str], place: str) -> Iterator[RunningEngine]:
    engine = RunningEngine(f"{place}/sock")
    log = Path(place, "log")
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def answers() -> bool:
        if process.poll() is not None:
            pytest.skip(f"{command[0]} does not start here: {log.read_text()[-300:]}")
        with contextlib.suppress(OSError):
            return engine.request("GET", "/_ping")[0] == 200
        return False

    try:
        await_true(answers, f"that {command[0]} answers")
        yield engine
    finally:
        process.terminate()
        process.wait(_START)


# --- the simulator ----------------------------------------------------------------------------------------------------


@dataclass
class SimulatedEngine:
    """Images by name, their exports by ID, and what goes wrong."""

    names: dict[str, str] = field(default_factory=dict)
    exports: dict[str, bytes] = field(default_factory=dict)
    cut_after: int | None = None
    """Bytes of an export, after which the connection is closed."""
    status: int | None = None
    """What everything but pings is answered."""
    version: str | None = "1.41"
    inspection: bytes | None = None
    requests: list[str] = field(default_factory=list)

    def add(self, name: str, archive: bytes, image_id: str) -> None:
        self.names[name] = image_id
        self.exports[image_id] = archive


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: SimulatedEngine

    def address_string(self) -> str:
        return "client"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        engine = self.engine
        engine.requests.append(self.path)
        version = f"/v{engine.version}" if engine.version else ""
        kind = self.path.rpartition("/")[2]
        name = self.path.removeprefix(f"{version}/images/").rpartition("/")[0]
        image_id = engine.names.get(name, name)
        if self.path == "/_ping":
            self._answer(200, b"OK", {"Api-Version": engine.version} if engine.version else {})
        elif engine.status is not None:
            self._answer(engine.status, b'{"message": "something of a stranger"}')
        elif image_id not in engine.exports or not self.path.startswith(f"{version}/images/"):
            self._answer(404, b'{"message": "no such image"}')
        elif kind == "json":
            self._answer(200, engine.inspection or json.dumps({"Id": image_id, "RepoTags": [name]}).encode())
        else:
            self._export(engine.exports[image_id])

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def _export(self, archive: bytes) -> None:
        """In chunks, as dockerd does."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        cut = self.engine.cut_after
        for start in range(0, len(archive), 30_000):
            if cut is not None and start >= cut:
                self.close_connection = True
                return
            piece = archive[start : start + 30_000]
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


class _TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@contextlib.contextmanager
def simulated(engine: SimulatedEngine, path: Path) -> Iterator[str]:
    """The simulator on a Unix socket: where that is."""
    with _UnixServer(str(path), _handler(engine)) as server, _serving(server):
        yield f"unix://{path}"


@contextlib.contextmanager
def simulated_on_tcp(engine: SimulatedEngine, context: ssl.SSLContext | None) -> Iterator[int]:
    """The simulator on a port of 127.0.0.1, under TLS if there is a context: which port."""
    with _TcpServer(("127.0.0.1", 0), _handler(engine)) as server, _serving(server):
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        yield int(server.server_address[1])


def _handler(engine: SimulatedEngine) -> type[_Handler]:
    return type("Handler", (_Handler,), {"engine": engine})


@contextlib.contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
