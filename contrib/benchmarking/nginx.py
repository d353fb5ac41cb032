"""Debian's nginx on loopback as a registry of static files: nothing else costs the upstream so little."""

from __future__ import annotations

import os
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarking.images import MANIFEST
from benchmarking.processes import running
from benchmarking.registries import REPOSITORY, Registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarking.images import Image

SENT = "sent"
"""A file in nginx's directory: a line for each request, its target and how many bytes of body left for it."""
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def lay_out(directory: Path, images: Sequence[Image]) -> None:
    """Link the blobs of ``images`` to where their URLs lead; ``latest`` is the first image, ``2`` the second, ..."""
    blobs, manifests = directory / f"v2/{REPOSITORY}/blobs", directory / f"v2/{REPOSITORY}/manifests"
    blobs.mkdir(parents=True)
    manifests.mkdir()
    for number, image in enumerate(images, 1):
        for file in (image.layout / "blobs/sha256").iterdir():
            (blobs / f"sha256:{file.name}").hardlink_to(file)
        manifest = image.layout / "blobs/sha256" / image.manifest_digest.partition(":")[2]
        for name in (image.manifest_digest, "latest" if number == 1 else str(number)):
            (manifests / name).hardlink_to(manifest)


@contextmanager
def serving_nginx(directory: Path, root: Path, cert_dir: Path) -> Iterator[tuple[Registry, Registry, Registry]]:
    """What :func:`lay_out` made, over HTTP, over HTTPS, and over HTTP with hardly a buffer: what is sent there has been
    taken.
    """
    directory.mkdir()
    ports = _free_ports(3)
    user = "user root;" if os.geteuid() == 0 else ""  # a directory of mktemp(1) is for its owner only
    (directory / "nginx.conf").write_text(
        f"daemon off; worker_processes auto; pid {directory}/pid; error_log stderr; {user}\n"
        "events { worker_connections 512; }\n"
        "http { sendfile on; default_type application/octet-stream;\n"
        f"root {root}; log_format sent '$request_uri $body_bytes_sent'; access_log {directory / SENT} sent;\n"
        + "".join(f"{name}_temp_path {directory}/{name};\n" for name in _TEMPORARY)
        + f"server {{ listen 127.0.0.1:{ports[0]}; listen 127.0.0.1:{ports[1]} ssl;\n"
        f"listen 127.0.0.1:{ports[2]} sndbuf=128k;\n"
        f"ssl_certificate {cert_dir}/ca.crt; ssl_certificate_key {cert_dir}/ca.pem;\n"
        "location = /v2/ { return 200 '{}'; }\n"
        f"location ~ /manifests/ {{ default_type {MANIFEST}; }} }} }}\n"
    )
    command = ["nginx", "-c", str(directory / "nginx.conf"), "-p", str(directory)]
    with (directory / "log").open("wb") as log, running(command, stderr=log.fileno()) as process:
        for port in ports:
            while process.poll() is None:
                try:
                    socket.create_connection(("localhost", port)).close()
                    break
                except ConnectionRefusedError:
                    time.sleep(0.01)
        yield Registry(ports[0], None), Registry(ports[1], cert_dir), Registry(ports[2], None)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
