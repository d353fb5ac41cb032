"""A machine for tests: the host's root copied on write, booted with a real systemd as PID 1, thrown away at the end.

``tests/support/boot`` does the mounting. The package under test runs inside as ``/usr/bin/container-image-proxy``, and
the units that the project ships are installed. Booting needs root; it takes well under a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.requirements import require_mounting

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path("/usr/bin/container-image-proxy")
_BOOT = Path(__file__).with_name("boot")
_BOOT_SECONDS = 60
_SHUTDOWN_SECONDS = 60
_COMMAND_SECONDS = 100
_POLL_SECONDS = 0.02
_POWER_OFF = signal.SIGRTMIN + 4  # systemd(1): starts poweroff.target

_OPT = "/opt/tests"
_LAUNCHER = """\
#!{python} -P
import sys
sys.path[:0] = ["{opt}/source", "{opt}/packages"]
from {package}.__main__ import main
sys.exit(main())
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What curl printed and how it ended: ``exit`` 0 is a complete answer, 18 one that was cut short."""

    exit: int
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Machine:
    """A booted machine; ``root`` is its file system, readable and writable from outside."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self._pid}/root")

    def command(self, *command: str, user: str | None = None) -> list[str]:
        """The host's command line that runs a command inside, as root or another of the machine's users."""
        become = ["runuser", "--user", user, "--"] if user else []
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/"]
        return ["nsenter", f"--target={self._pid}", "--all", "--root", "--wdns=/", "--", *clean, *become, *command]

    def run(self, *command: str, user: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command inside and wait for it; ``check`` fails with its output unless it exits 0."""
        done = subprocess.run(
            self.command(*command, user=user), capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False
        )
        assert not check or done.returncode == 0, f"{shlex.join(command)}: {done.stdout}{done.stderr}"
        return done

    def systemctl(self, *arguments: str) -> str:
        """Run systemctl inside; its output."""
        return self.run("systemctl", *arguments).stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """A property of a unit, such as "MainPID"."""
        return self.systemctl("show", "--property", name, "--value", unit)

    def processes(self, unit: str) -> list[int]:
        """The processes of a unit, as pids of the host, so that they can be watched and signalled from outside."""
        group = self.show(unit, "ControlGroup")
        return (
            [int(pid) for pid in (self.root / f"sys/fs/cgroup{group}/cgroup.procs").read_text().split()]
            if group
            else []
        )

    def journal(self, unit: str) -> list[dict[str, Any]]:
        """The journal's records of a unit, oldest first, with all their fields."""
        self.run("journalctl", "--sync")
        lines = self.run("journalctl", "--output=json", "--all", f"--unit={unit}", "--no-pager").stdout.splitlines()
        return [json.loads(line) for line in lines]

    def curl(self, name: str, path: str, *options: str, user: str | None = None) -> Answer:
        """GET ``path`` from the socket of instance ``name`` with curl."""
        command = self.command(*curl_command(name, path, *options), user=user)
        done = subprocess.run(command, capture_output=True, timeout=_COMMAND_SECONDS, check=False)
        return _parse_answer(done.returncode, done.stdout)

    def socket_path(self, name: str) -> Path:
        """The socket of instance ``name``, as seen from outside; whoever connects there is root of no known process."""
        return self.root / f"run/container-image-proxy/{name}.sock"

    def add_user(self, name: str, *groups: str) -> None:
        """Make a user, and the groups it is in beside its own; one that another test made is in these groups only."""
        for group in groups:
            self.run("groupadd", "--force", group)
        is_there = self.run("id", name, check=False).returncode == 0
        command = ("usermod",) if is_there else ("useradd", "--no-create-home", "--user-group")
        self.run(*command, "--groups", ",".join(groups), name)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something that systemd does on its own."""
        deadline = time.monotonic() + _COMMAND_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"did not come: {what}"
            time.sleep(_POLL_SECONDS)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file inside, with the directories above it."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)


def curl_command(name: str, path: str, *options: str) -> list[str]:
    """The curl command for a resource of instance ``name``; prints head and body."""
    where = ["--unix-socket", f"/run/container-image-proxy/{name}.sock", f"http://localhost{path}"]
    return ["curl", "--silent", "--show-error", "--include", "--max-time", "30", *options, *where]


def _parse_answer(status: int, output: bytes) -> Answer:
    head, _, body = output.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(status, int(first.split()[1]) if first else 0, headers, body)


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """The session's machine; tests share it and use instances of their own."""
    with booted() as machine:
        _install(machine)
        yield machine


@contextlib.contextmanager
def booted(system: Path = Path("/")) -> Iterator[Machine]:
    """Boot a machine over that system; at the end shut it down in order, or kill what does not follow, and remove every
    trace.
    """
    require_mounting("a machine with systemd as PID 1 is booted")
    with tempfile.TemporaryDirectory(prefix="machine-") as name:
        directory = Path(name)
        binds = f"{ROOT / 'daemon'} {_OPT}/source\n{sysconfig.get_path('purelib')} {_OPT}/packages\n"
        (directory / "binds").write_text(binds)
        (directory / "host").mkdir()
        with _boot(directory, system) as supervisor:
            pid = int((directory / "pid").read_text())
            try:
                yield Machine(pid)
            finally:
                _power_off(pid, supervisor)


def _boot(directory: Path, system: Path) -> subprocess.Popen[bytes]:
    """Start the machine and wait until it is up. The notify socket is closed then: unread, it would block systemd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(directory / "host" / "notify"))
        supervisor = _supervisor(directory, system)
        _wait_until_ready(notify, supervisor, directory)
        return supervisor


def _supervisor(directory: Path, system: Path) -> subprocess.Popen[bytes]:
    die_with_us = ["setpriv", "--pdeathsig", "KILL"]
    alone = ["unshare", "--mount", "--propagation", "private"]
    with (directory / "console").open("wb") as console:
        return subprocess.Popen(
            [*die_with_us, *alone, str(_BOOT), "supervise", str(directory), str(system)],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
        )


def _wait_until_ready(notify: socket.socket, supervisor: subprocess.Popen[bytes], directory: Path) -> None:
    """Wait for the machine's systemd to say READY=1 (sd_notify(3)), as it does in a container when booting is done."""
    ended = os.pidfd_open(supervisor.pid)
    try:
        while select.select([notify, ended], [], [], _BOOT_SECONDS)[0] == [notify]:
            if b"READY=1" in notify.recv(4096):
                return
    finally:
        os.close(ended)
    supervisor.kill()
    supervisor.wait()
    pytest.fail(f"the machine did not boot: {(directory / 'console').read_text(errors='replace')}")


def _power_off(pid: int, supervisor: subprocess.Popen[bytes]) -> None:
    os.kill(pid, _POWER_OFF)
    try:
        supervisor.wait(_SHUTDOWN_SECONDS)
    except subprocess.TimeoutExpired:
        os.kill(pid, signal.SIGKILL)
        raise


def install_program(machine: Machine, path: Path, package: str = "container_image_proxy") -> None:
    """Put the program under test there; its client is the package container_image_client."""
    launcher = _LAUNCHER.format(python=Path(sys.executable).resolve(), opt=_OPT, package=package)
    machine.write(str(path), launcher, mode=0o755)


def _install(machine: Machine) -> None:
    """Put program and units where a package would."""
    install_program(machine, PROGRAM)
    for unit in (ROOT / "systemd").glob("*@.*"):
        machine.write(f"/etc/systemd/system/{unit.name}", unit.read_text())
    machine.write("/etc/containers/policy.json", '{"default": [{"type": "insecureAcceptAnything"}]}')
    machine.systemctl("daemon-reload")
