"""Other users than the one who runs the tests: what they are answered, and what they cannot read."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.daemon import RunningDaemon
from tests.support.requirements import needs_root

__all__ = ["needs_root", "open_the_way", "ordinary_user", "public_directory", "status_for"]

ORDINARY_UID = 64_321


@contextlib.contextmanager
def ordinary_user() -> Iterator[int]:
    """Be a user without rights meanwhile, root or not; the uid. For what this process does itself, not for children."""
    if os.geteuid() != 0:
        yield os.geteuid()
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(ORDINARY_UID)
    os.seteuid(ORDINARY_UID)
    try:
        yield ORDINARY_UID
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@contextlib.contextmanager
def public_directory() -> Iterator[Path]:
    """A directory that every user can look into; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="public-") as name:
        Path(name).chmod(0o755)
        yield Path(os.path.realpath(name))


def open_the_way(daemon: RunningDaemon) -> None:
    """Let everybody reach the daemon's socket."""
    for parent in daemon.socket.parents:
        if str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o011)


def status_for(uid: int, daemon: RunningDaemon, target: str, *options: str) -> str:
    """The status that another user's curl is answered with; the way to the socket is opened to everybody."""
    open_the_way(daemon)
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", str(daemon.socket)]
    done = subprocess.run(
        [*command, *options, f"http://x{target}"],
        user=uid,
        group=uid,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout
