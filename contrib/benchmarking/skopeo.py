"""A client of ``skopeo experimental-image-proxy``: JSON requests over a SOCK_SEQPACKET pair, answers with data in a
pipe that comes along as a descriptor (skopeo-experimental-image-proxy(1)).
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from benchmarking.processes import MIB, Transfer, cpu_seconds, drain_all, peak_rss, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_MAX_MESSAGE: Final = 32 * 1024


class SkopeoProxy:
    """One proxy process and our end of its socket."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid = pid
        self._connection = connection
        self._buffer = bytearray(MIB)
        self.version = tuple(map(int, self._call("Initialize")[0].split(".")))
        """Of the protocol."""

    def open_image(self, reference: str) -> int:
        """The number that later calls know the image by."""
        return int(self._call("OpenImage", reference)[0])

    def close_image(self, image: int) -> None:
        """Forget the image."""
        self._call("CloseImage", image)

    def fetch_manifest(self, image: int) -> int:
        """Read the manifest; its size."""
        return self._drain(*self._call("GetManifest", image)[1:])

    def fetch_blob(self, image: int, digest: str, size: int) -> Transfer:
        """Read a blob into nothing."""
        cpu, start = cpu_seconds(self.pid), time.perf_counter()
        received = self._drain(*self._call("GetBlob", image, digest, size)[1:])
        seconds, cpu = time.perf_counter() - start, cpu_seconds(self.pid) - cpu
        if received != size:
            raise RuntimeError(f"skopeo sent {received} of {size} bytes")
        return Transfer(size, seconds, cpu, peak_rss(self.pid))

    def first_byte(self, image: int, digest: str, size: int) -> float:
        """Seconds until the first byte of a blob is there; the rest of it is read, too."""
        start = time.perf_counter()
        _, pipe, descriptor = self._call("GetBlob", image, digest, size)
        os.readv(descriptor, [self._buffer])
        seconds = time.perf_counter() - start
        self._drain(pipe, descriptor)
        return seconds

    def fetch_raw_blob(self, image: int, digest: str, size: int) -> Transfer:
        """Read a blob that comes with a second pipe for errors."""
        cpu, start = cpu_seconds(self.pid), time.perf_counter()
        self._send("GetRawBlob", image, digest)
        data, errors = self._receive_descriptors("GetRawBlob", 2)[2]
        received = sum(self._read(data))
        failure = b"".join(iter(lambda: os.read(errors, _MAX_MESSAGE), b""))
        os.close(errors)
        seconds, cpu = time.perf_counter() - start, cpu_seconds(self.pid) - cpu
        if received != size or failure:
            raise RuntimeError(f"{received} of {size} bytes came: {failure.decode()}")
        return Transfer(size, seconds, cpu, peak_rss(self.pid))

    def fetch_blobs(self, image: int, digest: str, size: int, count: int) -> Transfer:
        """Read a blob ``count`` times at once, each from a pipe of its own."""
        cpu, start = cpu_seconds(self.pid), time.perf_counter()
        answers = [self._call("GetBlob", image, digest, size) for _ in range(count)]
        drain_all([descriptor for _, _, descriptor in answers], size)
        for _, pipe, _ in answers:
            self._send("FinishPipe", pipe)
            self._receive("FinishPipe")
        seconds, cpu = time.perf_counter() - start, cpu_seconds(self.pid) - cpu
        return Transfer(size * count, seconds, cpu, peak_rss(self.pid))

    def _call(self, method: str, *arguments: object) -> tuple[Any, int, int]:
        """The answer's value, its pipe's number and our descriptor of that pipe (-1 if there is none)."""
        self._send(method, *arguments)
        return self._receive(method)

    def _send(self, method: str, *arguments: object) -> None:
        self._connection.send(json.dumps({"method": method, "args": arguments}).encode())

    def _receive(self, method: str) -> tuple[Any, int, int]:
        value, pipe, descriptors = self._receive_descriptors(method, 1)
        return value, pipe, descriptors[0] if descriptors else -1

    def _receive_descriptors(self, method: str, most: int) -> tuple[Any, int, list[int]]:
        raw, descriptors, _, _ = socket.recv_fds(self._connection, _MAX_MESSAGE, most)
        answer = json.loads(raw)
        if not answer["success"]:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["value"], answer["pipeid"], descriptors

    def _drain(self, pipe: int, descriptor: int) -> int:
        """Read to the end, which comes only after FinishPipe has been asked for."""
        self._send("FinishPipe", pipe)
        received = sum(self._read(descriptor))
        self._receive("FinishPipe")
        return received

    def _read(self, descriptor: int) -> Iterator[int]:
        """Read a pipe into nothing: how much came each time."""
        try:
            while count := os.readv(descriptor, [self._buffer]):
                yield count
        finally:
            os.close(descriptor)


@contextmanager
def serving_skopeo(
    program: str | Sequence[str], policy: Path, cert_dir: Path | None, *, registries_d: Path | None = None
) -> Iterator[SkopeoProxy]:
    """A proxy that trusts the CA in ``cert_dir``, or speaks plain HTTP without one."""
    transport = f"--cert-dir={cert_dir}" if cert_dir else "--tls-verify=false"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lookaside = ["--registries.d", str(registries_d)] if registries_d else []
    words = [program] if isinstance(program, str) else program
    command = [*words, "--policy", str(policy), *lookaside, "experimental-image-proxy", transport]
    with ours, theirs, running([*command, f"--sockfd={theirs.fileno()}"], pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        yield SkopeoProxy(process.pid, ours)
