"""Processes that connect and close in a loop, and a client that waits for its place in the backlog meanwhile."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

PROCESSES = 2
_SCRIPT = """
import select, socket, sys
count = 0
while not (count % 100 == 0 and select.select([sys.stdin], [], [], 0)[0]):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(sys.argv[1])
    count += 1
    if count == 1:
        print("begun", flush=True)
print(count)
"""


def flood_command(path: str | Path, python: str = "") -> list[str]:
    """The command of one process; it ends with its standard input and prints how often it connected."""
    return [python or os.path.realpath(sys.executable), "-I", "-S", "-c", _SCRIPT, str(path)]


@contextmanager
def flood(command: Sequence[str], **user: Any) -> Iterator[list[int]]:
    """Two such processes, which have begun. After the block the list has how often each of them connected."""
    counts: list[int] = []
    with ExitStack() as stack:
        floods = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", **user)
            )
            for _ in range(PROCESSES)
        ]
        for process in floods:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
        yield counts
        counts.extend(int(process.communicate()[0]) for process in floods)


class _Patient(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def ask_patiently(path: Path, target: str = "/manifest") -> int:
    """The status of an answer, however long the connection takes."""
    with closing(_Patient(path)) as connection:
        connection.request("GET", target)
        return connection.getresponse().status
