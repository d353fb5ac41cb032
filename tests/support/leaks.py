"""What a test may leave behind: nothing. Snapshots of threads, file descriptors and children, and their difference.

The process makes itself a child subreaper (prctl(2)), so that a daemon which a test's child left behind becomes visible
as a child of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_GRACE_SECONDS = 60.0  # of a machine that is busy; who is in time does not wait
_FIRST_WAIT_SECONDS = 0.001
_LONGEST_WAIT_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the process holds: threads by name, descriptors with what they are open on, children by command."""

    threads: frozenset[tuple[int, str]]
    descriptors: frozenset[tuple[int, str]]
    children: frozenset[tuple[int, str]]

    def __sub__(self, other: Holdings) -> Holdings:
        return Holdings(
            self.threads - other.threads, self.descriptors - other.descriptors, self.children - other.children
        )

    def __bool__(self) -> bool:
        return bool(self.threads or self.descriptors or self.children)

    def __str__(self) -> str:
        kinds = (("thread", self.threads), ("descriptor", self.descriptors), ("child process", self.children))
        return ", ".join(f"{kind} {number} ({what})" for kind, held in kinds for number, what in sorted(held))


def adopt_orphans() -> None:
    """Become the parent of whatever this process's descendants orphan."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def holdings() -> Holdings:
    """What this process holds now. The dead are not counted: an orphan's parent cannot wait for it any more."""
    threads = frozenset((thread.ident or 0, thread.name) for thread in threading.enumerate())
    return Holdings(threads, frozenset(_descriptors()), frozenset(_children()))


def left_behind(before: Holdings) -> Holdings:
    """What is held beyond ``before``, after a bounded wait for what is on its way out."""
    wait = _FIRST_WAIT_SECONDS
    deadline = time.monotonic() + _GRACE_SECONDS
    while (left := holdings() - before) and time.monotonic() < deadline:
        gc.collect()  # what only a cycle holds is no leak; a file closed that way warns, and a warning fails the test
        time.sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT_SECONDS)
    return left


def end_children(command_line: str) -> None:
    """End the children that have this in their command line, and wait for them."""
    for pid, _ in _children():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ChildProcessError):  # it ends by itself
            if command_line in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)


def _descriptors() -> Iterator[tuple[int, str]]:
    for link in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the listing's own descriptor
            yield int(link.name), str(link.readlink())


def _children() -> Iterator[tuple[int, str]]:
    for process in Path("/proc").glob("[0-9]*"):
        stat = process / "stat"  # not in the pattern: a process may end while glob looks at its directory
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid, _, rest = stat.read_text().partition(" (")
            command, _, fields = rest.rpartition(") ")
            state, parent = fields.split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                yield int(pid), command
