"""Clients of skopeo's image proxy protocol, and the programs that speak it: ours and whichever skopeo."""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

OURS = [sys.executable, "-m", "container_image_proxy"]


@dataclass
class Reply:
    """An answer, with the descriptors that came along."""

    success: bool
    value: Any
    pipeid: int
    error: str
    error_code: str = ""
    """Since protocol 0.2.8."""
    descriptors: list[int] = field(default_factory=list)

    @property
    def descriptor(self) -> int:
        """The only descriptor."""
        (one,) = self.descriptors
        return one


class Client:
    """One client on a connected socket. Strict: each answer is one recvmsg with room for two descriptors."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.socket.settimeout(100)

    def send(self, method: str, *arguments: object) -> None:
        self.send_raw(json.dumps({"method": method, "args": list(arguments)}).encode())

    def send_raw(self, message: bytes) -> None:
        self.socket.send(message)

    def receive(self) -> Reply | None:
        """The next answer; None at the end."""
        message, ancillary, flags, _ = self.socket.recvmsg(32 * 1024, socket.CMSG_SPACE(2 * 4), socket.MSG_CMSG_CLOEXEC)
        assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        descriptors = array.array("i")
        for _level, _type, data in ancillary:
            descriptors.frombytes(data)
        return Reply(**json.loads(message), descriptors=list(descriptors)) if message else None

    def call(self, method: str, *arguments: object) -> Reply:
        """The answer to one request, whatever it is."""
        self.send(method, *arguments)
        reply = self.receive()
        assert reply is not None, f"{method}: the proxy is gone"
        return reply

    def value(self, method: str, *arguments: object) -> Any:
        """The value of one that succeeds."""
        reply = self.call(method, *arguments)
        assert reply.success, f"{method}: {reply.error}"
        return reply.value

    def content(self, method: str, *arguments: object) -> bytes:
        """What comes through the pipe of one that succeeds, and is finished."""
        reply = self.call(method, *arguments)
        assert reply.success, f"{method}: {reply.error}"
        data, finish = self.drain(reply)
        assert finish.success, f"{method}: {finish.error}"
        return data

    def drain(self, reply: Reply) -> tuple[bytes, Reply]:
        """What comes through a pipe, read while FinishPipe is asked, as the Rust crate does, and the answer to that."""
        pieces: list[bytes] = []
        reading = threading.Thread(target=lambda: pieces.extend(read_to_end(reply.descriptor)))
        # skopeo closes its end of a pipe only with FinishPipe, so that reading to the end takes both.
        reading.start()
        finish = self.call("FinishPipe", reply.pipeid)
        reading.join()
        return b"".join(pieces), finish


def read_to_end(descriptor: int) -> Iterator[bytes]:
    """The pieces that come through a descriptor, which is closed at the end."""
    try:
        while piece := os.read(descriptor, 1 << 20):
            yield piece
    finally:
        os.close(descriptor)


class Proxy(Client):
    """A process that serves this one, and ends with it."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        super().__init__(sock)
        self.process = process
        self._errors: list[bytes] = []
        assert process.stderr is not None
        self._reading = threading.Thread(target=lambda: self._errors.extend(process.stderr or ()), daemon=True)
        self._reading.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> int:
        """Close our end and wait for the process: its exit code."""
        self.socket.close()
        code = self.process.wait(60)
        self._reading.join(60)
        if self.process.stderr is not None:
            self.process.stderr.close()
        return code

    @property
    def errors(self) -> str:
        """What it has said on standard error, all of it after :meth:`close`."""
        return b"".join(self._errors).decode()

    def descriptors(self) -> int:
        """How many it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


def start(
    options: Sequence[str | Path] = (),
    *,
    program: Sequence[str] = (),
    environ: dict[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    before: Sequence[str | Path] = (),
) -> Proxy:
    """Start ``program`` (ours) as clients do: the socket as standard input, standard error a pipe."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [*(program or OURS), *map(str, before), "experimental-image-proxy", *map(str, options)]
    try:
        process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environ,
            pass_fds=pass_fds,
        )
    finally:
        theirs.close()
    return Proxy(process, ours)


@contextlib.contextmanager
def initialized(options: Sequence[str | Path] = (), **keywords: Any) -> Iterator[Proxy]:
    """One that has been greeted."""
    with start(options, **keywords) as proxy:
        assert proxy.value("Initialize").startswith("0.2.")
        yield proxy


def is_readable(descriptor: int, seconds: float = 0) -> bool:
    """Whether something has come, or the end."""
    return bool(select.select([descriptor], [], [], seconds)[0])
