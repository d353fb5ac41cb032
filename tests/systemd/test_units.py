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


@pytest.mark.parametrize("unit", ["container-image-proxy", "container-image-proxy-skopeo"])
@pytest.mark.parametrize("name", ["a.b", "_a", r"a\x20b", r"a\x2db", "a" * 28])
def test_no_client_waits_at_the_socket_of_a_name_that_no_instance_can_have(
    machine: Machine, unit: str, name: str
) -> None:
    socket = f"{unit}@{name}.socket"
    try:
        assert machine.run("systemctl", "start", socket, check=False).returncode != 0
        assert machine.show(socket, "ActiveState") == "failed"
        (told,) = [one for one in machine.journal(socket) if "not an instance name" in one["MESSAGE"]]
        assert told["SYSLOG_IDENTIFIER"] == "container-image-proxy"
    finally:
        machine.run("systemctl", "stop", socket, check=False)
        machine.run("systemctl", "reset-failed", socket, check=False)


@pytest.mark.parametrize("name", ["A-z_9", "a" * 27])
def test_the_socket_of_a_name_that_an_instance_can_have_opens(machine: Machine, name: str) -> None:
    socket = f"container-image-proxy@{name}.socket"
    machine.systemctl("start", socket)
    assert machine.show(socket, "ActiveState") == "active"
    machine.systemctl("stop", socket)
