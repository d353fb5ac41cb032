"""HTTP/1.1 over the daemon's Unix socket, or over TCP where the daemon stands alone with --port.

A connection serves one request: on a local socket another one costs nothing, and nothing is shared between threads.
An answer of 400 and above is raised as a problem. An answer that is shorter than announced is an error, which
http.client leaves to its caller. It must know nothing of images. Spec: RFC 9112.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

from container_image_client.errors import (
    DaemonUnreachableError,
    IncompleteAnswerError,
    UnexpectedAnswerError,
    parse_problem,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

# The daemon itself waits for a registry for minutes, and says so in the end; the client outlasts it.
DEFAULT_TIMEOUT: Final = 300.0  # seconds
MAX_DOCUMENT: Final = 4 << 20  # what the daemon takes for a manifest or configuration
_MAX_PROBLEM: Final = 64 * 1024
_ERRORS: Final = 400  # the first status that is one
_SEE_LOG: Final = "its log may say why: journalctl -u 'container-image-proxy@*'"
INSTANCES: Final = "/run/container-image-proxy/"  # where the socket of the instance NAME is NAME.sock


@dataclass(frozen=True, slots=True)
class Address:
    """Where the daemon listens: the path of a Unix socket, or a host and port."""

    socket: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def of_url(cls, url: str) -> Address:
        """An address as ``http://127.0.0.1:8080``."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise DaemonUnreachableError(f"{url!r} is no URL: {error}") from error
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.username:
            remedy = "write http://127.0.0.1:PORT"
            raise DaemonUnreachableError(f"{url!r} is no address of a daemon", remedy=remedy)
        return cls(host=parts.hostname, port=port or 80)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.socket or f"http://{host}:{self.port}"


class Answer:
    """An answer whose body nobody has read yet. A context manager; closing it ends the connection."""

    def __init__(self, sock: socket.socket, response: http.client.HTTPResponse) -> None:
        self._socket = sock
        self._response = response
        self.status = response.status
        self.headers = response.headers
        if response.length is None and response.status not in (204, 304):
            raise UnexpectedAnswerError("an answer does not say its length, as all of the daemon's do")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def length(self) -> int:
        """How many bytes of the body are still to come."""
        return self._response.length or 0

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer as far as the body goes; 0 only at its end."""
        if not self._response.length:
            return 0
        try:
            count = self._response.readinto(buffer)
        except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: closed meanwhile
            raise IncompleteAnswerError(f"the connection broke: {error}") from error
        if not count:
            raise IncompleteAnswerError(
                "the daemon cut the answer short: the source broke off, or sent something wrong",
                remedy=_SEE_LOG,
            )
        return count

    def read_document(self, limit: int = MAX_DOCUMENT) -> bytes:
        """The whole body of a small answer."""
        if self.length > limit:
            raise UnexpectedAnswerError(f"an answer has {self.length} bytes; {limit} are allowed here")
        body = memoryview(bytearray(self.length))
        filled = 0
        while filled < len(body):
            filled += self.readinto(body[filled:])
        return bytes(body)

    def close(self) -> None:
        """End the connection; also while another thread reads, which then ends with an error."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._response.close()
        self._socket.close()


class Transport:
    """GET requests to one daemon. Without state, so that any number of threads may use it."""

    def __init__(self, address: Address, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.address = address
        self._timeout = timeout

    def get(self, target: str, headers: Mapping[str, str] | None = None) -> Answer:
        """The answer to a GET request, of a status below 400."""
        sock = self._connect()
        try:
            answer = self._ask(sock, target, headers or {})
        except BaseException as error:
            sock.close()
            if isinstance(error, TimeoutError):
                silence = f"was silent for {self._timeout:.0f} seconds"
                raise IncompleteAnswerError(f"the daemon at {self.address} {silence}", remedy=_SEE_LOG) from error
            if isinstance(error, OSError | http.client.HTTPException):
                message = f"the daemon at {self.address} closed the connection without an answer"
                raise IncompleteAnswerError(message, remedy=_SEE_LOG) from error
            raise
        if answer.status < _ERRORS:
            return answer
        with answer:
            body = answer.read_document(_MAX_PROBLEM)
        raise parse_problem(answer.status, body, retry_after=answer.headers.get("Retry-After"))

    def _ask(self, sock: socket.socket, target: str, headers: Mapping[str, str]) -> Answer:
        # Over TCP the daemon answers only to names of this host; over a Unix socket any name does.
        host = self.address.host or "localhost"
        connection = http.client.HTTPConnection(f"[{host}]" if ":" in host else host, self.address.port or None)
        connection.sock = sock
        connection.request("GET", target, headers={"Connection": "close", "Accept-Encoding": "identity", **headers})
        return Answer(sock, connection.getresponse())

    def _connect(self) -> socket.socket:
        address = self.address
        if not address.socket:
            try:
                return socket.create_connection((address.host, address.port), self._timeout)
            except OSError as error:
                remedy = "start it: container-image-proxy --port N IMAGE"
                raise DaemonUnreachableError(
                    f"no daemon answers at {address}: {error.strerror or error}", remedy=remedy
                ) from error
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(self._timeout)
        try:
            sock.connect(address.socket)
        except OSError as error:
            sock.close()
            raise DaemonUnreachableError(
                f"no daemon answers at {address}: {error.strerror or error}", remedy=_remedy(address.socket, error)
            ) from error
        return sock


def _remedy(path: str, error: OSError) -> str:
    name = Path(path).stem
    match error:
        case PermissionError():
            return f"the socket's mode, owner and group say who may connect: ls -l {path}"
        case FileNotFoundError() if path.startswith(INSTANCES):
            return f"start the instance: systemctl enable --now container-image-proxy@{name}.socket"
        case ConnectionRefusedError() if path.startswith(INSTANCES):
            return f"nobody listens any more: systemctl restart container-image-proxy@{name}.socket"
    return "start the daemon, or name another socket"
