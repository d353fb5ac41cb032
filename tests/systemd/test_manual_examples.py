"""Examples of container-image-proxy(1) under systemd, as they stand."""

from __future__ import annotations

from tests.support.instance import Instance
from tests.support.machine import Machine
from tests.support.manual import shown

CONSUMER = "consumer.service"


def test_a_service_with_a_dynamic_user_is_let_in_by_its_group_and_others_are_not(machine: Machine) -> None:
    make_group, access, socket, consumer = shown("container-image-proxy.1", "A service with DynamicUser= as consumer")
    machine.run("sh", "-ec", make_group)
    instance = Instance(machine, "os")
    instance.add_image()
    instance.configure(access)
    machine.write(f"/etc/systemd/system/{instance.socket}.d/group.conf", socket)
    outsider = consumer.replace("SupplementaryGroups=os-readers\n", "")
    assert outsider != consumer
    for name, unit in ((CONSUMER, consumer), ("outsider.service", outsider)):
        machine.write(f"/etc/systemd/system/{name}", unit.replace("[Service]\n", "[Service]\nType=oneshot\n"))
    machine.systemctl("daemon-reload")
    try:
        machine.systemctl("start", CONSUMER)
        assert machine.show("outsider.service", "ExecMainStatus") == "0"
        assert machine.run("systemctl", "start", "outsider.service", check=False).returncode != 0
        assert machine.show("outsider.service", "ExecMainStatus") == "7"  # curl(1): the kernel refuses the connection
    finally:
        units = [f"/etc/systemd/system/{name}" for name in (CONSUMER, "outsider.service", f"{instance.socket}.d")]
        machine.run("rm", "-rf", *units, instance.file)
        instance.stop()
        machine.systemctl("daemon-reload")
        machine.systemctl("reset-failed")
