"""What a process costs: CPU time of all its threads, also of those that have ended, and the most memory it held."""

from __future__ import annotations

import mmap
import os
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import resource
    from collections.abc import Iterator, Mapping, Sequence

MIB: Final = 1 << 20
_KIB: Final = 1 << 10
_STOP_SECONDS: Final = 10.0
_CPU_CLOCK_OF_PROCESS: Final = 2  # CPUCLOCK_SCHED of the kernel's posix-timers.h: what clock_getcpuclockid(3) returns


@dataclass(frozen=True, slots=True)
class Transfer:
    """One transfer's cost: ``seconds`` on the clock, ``cpu_seconds`` and ``peak_rss`` (bytes) of the one measured."""

    size: int
    seconds: float
    cpu_seconds: float
    peak_rss: int

    @property
    def figures(self) -> tuple[float, float, float]:
        """MB/s, CPU s/GiB, MiB."""
        return self.size / self.seconds / 1e6, self.cpu_seconds / self.size * (1 << 30), self.peak_rss / MIB


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used so far."""
    return time.clock_gettime((~pid << 3) | _CPU_CLOCK_OF_PROCESS)


def peak_rss(pid: int) -> int:
    """The most memory a process has had resident, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * _KIB
    raise ProcessLookupError(pid)


@contextmanager
def running(
    command: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    stderr: int | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that is gone afterwards; without ``environ`` it has ours."""
    process = subprocess.Popen(
        command, env=environ, stdin=stdin, stdout=subprocess.DEVNULL, stderr=stderr, pass_fds=pass_fds
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def drain_all(descriptors: Sequence[int], size: int) -> None:
    """Read and close each, a thread for each, until ``size`` bytes or more have come from it."""

    def drain(descriptor: int) -> None:
        buffer, received = memoryview(mmap.mmap(-1, MIB)), 0
        while received < size and (count := os.readv(descriptor, [buffer])):
            received += count
        os.close(descriptor)
        if received < size:
            raise RuntimeError(f"{received} of {size} bytes came")

    with ThreadPoolExecutor(len(descriptors)) as pool:
        list(pool.map(drain, descriptors))


def run_measured(command: Sequence[str]) -> tuple[str, resource.struct_rusage]:
    """Output of a command that must succeed, and what it used."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        output.seek(0)
        return output.read().decode(), usage
