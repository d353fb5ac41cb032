"""The shipped unit files as systemd reads them."""

from __future__ import annotations

import pytest

from tests.support.machine import Machine

UNITS = ["container-image-proxy@x.socket", "container-image-proxy@x.service"]
PACKETS = "container-image-proxy-skopeo@x.socket"
HEALTH = ["container-image-proxy-health@x.path", "container-image-proxy-health@x.service"]


@pytest.mark.parametrize("unit", [*UNITS, PACKETS, *HEALTH])
def test_systemd_has_nothing_to_say_about_the_unit(machine: Machine, unit: str) -> None:
    done = machine.run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit)
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("unit", [UNITS[1], HEALTH[1]])
def test_the_service_is_sandboxed(machine: Machine, unit: str) -> None:
    machine.run("cp", f"/etc/systemd/system/{unit.replace('@x', '@')}", f"/tmp/{unit}")
    machine.run("systemd-analyze", "security", "--offline=true", "--threshold=20", f"/tmp/{unit}")


def test_peers_are_seen_as_who_they_are(machine: Machine) -> None:
    """PrivateUsers= would make every other user 65534."""
    assert machine.show(UNITS[1], "PrivateUsers") == "no"


def test_what_the_service_may_take_is_limited(machine: Machine) -> None:
    """What these limits suffice for, and hold against, is in tests/functional/test_resource_limits.py."""
    assert machine.show(UNITS[1], "MemoryMax") == str(256 << 20)
    assert machine.show(UNITS[1], "TasksMax") == "512"


def test_a_socket_is_never_given_up(machine: Machine) -> None:
    assert machine.show(UNITS[0], "TriggerLimitIntervalUSec") == "0"
    assert machine.show(PACKETS, "TriggerLimitIntervalUSec") == "0"
    assert machine.show(UNITS[1], "StartLimitIntervalUSec") == "0"
