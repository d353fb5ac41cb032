"""What the host keeps for others: it never takes an instance down, and what restricts is never passed over."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.instance import Instance
from tests.support.machine import Machine

MakeInstance = Callable[[str], Instance]
AUTH = json.dumps({"auths": {"registry.example": {"auth": b64encode(b"user:secret").decode()}}})


@contextmanager
def closed(machine: Machine, directory: str) -> Iterator[None]:
    """A directory that only root may look into, as root's tools leave them behind."""
    machine.run("install", "-d", "-m", "0700", directory)
    try:
        yield
    finally:
        machine.run("rm", "-rf", directory)


@contextmanager
def replaced(machine: Machine, path: str, command: str) -> Iterator[None]:
    """A system's file or directory changed by a shell command and put back at the end."""
    machine.run("cp", "-a", path, "/srv/kept", check=False)
    machine.run("sh", "-c", command)
    try:
        yield
    finally:
        machine.run("sh", "-c", f"rm -rf {path}; if [ -e /srv/kept ]; then mv /srv/kept {path}; fi")


def warnings(instance: Instance, text: str) -> list[dict[str, Any]]:
    """The records of the service at warning or worse that hold ``text``."""
    records = instance.machine.journal(instance.service)
    return [one for one in records if int(one["PRIORITY"]) <= 4 and text in one["MESSAGE"]]


def served(make_instance: MakeInstance, name: str) -> Instance:
    instance = make_instance(name)
    instance.add_image()
    instance.configure()
    return instance


@pytest.mark.parametrize(
    ("directory", "file"),
    [
        ("/run/containers", "/run/containers/{uid}/auth.json"),
        ("/.config/containers/auth.json", "/.config/containers/auth.json"),
        ("/.docker", "/.docker/config.json"),
    ],
    ids=["login-of-root", "directory-of-that-name", "docker"],
)
def test_a_closed_place_of_credentials_is_told_once_and_stops_nobody(
    machine: Machine, make_instance: MakeInstance, request: pytest.FixtureRequest, directory: str, file: str
) -> None:
    instance = served(make_instance, f"{request.node.callspec.id}")
    with closed(machine, directory):
        instance.start()
        assert [instance.get("/manifest").status for _ in range(3)] == [200] * 3
        uid = machine.run("stat", "--format=%u", f"/proc/{instance.show('MainPID')}").stdout.strip()
    (record,) = warnings(instance, file.format(uid=uid))
    assert record["PRIORITY"] == "4"
    assert "cannot be read" in record["MESSAGE"]
    assert f"/etc/credstore/container-image-proxy.{instance.name}.auth.json" in record["MESSAGE"]


def test_what_skopeo_login_leaves_behind_is_not_ours(machine: Machine, make_instance: MakeInstance) -> None:
    instance = served(make_instance, "after-login")
    with closed(machine, "/run/containers"):
        machine.write("/run/containers/0/auth.json", AUTH, mode=0o600)
        instance.start()
        assert instance.get("/manifest").status == 200
        assert instance.show("NRestarts") == "0"


def test_credentials_that_a_reload_finds_closed_stop_nobody(machine: Machine, make_instance: MakeInstance) -> None:
    instance = served(make_instance, "closed-later")
    instance.start()
    assert instance.get("/manifest").status == 200
    with closed(machine, "/run/containers"):
        machine.systemctl("reload", instance.service)
        machine.wait_until(lambda: bool(warnings(instance, "/run/containers")), "the warning")
        assert instance.get("/manifest").status == 200
        assert instance.show("StatusText") == "Serving 1 image: image"


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("/etc/containers/policy.json", "chmod 0600 /etc/containers/policy.json"),
        ("/etc/containers/registries.conf", "install -m 0600 /dev/null /etc/containers/registries.conf"),
        ("/etc/containers/registries.conf.d", "install -d -m 0700 /etc/containers/registries.conf.d"),
        ("/etc/containers/registries.d", "install -d -m 0700 /etc/containers/registries.d"),
        ("/.config/containers", "install -d -m 0700 /.config/containers"),
    ],
    ids=["policy", "registries", "drop-ins", "registries-d", "own"],
)
def test_what_restricts_is_never_passed_over(
    machine: Machine, make_instance: MakeInstance, request: pytest.FixtureRequest, file: str, command: str
) -> None:
    instance = served(make_instance, f"shut-{request.node.callspec.id}")
    instance.start()
    with replaced(machine, file, command):
        machine.run("systemctl", "start", "--no-block", instance.service)
        machine.wait_until(lambda: bool(warnings(instance, file)), "the reason")
    (record, *_) = warnings(instance, file)
    assert "cannot be read: Permission denied" in record["MESSAGE"]
    assert f"{file} (mode 0{'6' if 'json' in file or file.endswith('conf') else '7'}00, of uid 0)" in record["MESSAGE"]
    assert int(record["PRIORITY"]) == 3


@pytest.mark.parametrize("named_by", ["instance-file", "environment", "credential"])
def test_a_file_that_somebody_named_has_to_be_readable(
    machine: Machine, make_instance: MakeInstance, named_by: str
) -> None:
    instance = served(make_instance, f"named-{named_by}")
    file = f"/etc/named-{named_by}.json"
    if named_by == "instance-file":
        instance.configure(f'[registry]\nauthfile = "{file}"\n')
    elif named_by == "environment":
        instance.drop_in(f"[Service]\nEnvironment=REGISTRY_AUTH_FILE={file}\n")
    else:
        file = "/run/credentials"
        instance.drop_in("[Service]\nLoadCredential=auth.json:/etc/named-credential.json\n")
    machine.write(f"/etc/named-{named_by}.json", AUTH if named_by != "credential" else "{", mode=0o600)
    instance.start()
    machine.run("systemctl", "start", "--no-block", instance.service)
    machine.wait_until(lambda: bool(warnings(instance, file)), "the reason")
    assert {record["PRIORITY"] for record in warnings(instance, file)} == {"3"}


def test_a_home_that_the_sandbox_hides_is_told_with_what_shows_it(
    machine: Machine, make_instance: MakeInstance
) -> None:
    instance = served(make_instance, "with-home")
    machine.run("useradd", "--create-home", "lodger")
    instance.drop_in("[Service]\nDynamicUser=no\nUser=lodger\n")
    instance.start()
    machine.run("systemctl", "start", "--no-block", instance.service)
    reason = "Permission denied: ProtectHome= of the unit hides /home"
    machine.wait_until(lambda: bool(warnings(instance, reason)), "the reason")
    instance.stop()
    instance.drop_in(
        "[Service]\nDynamicUser=no\nUser=lodger\nProtectHome=tmpfs\nBindReadOnlyPaths=-/home/lodger/.config/containers/policy.json\n"
    )
    instance.start()
    assert instance.get("/manifest").status == 200
