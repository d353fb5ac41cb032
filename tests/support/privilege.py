"""What other users are answered, which only root can test."""

from __future__ import annotations

import subprocess

from tests.support.daemon import RunningDaemon
from tests.support.requirements import needs_root

__all__ = ["needs_root", "status_for"]


def status_for(uid: int, daemon: RunningDaemon, target: str, *options: str) -> str:
    """The status that another user's curl is answered with; the way to the socket is opened to everybody."""
    for parent in daemon.socket.parents:
        if str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o011)
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
