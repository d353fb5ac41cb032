"""The bare relay: the least that Python can do between a registry and a client. What it reaches bounds what we can.

Each connection to its Unix socket carries one GET. It is asked of the registry at PORT, over TLS with ``--ca FILE``.
The body goes through a hash to the client, unverified, by a thread for each connection: with ``--ring`` in buffers of
2 x 512 KiB that another thread hashes, else in one of 256 KiB that is hashed in between.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import re
import socket
import ssl
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from benchmarking.processes import running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarking.registries import Registry

_RING: Final = (512 << 10, 512 << 10)
_SINGLE: Final = (256 << 10,)
_LENGTH: Final = re.compile(rb"\r\nContent-Length: *([0-9]+)\r\n", re.IGNORECASE)
_HEAD_END: Final = b"\r\n\r\n"


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("port", type=int)
    parser.add_argument("--ca")
    parser.add_argument("--ring", action="store_true")
    options = parser.parse_args()
    context = ssl.create_default_context(cafile=options.ca) if options.ca else None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(options.socket)
        listener.listen(128)
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=(client, options.port, context, options.ring), daemon=True).start()


def _serve(client: socket.socket, port: int, context: ssl.SSLContext | None, ring: bool) -> None:  # noqa: FBT001
    with client, closing(socket.create_connection(("localhost", port))) as plain:
        upstream = context.wrap_socket(plain, server_hostname="localhost") if context else plain
        upstream.sendall(_receive_head(client))
        head = _receive_head(upstream)
        end = head.index(_HEAD_END) + len(_HEAD_END)
        length = _LENGTH.search(head)
        if length is None:
            raise RuntimeError(f"the registry answered {head!r}")
        client.sendall(head)
        with suppress(BrokenPipeError):  # a client that has all that it measures does not wait for the rest
            (_relay_in_ring if ring else _relay)(upstream, client, head[end:], int(length[1]) - len(head) + end)


def _receive_head(sock: socket.socket) -> bytes:
    head = b""
    while _HEAD_END not in head:
        piece = sock.recv(65536)
        if not piece:
            raise ConnectionError
        head += piece
    return head


def _fill(upstream: socket.socket, buffer: memoryview, left: int) -> int:
    """Receive once, or over TLS, whose records are small, until the buffer is full."""
    filled = upstream.recv_into(buffer[:left])
    while isinstance(upstream, ssl.SSLSocket) and 0 < filled < min(len(buffer), left):
        filled += upstream.recv_into(buffer[filled:left])
    return filled


def _relay(upstream: socket.socket, client: socket.socket, start: bytes, left: int) -> None:
    content = hashlib.sha256(start)
    (buffer,) = (memoryview(mmap.mmap(-1, size)) for size in _SINGLE)
    while left and (count := _fill(upstream, buffer, left)):
        content.update(buffer[:count])
        client.sendall(buffer[:count])
        left -= count


def _relay_in_ring(upstream: socket.socket, client: socket.socket, start: bytes, left: int) -> None:
    content = hashlib.sha256(start)
    free: SimpleQueue[memoryview] = SimpleQueue()
    filled: SimpleQueue[tuple[memoryview, int] | None] = SimpleQueue()
    for size in _RING:
        free.put(memoryview(mmap.mmap(-1, size)))

    def hash_what_comes() -> None:
        while (piece := filled.get()) is not None:
            content.update(piece[0][: piece[1]])
            free.put(piece[0])

    thread = threading.Thread(target=hash_what_comes)
    thread.start()
    while left:
        buffer = free.get()
        count = _fill(upstream, buffer, left)
        if not count:
            break
        filled.put((buffer, count))
        client.sendall(buffer[:count])
        left -= count
    filled.put(None)
    thread.join()


@contextmanager
def serving_relay(registry: Registry, *, ring: bool) -> Iterator[tuple[int, Path]]:
    """A relay to ``registry``: the number of its process, and the path of its socket."""
    with TemporaryDirectory() as directory:
        path = Path(directory, "socket")
        trust = ["--ca", f"{registry.cert_dir}/ca.crt"] if registry.cert_dir else []
        command = [sys.executable, "-m", "benchmarking.relay", str(path), str(registry.port), *trust]
        with running([*command, "--ring"] if ring else command) as process:
            while not path.exists() and process.poll() is None:
                time.sleep(0.01)
            yield process.pid, path


if __name__ == "__main__":
    main()
