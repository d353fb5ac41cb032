"""Debian's docker-registry on loopback: one process speaks HTTP, one HTTPS, over the same storage."""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarking.processes import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarking.images import Image

_LISTENING: Final = re.compile(rb"listening on 127\.0\.0\.1:(\d+)")
REPOSITORY: Final = "benchmark"


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry at ``localhost:port``; ``cert_dir`` has the CA of its certificate, None means plain HTTP."""

    port: int
    cert_dir: Path | None

    @property
    def reference(self) -> str:
        """Where :func:`push` puts the image."""
        return self.tagged("latest")

    def tagged(self, tag: str) -> str:
        """The image of that tag."""
        return f"docker://localhost:{self.port}/{REPOSITORY}:{tag}"

    def path(self, kind: str, what: str) -> str:
        """The URL path of ``manifests`` or ``blobs`` (OCI distribution spec)."""
        return f"/v2/{REPOSITORY}/{kind}/{what}"

    def url(self, kind: str, what: str) -> str:
        """The whole URL."""
        return f"{'https' if self.cert_dir else 'http'}://localhost:{self.port}{self.path(kind, what)}"


def make_authority(directory: Path) -> Path:
    """A directory as containers-certs.d(5) has them, with ``ca.crt``; its private key is beside it as ``ca.pem``."""
    directory.mkdir()
    subprocess.run(
        (
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2"),
            *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
            *("-keyout", directory / "ca.pem", "-out", directory / "ca.crt"),
        ),
        check=True,
        capture_output=True,
    )
    return directory


@contextmanager
def serving_registry(directory: Path, storage: Path, cert_dir: Path | None) -> Iterator[Registry]:
    """The registry over ``storage``; its configuration and log go into ``directory``."""
    directory.mkdir()
    config, log = directory / "config.yml", directory / "log"
    config.write_text(json.dumps(_configuration(storage, cert_dir)))  # YAML has JSON as a subset
    with (
        log.open("wb") as stream,
        running(["docker-registry", "serve", str(config)], stderr=stream.fileno()) as process,
    ):
        yield Registry(_await_port(process, log), cert_dir)


def _configuration(storage: Path, cert_dir: Path | None) -> dict[str, Any]:
    tls = {"tls": {"certificate": f"{cert_dir}/ca.crt", "key": f"{cert_dir}/ca.pem"}} if cert_dir else {}
    return {
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(storage)}, "cache": {"blobdescriptor": "inmemory"}},
        "http": {"addr": "127.0.0.1:0"} | tls,
    }


def _await_port(process: subprocess.Popen[bytes], log: Path) -> int:
    while process.poll() is None:
        if found := _LISTENING.search(log.read_bytes()):
            return int(found[1])
    raise RuntimeError(f"docker-registry does not start:\n{log.read_text()}")


def push(image: Image, registry: Registry, tag: str = "latest") -> None:
    """Copy an image into a registry that speaks plain HTTP."""
    subprocess.run(
        (
            *("skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"),
            *(f"oci:{image.layout}:latest", registry.tagged(tag)),
        ),
        check=True,
        stdin=subprocess.DEVNULL,
    )
