"""The service and the timer of contrib/ostree-update on a booted systemd: within its sandbox a host is updated."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.instance import Instance
from tests.support.layouts import layer_tar
from tests.support.machine import Machine
from tests.support.requirements import needs_programs, require_introspection

ROOT = Path(__file__).parents[2]
PLACE = "usr/local/lib/container-image-proxy"
PROGRAMS = "/usr/libexec/container-image-client"
SYSROOT = "/srv/sysroot"
HOST = {
    "usr/lib/modules/6.1/vmlinuz": b"kernel",
    "usr/lib/modules/6.1/initramfs.img": b"initramfs",
    "usr/lib/os-release": b"ID=test\n",
    "boot/.keep": b"",
    "sysroot/.keep": b"",
    "var/.keep": b"",
}
AT_ONCE = "[Timer]\nOnBootSec=\nOnActiveSec=0\nRandomizedDelaySec=0\n"


@pytest.fixture
def installed(machine: Machine) -> Iterator[Machine]:
    """The machine with a checkout, program and units as the documentation has it, and a sysroot with no deployment."""
    require_introspection("OSTree", "1.0")
    place = machine.root / PLACE
    for part in ("contrib/ostree_update", "daemon/container_image_client"):
        shutil.copytree(ROOT / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "contrib/ostree-update", place / "contrib")
    machine.run("mkdir", "-p", PROGRAMS)
    machine.run("ln", "-sf", f"/{PLACE}/contrib/ostree-update", PROGRAMS)
    for unit in (ROOT / "contrib/ostree-update.d").iterdir():
        machine.write(f"/etc/systemd/system/{unit.name}", unit.read_text())
    machine.run("mkdir", "-p", "/ostree", SYSROOT)
    machine.run("ostree", "admin", "init-fs", SYSROOT)
    machine.run("ostree", "admin", "os-init", f"--sysroot={SYSROOT}", "test")
    machine.write("/etc/ostree-update/ostree.conf", f"OPTIONS=--sysroot={SYSROOT} --os=test --signed-by-anyone\n")
    machine.write("/etc/systemd/system/ostree-update@ostree.timer.d/test.conf", AT_ONCE)
    machine.systemctl("daemon-reload")
    yield machine
    machine.run("systemctl", "stop", "ostree-update@ostree.timer", "ostree-update@ostree.service", check=False)
    machine.run("rmdir", "/ostree")
    machine.run("sh", "-c", "rm -r /etc/systemd/system/ostree-update@*")
    machine.systemctl("daemon-reload")


def deployed(machine: Machine) -> list[str]:
    """The manifest of each deployment, the first first."""
    commits = [
        line.split()[1].partition(".")[0]
        for line in machine.run("ostree", "admin", "status", f"--sysroot={SYSROOT}").stdout.splitlines()
        if line.startswith("  test ")
    ]
    show = ("ostree", f"--repo={SYSROOT}/ostree/repo", "show", "--print-metadata-key=ostree.manifest-digest")
    return [machine.run(*show, commit).stdout.strip().strip("'") for commit in commits]


@needs_programs("ostree")
def test_the_timer_updates_the_host_and_the_service_again(
    installed: Machine, make_instance: Callable[[str], Instance]
) -> None:
    machine = installed
    instance = make_instance("ostree")
    first = instance.add_image(layers=[layer_tar({**HOST, "etc/motd": b"one"})])
    instance.configure("")
    machine.systemctl("start", "ostree-update@ostree.timer")
    machine.wait_until(lambda: deployed(machine) == [first.digest], "the first deployment")
    machine.systemctl("stop", "ostree-update@ostree.timer")
    second = instance.add_image(layers=[layer_tar({**HOST, "etc/motd": b"two"})])
    machine.wait_until(lambda: _served(instance) == second.digest, "the second image")
    machine.systemctl("start", "ostree-update@ostree.service")
    assert deployed(machine) == [second.digest, first.digest]


def _served(instance: Instance) -> str:
    return instance.get("/manifest").headers["manifest-digest"]
