"""curl as a client: of the daemon, or of the registry itself as the yardstick that no proxy can beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarking.images import MANIFEST
from benchmarking.processes import Transfer, cpu_seconds, peak_rss, run_measured

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarking.registries import Registry

_KIB: Final = 1 << 10


def fetch(url: str, *options: str) -> tuple[int, float, float, int]:
    """Read an answer into nothing: its size, curl's own idea of the time it took, curl's CPU seconds and peak RSS.

    HTTP/1.1, which is what both proxies speak; curl's own choice, HTTP/2 where offered, is slower on one stream.
    """
    wanted = ("--silent", "--show-error", "--fail", "--http1.1", "--noproxy", "*", "--header", f"Accept: {MANIFEST}")
    report = ("--output", "/dev/null", "--write-out", "%{size_download} %{time_total}")
    output, usage = run_measured(["curl", *wanted, *report, *options, url])
    size, seconds = output.split()
    return int(size), float(seconds), usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _KIB


def fetch_from_registry(registry: Registry, kind: str, what: str) -> Transfer:
    """Read a manifest or blob from the registry; the cost is curl's."""
    return Transfer(*fetch(registry.url(kind, what), *authority(registry.cert_dir)))


def fetch_from_socket(path: Path, target: str, pid: int) -> Transfer:
    """Read what the process ``pid`` serves on the Unix socket at ``path``; the cost is that process's."""
    cpu = cpu_seconds(pid)
    size, seconds, _, _ = fetch(f"http://localhost{target}", "--unix-socket", str(path))
    return Transfer(size, seconds, cpu_seconds(pid) - cpu, peak_rss(pid))


def authority(cert_dir: Path | None) -> tuple[str, ...]:
    """What tells curl whom to trust."""
    return ("--cacert", f"{cert_dir}/ca.crt") if cert_dir else ()
