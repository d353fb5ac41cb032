"""Debian's nginx on loopback as one child process, with its configuration, logs and temporary files in a directory.

``with nginx(tmp_path, servers, await_at=[authority]) as server: server.requests(port)``. Whoever needs it and lacks the
program skips.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.authority import Issued
from tests.support.registries import await_listening
from tests.support.requirements import needs_programs

_STOP_SECONDS = 10.0
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")

needs_nginx = needs_programs("nginx")


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request as nginx saw it; ``client`` is the subject of the client's certificate."""

    port: int
    path: str
    status: int
    authorization: str
    client: str


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running nginx."""

    directory: Path

    def requests(self, port: int) -> list[LoggedRequest]:
        """The finished requests to the server on ``port``, in order."""
        lines = (self.directory / "access.log").read_text().splitlines()
        return [request for line in lines if (request := LoggedRequest(**json.loads(line))).port == port]


@contextlib.contextmanager
def nginx(directory: Path, http: str, *, await_at: Iterable[str]) -> Iterator[Nginx]:
    """An nginx whose ``http`` block is given, from here to the end of the block."""
    directory.mkdir(parents=True, exist_ok=True)
    file, log = directory / "nginx.conf", directory / "error.log"
    file.write_text(_configuration(directory, http))
    with log.open("wb") as sink:
        process = subprocess.Popen(
            ["nginx", "-c", str(file), "-p", str(directory)], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
        )
    try:
        for authority in await_at:
            await_listening(authority, process, log)
        yield Nginx(directory)
    finally:
        process.terminate()
        process.wait(_STOP_SECONDS)


def _configuration(directory: Path, http: str) -> str:
    temporary = "".join(f"{name}_temp_path {directory}/{name};\n" for name in _TEMPORARY)
    fields = '"port": $server_port, "path": "$request_uri", "status": $status'
    more = '"authorization": "$http_authorization", "client": "$ssl_client_s_dn"'
    return (
        f"daemon off; master_process off; pid {directory}/pid; error_log stderr;\n"
        "events { worker_connections 512; }\n"
        "http {\n"
        f"log_format fields escape=json '{{{fields}, {more}}}';\n"
        f"access_log {directory}/access.log fields;\n"
        f"{temporary}{http}\n"
        "}\n"
    )


def tls(issued: Issued) -> str:
    """The directives of a TLS server with this certificate."""
    return f"ssl_certificate {issued.certificate}; ssl_certificate_key {issued.key};"
