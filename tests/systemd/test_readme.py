"""The README's commands under systemd, pasted as they are but for the image's reference and sudo.

What needs apt and pip is in tests/packaging.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.instance import Instance
from tests.support.layouts import layer_tar
from tests.support.machine import Machine, booted, install_program
from tests.support.readme import as_root, blocks

ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = "/srv/checkout"
PROGRAM = "/opt/container-image-proxy/bin/container-image-proxy"


def paste(machine: Machine, commands: str, reference: str = "") -> str:
    """Paste a block into bash in the checkout; every command of it has to do well."""
    script = f"cd {CHECKOUT}\n{as_root(commands, reference=reference)}"
    return machine.run("bash", "-e", "-o", "pipefail", "-c", script).stdout


@pytest.fixture
def os_instance(machine: Machine) -> Iterator[Instance]:
    """The example's instance, which is not there yet; its image is."""
    machine.run("mkdir", "-p", CHECKOUT)
    instance = Instance(machine, "os")
    instance.add_image()
    yield instance
    machine.systemctl("disable", instance.socket)
    machine.run("rm", "-rf", instance.file, f"/etc/systemd/system/{instance.socket}.d")
    machine.systemctl("daemon-reload")
    instance.stop()


@pytest.mark.parametrize("position", [2, 3], ids=["TCP", "a socket of one's own"])
def test_the_lines_for_trying_out_an_image_wait_until_it_is_served(machine: Machine, position: int) -> None:
    instance = Instance(machine, "tried")
    image = instance.add_image(layers=[layer_tar({"usr/lib/os-release": b""})])
    machine.run("mkdir", "-p", f"{CHECKOUT}/.venv/bin")
    machine.run("ln", "-sf", "/usr/bin/container-image-proxy", f"{CHECKOUT}/.venv/bin/")
    shown = paste(machine, blocks("Try it")[position], instance.reference())
    assert shown.endswith(image.manifest.decode()) or shown == "usr/lib/os-release\n"


def test_the_lines_that_add_an_instance_serve_its_image(machine: Machine, os_instance: Instance) -> None:
    commands = blocks("Add an instance")[0]
    assert len(commands.splitlines()) == 4
    assert "schemaVersion" in paste(machine, commands, os_instance.reference())


def test_access_is_for_those_whom_the_lines_name(machine: Machine, os_instance: Instance) -> None:
    add, only_a_group = blocks("Add an instance")
    (access,) = blocks("Add an instance", "toml")
    paste(machine, add, os_instance.reference())
    machine.add_user("alice", "ostree")
    machine.add_user("eve")
    machine.write(os_instance.file, as_root(access, reference=os_instance.reference()))
    paste(machine, only_a_group)
    assert os_instance.get("/manifest").status == 200
    assert os_instance.get("/manifest", user="alice").status == 200
    assert os_instance.get("/manifest", user="eve").exit == 7  # the kernel refuses the connection


def test_the_lines_for_when_something_does_not_work_say_something(machine: Machine, os_instance: Instance) -> None:
    paste(machine, blocks("Add an instance")[0], os_instance.reference())
    commands = blocks("When something does not work")[0]
    for command in commands.splitlines():
        assert paste(machine, command)
    assert "os.toml" in paste(machine, commands.splitlines()[0])


@pytest.fixture
def bare_host() -> Iterator[Machine]:
    """A machine with nothing of the project but a checkout, whose /usr is read-only, and the program in /opt."""
    with booted() as machine:
        for file in [*ROOT.glob("systemd/*"), *ROOT.glob("contrib/man/*"), *ROOT.glob("contrib/completions/*")]:
            machine.write(f"{CHECKOUT}/{file.relative_to(ROOT)}", file.read_text())
        machine.write("/etc/containers/policy.json", '{"default": [{"type": "insecureAcceptAnything"}]}')
        install_program(machine, Path(PROGRAM))
        yield machine


def without_packages(commands: str) -> str:
    """What is left to do where the program and its requirements are there."""
    lines = commands.splitlines(keepends=True)
    return "".join(line for line in lines if not any(word in line for word in ("apt-get", "venv", "pip")))


def files_of_the_project(machine: Machine) -> set[str]:
    """The project's files below the places of a host where software and configuration are."""
    places = ["/etc", "/opt", "/run", "/usr", "/var/lib"]
    found = machine.run("find", *places, "-xdev", "-name", "*container-image-proxy*", "-not", "-path", "/run/host/*")
    return {path for path in found.stdout.splitlines() if "/doc/" not in path}


def test_installing_and_uninstalling_leaves_what_the_administrator_wrote(bare_host: Machine) -> None:
    instance = Instance(bare_host, "os")
    instance.add_image()
    before = files_of_the_project(bare_host) - {"/opt/container-image-proxy", PROGRAM}
    paste(bare_host, without_packages(blocks("Without a package")[0]) + blocks("Without a package")[2])
    paste(bare_host, blocks("Add an instance")[0], instance.reference())
    assert PROGRAM in instance.show("ExecStart")
    bare_host.systemctl("reload", instance.service)
    assert "os.toml" in paste(bare_host, "/usr/local/bin/container-image-proxy --check --instance os")
    # By dash: it expands no braces, and rm -f of a name that is not there does well.
    bare_host.run("sh", "-e", "-c", as_root(blocks("Uninstall")[0], reference=""))
    assert files_of_the_project(bare_host) - before == {"/etc/container-image-proxy"}
    assert bare_host.systemctl("list-units", "--all", "--no-legend", "container-image-proxy*@*") == ""


def test_a_host_with_a_read_only_usr_is_installed_on_without_the_link(bare_host: Machine) -> None:
    bare_host.run("mount", "--bind", "/usr", "/usr")
    bare_host.run("mount", "-o", "remount,bind,ro", "/usr")
    instance = Instance(bare_host, "os")
    instance.add_image()
    lines = without_packages(blocks("Without a package")[0]).splitlines(keepends=True)
    paste(bare_host, "".join(line for line in lines if "/usr/local/bin" not in line))
    assert "schemaVersion" in paste(bare_host, blocks("Add an instance")[0], instance.reference())
    assert "os.toml" in paste(bare_host, shlex.join([PROGRAM, "--check", "--instance", "os"]))
