"""contrib/examples/hello.service under a real systemd: a service that runs from its own image, and from no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.instance import Instance
from tests.support.layouts import StoredImage
from tests.support.machine import Machine
from tests.support.programs import root_tar

EXAMPLES = Path(__file__).resolve().parents[2] / "contrib/examples"
SERVICE = "hello.service"
SCRIPT = "#!/bin/sh\nread -r version </etc/version\necho hello from $version\nexec /bin/sleep infinity\n"


@pytest.fixture
def instance(machine_with_cip: Machine, make_instance: Callable[[str], Instance]) -> Iterator[Instance]:
    """The example's instance and service, and an image; nothing is started."""
    machine, instance = machine_with_cip, make_instance("hello")
    machine.run("groupadd", "--force", "--system", "hello-image")
    machine.run("install", "--directory", "--mode=0770", "--group=hello-image", "/var/lib/hello-image")
    machine.write(f"/etc/systemd/system/{SERVICE}", (EXAMPLES / SERVICE).read_text())
    machine.systemctl("daemon-reload")
    text = (EXAMPLES / "hello.toml").read_text()
    machine.write(instance.file, text.replace("docker://registry.example.com/hello:latest", instance.reference()))
    add_image(instance, "one")
    yield instance
    machine.run("systemctl", "stop", SERVICE, check=False)
    machine.run("systemctl", "reset-failed", SERVICE, check=False)
    machine.run("rm", "-rf", "/var/lib/hello-image", f"/etc/systemd/system/{SERVICE}")


def add_image(instance: Instance, version: str) -> StoredImage:
    layer = root_tar("sh", "sleep", scripts={"usr/bin/hello": SCRIPT}, files={"etc/version": f"{version}\n"})
    return instance.add_image(layers=[layer], compression="")


def start(machine: Machine, verb: str = "start") -> None:
    """Start the service; what it said is the failure's message."""
    assert machine.run("systemctl", verb, SERVICE, check=False).returncode == 0, "\n".join(said(machine))


def test_it_runs_from_its_image_as_a_user_of_its_own(machine_with_cip: Machine, instance: Instance) -> None:
    machine = machine_with_cip
    start(machine)
    pid = machine.show(SERVICE, "MainPID")
    assert machine.run("cat", f"/proc/{pid}/root/etc/version").stdout == "one\n"
    assert not machine.run("ls", f"/proc/{pid}/root/bin").stdout.count("systemctl"), "the host's files are not there"
    assert "0" not in machine.run("stat", "--format=%u", f"/proc/{pid}").stdout.split()
    assert machine.show(SERVICE, "NRestarts") == "0"
    assert instance.show("ActiveState") == "active", "its first request started the daemon"
    machine.wait_until(lambda: "hello from one" in said(machine), "the service's first line")


def said(machine: Machine) -> list[str]:
    return [str(record["MESSAGE"]) for record in machine.journal(SERVICE)]


def test_it_may_have_the_image_by_its_group_and_others_may_not(machine_with_cip: Machine, instance: Instance) -> None:
    machine_with_cip.add_user("stranger", "others")
    instance.start()
    assert instance.get("/manifest", user="stranger").status == 403
    start(machine_with_cip)
    (client, *_) = [one for one in instance.requests() if one["REQUEST_PATH"] == "/manifest" and one["STATUS"] == "200"]
    assert client["PEER_UID"] != "0"


def test_it_may_not_have_the_image_without_the_group(machine_with_cip: Machine, instance: Instance) -> None:
    machine = machine_with_cip
    machine.write(f"/etc/systemd/system/{SERVICE}.d/test.conf", "[Service]\nSupplementaryGroups=\n")
    machine.systemctl("daemon-reload")
    assert machine.run("systemctl", "start", SERVICE, check=False).returncode != 0
    assert any("may not" in line or "not on the list" in line for line in said(machine)), said(machine)
    machine.run("rm", "-r", f"/etc/systemd/system/{SERVICE}.d")


def test_systemd_has_nothing_to_say_about_the_unit(machine_with_cip: Machine, instance: Instance) -> None:
    verify = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", SERVICE]
    done = machine_with_cip.run(*verify, check=False)
    # The program is in the image, where systemd-analyze does not look.
    assert done.stderr == f"{SERVICE}: Command /usr/bin/hello is not executable: No such file or directory\n"


def test_a_restart_runs_the_new_image(machine_with_cip: Machine, instance: Instance) -> None:
    machine = machine_with_cip
    start(machine)
    image = add_image(instance, "two")
    machine.wait_until(lambda: instance.get("/manifest").headers["manifest-digest"] == image.digest, "the new image")
    start(machine, "restart")
    pid = machine.show(SERVICE, "MainPID")
    assert machine.run("cat", f"/proc/{pid}/root/etc/version").stdout == "two\n"
    assert machine.run("ls", "-A", "/var/lib/hello-image").stdout.split() == ["rootfs"]


def test_it_cannot_write_to_its_image(machine_with_cip: Machine, instance: Instance) -> None:
    machine = machine_with_cip
    layer = root_tar(
        "sh", scripts={"usr/bin/hello": "#!/bin/sh\necho changed >/etc/version\n"}, files={"etc/version": ""}
    )
    instance.add_image(layers=[layer], compression="")
    machine.run("systemctl", "start", SERVICE, check=False)
    machine.wait_until(lambda: any("Read-only file system" in line for line in said(machine)), "the refusal")
    assert machine.run("cat", "/var/lib/hello-image/rootfs/etc/version").stdout == ""


def test_it_does_not_start_with_an_image_that_policy_rejects(machine_with_cip: Machine, instance: Instance) -> None:
    machine = machine_with_cip
    machine.write("/etc/hello-policy.json", '{"default": [{"type": "reject"}]}')
    path = machine.root / instance.file.lstrip("/")
    path.write_text(path.read_text() + '[trust]\npolicy = "/etc/hello-policy.json"\n')
    assert machine.run("systemctl", "start", SERVICE, check=False).returncode != 0
    assert any("policy" in line for line in said(machine))
    assert machine.run("ls", "-A", "/var/lib/hello-image").stdout == ""
