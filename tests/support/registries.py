"""Debian's docker-registry on loopback: anonymous, with htpasswd or a token server, with TLS, as pull-through cache.

``with docker_registry(tmp_path) as registry: registry.push(layout, "image:tag")``. A registry keeps its data under the
directory that it is given and is gone at the end. Whoever needs one and lacks the program skips.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from tests.support.authority import Issued, self_signed
from tests.support.layouts import skopeo_copy
from tests.support.requirements import needs_programs
from tests.support.upstream import Connection, ReceivedRequest, Upstream

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
USER = "somebody"
PASSWORD = "correct horse"
_SERVICE = "test registry"
_ISSUER = "test issuer"

needs_docker_registry = needs_programs("docker-registry", "skopeo")


@dataclass(frozen=True)
class DockerRegistry:
    """A running registry. ``log`` grows while it runs."""

    authority: str
    log: Path
    storage: Path
    login: tuple[str, str] | None = None
    ca: Path | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def push(self, layout: Path | str, name: str, *options: str) -> str:
        """Copy an image (a layout's path, perhaps ``path:name``) to ``repository[:tag]``; returns its reference."""
        login = ["--dest-creds", ":".join(self.login)] if self.login else []
        source = str(layout) if str(layout).startswith("oci:") else f"oci:{layout}"
        skopeo_copy(source, f"docker://{self.authority}/{name}", "--all", "--dest-tls-verify=false", *login, *options)
        return f"{self.authority}/{name}"

    def blob_file(self, digest: str) -> Path:
        """Where a blob's bytes lie, for tests that spoil them."""
        algorithm, _, encoded = digest.partition(":")
        return self.storage / "docker/registry/v2/blobs" / algorithm / encoded[:2] / encoded / "data"

    def stop(self) -> None:
        """Let it be down from now on."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(_STOP_SECONDS)


@contextlib.contextmanager
def docker_registry(
    directory: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    htpasswd: bool = False,
    token_server: TokenServer | None = None,
    certificate: Issued | None = None,
    ca: Path | None = None,
    client_ca: Path | None = None,
    proxy_of: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[DockerRegistry]:
    """A registry from here to the end of the block."""
    directory.mkdir(parents=True, exist_ok=True)
    authority = f"{host}:{port or free_port(host)}"
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"accesslog": {"disabled": False}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "storage")}, "delete": {"enabled": True}},
        "http": {"addr": authority, "secret": "a test's"},
    }
    if htpasswd:
        config["auth"] = {"htpasswd": {"realm": "test realm", "path": str(_htpasswd(directory))}}
    if token_server:
        config["auth"] = {"token": token_server.settings(directory)}
    if certificate:
        config["http"]["tls"] = {"certificate": str(certificate.certificate), "key": str(certificate.key)}
        if client_ca:
            config["http"]["tls"]["clientcas"] = [str(client_ca)]
    if proxy_of:
        config["proxy"] = {"remoteurl": proxy_of}
    config |= dict(settings or {})
    file = directory / "config.json"  # JSON is YAML
    file.write_text(json.dumps(config), encoding="utf-8")
    log = directory / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(file)], stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT
        )
    try:
        await_listening(authority, process, log)
        login = (USER, PASSWORD) if htpasswd or token_server else None
        yield DockerRegistry(authority, log, directory / "storage", login, ca, process)
    finally:
        process.terminate()
        process.wait(_STOP_SECONDS)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody uses now."""
    with socket.create_server((host, 0)) as listener:
        return int(listener.getsockname()[1])


def await_listening(authority: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server that was just started takes connections; its log is the failure's message."""
    host, _, port = authority.rpartition(":")
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return
        process_wait(process, 0.01)
    raise AssertionError(f"{process.args!r} did not start:\n{log.read_text(errors='replace')}")


def process_wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait a moment for the process to end; it need not."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _htpasswd(directory: Path) -> Path:
    path = directory / "htpasswd"
    made = subprocess.run(["htpasswd", "-Bbn", USER, PASSWORD], check=True, capture_output=True)
    path.write_bytes(made.stdout)
    return path


# --- a token server ---------------------------------------------------------------------------------------------------


class TokenServer:
    """Issues tokens that docker-registry believes. Everybody may pull ``public/...``, ``USER`` everything.

    The OAuth2 form takes ``identity_token``. ``lifetime`` in seconds may be changed at any time.
    """

    identity_token = "an identity token"

    def __init__(self, directory: Path, *, host: str = "127.0.0.1", certificate: Issued | None = None) -> None:
        self.lifetime = 300
        self._key = ec.generate_private_key(ec.SECP256R1())
        directory.mkdir(parents=True, exist_ok=True)
        self._certificate = self_signed(self._key, _ISSUER)
        tls = certificate.server_context() if certificate else None
        self.upstream = Upstream(self._handle, host=host, tls=tls)

    def settings(self, directory: Path) -> dict[str, Any]:
        """The ``auth.token`` section of a registry that trusts this server; the server has to run already."""
        bundle = directory / "token-issuer.crt"
        bundle.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        realm = f"{self.upstream.url}/token"
        return {"realm": realm, "service": _SERVICE, "issuer": _ISSUER, "rootcertbundle": str(bundle)}

    def _handle(self, request: ReceivedRequest, connection: Connection) -> None:
        if request.method == "POST":
            asked = parse_qs(request.body.decode())
            is_user = asked.get("refresh_token") == [self.identity_token]
            is_known = is_user
        else:
            asked = parse_qs(urlsplit(request.target).query)
            authorization = request.headers.get("authorization")
            is_user = authorization == _basic(USER, PASSWORD)
            is_known = is_user or authorization is None
        if not is_known:
            connection.answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}')
            return
        scopes = " ".join(asked.get("scope", [])).split()
        token = self._token([access for scope in scopes if (access := _grant(scope, is_user=is_user))])
        body = json.dumps({"token": token, "expires_in": self.lifetime}).encode()
        connection.answer(200, body, {"Content-Type": "application/json"})

    def _token(self, access: list[dict[str, Any]]) -> str:
        now = int(time.time())
        certificate = b64encode(self._certificate.public_bytes(serialization.Encoding.DER)).decode()
        head = {"typ": "JWT", "alg": "ES256", "x5c": [certificate]}
        claims = {
            "iss": _ISSUER, "sub": USER, "aud": _SERVICE, "exp": now + self.lifetime, "nbf": now - 10, "iat": now,
            "jti": f"{time.monotonic_ns()}", "access": access,
        }  # fmt: skip
        signed = f"{_base64url(json.dumps(head).encode())}.{_base64url(json.dumps(claims).encode())}"
        r, s = utils.decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _grant(scope: str, *, is_user: bool) -> dict[str, Any] | None:
    kind, name, actions = scope.split(":")
    allowed = actions.split(",") if is_user else ["pull"] if name.startswith("public/") else []
    return {"type": kind, "name": name, "actions": allowed} if allowed else None


def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def decode_basic(value: str) -> str:
    """``user:password`` of an ``Authorization`` header."""
    return b64decode(value.removeprefix("Basic ")).decode()


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
