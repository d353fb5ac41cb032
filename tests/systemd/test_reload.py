"""``systemctl reload``: it says whether the new configuration is in force, and if not, the old one is."""

from __future__ import annotations

import itertools
import signal
import subprocess
from collections.abc import Callable

import pytest

from tests.support.instance import Instance
from tests.support.machine import Machine

MakeInstance = Callable[[str], Instance]
_NUMBERS = itertools.count()


@pytest.fixture
def instance(make_instance: MakeInstance) -> Instance:
    """An instance that has served its image."""
    instance = make_instance(f"reload-{next(_NUMBERS)}")
    instance.add_image()
    instance.configure()
    instance.start()
    assert instance.get("/manifest").status == 200
    return instance


def reload(instance: Instance) -> subprocess.CompletedProcess[str]:
    return instance.machine.run("systemctl", "reload", instance.service, check=False)


@pytest.mark.demand("POL-reload")
@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("/etc/container-image-proxy/{}.toml", "images = 1", "images: must be a table"),
        ("/etc/containers/policy.json", '{"default": []}', "default"),
        ("/etc/containers/registries.conf", "[[registry]]\n", "registry[1].location: missing"),
    ],
    ids=["instance-file", "policy", "registries.conf"],
)
def test_a_wrong_file_fails_the_reload_and_leaves_the_old_configuration_in_force(
    machine: Machine, instance: Instance, path: str, text: str, said: str
) -> None:
    before = instance.get("/manifest").body
    path = path.format(instance.name)
    file = machine.root / path.lstrip("/")
    good = file.read_text() if file.exists() else ""
    machine.write(path, text)
    try:
        assert reload(instance).returncode != 0
    finally:
        machine.write(path, good)
    assert instance.get("/manifest").body == before
    assert instance.show("ActiveState") == "active"
    status = instance.show("StatusText")
    assert "Old configuration in force" in status
    assert path in status
    assert said in status
    machine.systemctl("reload", instance.service)
    assert instance.show("StatusText") == "Serving 1 image: image"


def test_a_reload_that_has_succeeded_is_in_force(machine: Machine, instance: Instance) -> None:
    for number in range(5):
        name = f"image-{number}"
        image = instance.add_image(name)
        instance.configure(f'default = "{name}"', name)
        machine.systemctl("reload", instance.service)
        assert instance.get("/manifest").body == image.manifest
    assert (instance.starts(), instance.show("ActiveState")) == (1, "active")


def test_each_reload_is_answered_for_itself(machine: Machine, instance: Instance) -> None:
    """Right and wrong files in turn, with a bare SIGHUP before each, whose reading must not be taken for this one's."""
    for _ in range(4):
        for text, is_good in (("", True), ("nonsense = 1", False)):
            instance.configure(text)
            instance.signal(signal.SIGHUP)
            assert (reload(instance).returncode == 0) is is_good
    left = machine.run("find", f"/run/container-image-proxy/state/{instance.name}/", "-name", "reload.*").stdout
    assert left == ""


def test_a_degraded_instance_is_mended_by_a_reload(machine: Machine, instance: Instance) -> None:
    instance.configure("nonsense = 1")
    machine.systemctl("restart", instance.service)
    assert instance.get("/manifest").status == 500
    assert reload(instance).returncode != 0
    instance.configure()
    machine.systemctl("reload", instance.service)
    assert instance.show("StatusText") == "Serving 1 image: image"


def test_the_journal_says_why_a_reload_failed(machine: Machine, instance: Instance) -> None:
    instance.configure("nonsense = 1")
    assert reload(instance).returncode != 0
    found = [record for record in machine.journal(instance.service) if record["PRIORITY"] == "3"]
    assert [record["MESSAGE"] for record in found if "nonsense" in record["MESSAGE"]]
    assert {record["SYSLOG_IDENTIFIER"] for record in found} <= {"container-image-proxy", "systemd"}
