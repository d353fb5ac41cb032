"""Bare Debian systems: what a newcomer's machine has before anything of ours, made anew and thrown away.

``tests/support/bare-debian`` does the work. apt and pip need the network there, so that they get the variables that
this session's set-up had; the commands get nothing else.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.environment import set_up_variables
from tests.support.requirements import require_mounting, require_program

_ROOT = Path(__file__).resolve().parents[2]
_SCRIPT = Path(__file__).with_name("bare-debian")
_SECONDS = 3000


@dataclass(frozen=True, slots=True)
class BareDebian:
    """A bare system; every command runs in a copy of its own. ``given`` is a folder that all of them see as /in; what
    they leave in /out is in ``taken``.
    """

    directory: Path
    given: Path

    @classmethod
    def given_this_project(cls, suite: str, place: Path) -> BareDebian:
        """A system of the suite, below ``place``, that has the last commit of this checkout as /in/project.bundle."""
        require_mounting("file systems are mounted in a bare Debian")
        require_program("mmdebstrap")
        given = place / "given"
        given.mkdir()
        bundle = ["bundle", "create", "--quiet", str(given / "project.bundle"), "HEAD"]
        subprocess.run(["git", "-c", f"safe.directory={_ROOT}", *bundle], cwd=_ROOT, check=True)
        return cls.make(suite, place / "system", given)

    @property
    def taken(self) -> Path:
        return self.directory.with_name("taken")

    @classmethod
    def make(cls, suite: str, directory: Path, given: Path, *packages: str) -> BareDebian:
        """Make the system of a suite such as "bookworm" in a folder that does not exist yet, with further packages."""
        command = [_SCRIPT, "make", suite, directory, *packages]
        environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **set_up_variables()}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr
        made = cls(directory, given)
        made.taken.mkdir()
        return made

    def run(self, script: str) -> str:
        """Run a bash script as root and return what it printed. The first command that fails ends it, and the test."""
        environ = {
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            **set_up_variables(),
        }
        environ.pop("SSL_CERT_FILE", None)  # it is the system's own there
        log = self.directory.with_name("log")  # whoever waits can read along
        with log.open("wb") as file:
            done = subprocess.run(
                [_SCRIPT, "run", self.directory, self.given, self.taken, "bash", "-ec", script],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=_SECONDS,
            )
        output = log.read_text(errors="replace")
        assert done.returncode == 0, output
        return output
