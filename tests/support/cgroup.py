"""A control group with limits for what a test starts, whichever of the two hierarchies this host has (cgroups(7))."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Limited:
    """The group, as a directory for each of its controllers; both are the same in the unified hierarchy."""

    memory: Path
    pids: Path

    @property
    def prefix(self) -> list[str]:
        """What is to be put before a command to run it within the limits."""
        files = [str(place / "cgroup.procs") for place in {self.memory, self.pids}]
        return ["sh", "-c", f'for f in {" ".join(files)}; do echo $$ >"$f" || exit 1; done; exec "$@"', "sh"]

    def killed(self) -> int:
        """How many processes ended because there was no memory left within the limit."""
        counts = _read(self.memory, "memory.events", "memory.oom_control")
        return int(next(line.split()[1] for line in counts.splitlines() if line.startswith("oom_kill ")))

    def peak(self) -> int:
        """The most memory that was in use at a time, in bytes."""
        return int(_read(self.memory, "memory.peak", "memory.max_usage_in_bytes"))


@contextlib.contextmanager
def limited(*, memory: int, tasks: int) -> Iterator[Limited]:
    """A group in which as many bytes and tasks may be; the test is skipped where none can be made."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a control group")
    with contextlib.ExitStack() as stack:
        group = Limited(*(stack.enter_context(_group(controller)) for controller in ("memory", "pids")))
        _write(group.memory, memory, "memory.max", "memory.limit_in_bytes")
        (group.pids / "pids.max").write_text(str(tasks))
        yield group


@contextlib.contextmanager
def _group(controller: str) -> Iterator[Path]:
    parent = _ROOT / controller
    if not (parent / "cgroup.procs").exists():
        parent = _ROOT
        control = parent / "cgroup.subtree_control"
        if not control.exists() or controller not in (parent / "cgroup.controllers").read_text().split():
            pytest.skip(f"no control group can limit {controller} here")
        control.write_text(f"+{controller}")
    directory = Path(tempfile.mkdtemp(prefix="container-image-proxy-tests-", dir=parent))
    try:
        yield directory
    finally:
        directory.rmdir()


def _read(place: Path, *names: str) -> str:
    return next((place / name).read_text() for name in names if (place / name).exists())


def _write(place: Path, value: int, *names: str) -> None:
    next(place / name for name in names if (place / name).exists()).write_text(str(value))
