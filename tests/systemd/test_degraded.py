"""An instance whose configuration cannot be used: it is up, says why to whoever may know, and is cured by its files."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.instance import Instance
from tests.support.machine import Machine

MakeInstance = Callable[[str], Instance]
POLICY = "/etc/containers/policy.json"
_NUMBERS = itertools.count()


@pytest.fixture
def instance(make_instance: MakeInstance) -> Instance:
    """An instance with one image, whose socket is open; nobody has come yet."""
    instance = make_instance(f"degraded-{next(_NUMBERS)}")
    instance.add_image()
    instance.configure()
    instance.start()
    return instance


@pytest.fixture
def no_policy(machine: Machine) -> Iterator[Callable[[], None]]:
    """The machine's policy is away until the function is called, or the test ends."""
    path = machine.root / POLICY.lstrip("/")
    text = path.read_text()
    path.unlink()

    def bring_back() -> None:
        machine.write(POLICY, text)

    yield bring_back
    bring_back()


def errors(instance: Instance) -> list[str]:
    """The messages of the journal at priority error."""
    return [one["MESSAGE"] for one in instance.machine.journal(instance.service) if one["PRIORITY"] == "3"]


def break_syntax(instance: Instance) -> tuple[str, ...]:
    instance.configure("nonsense")
    return instance.file, "line 1"


def mistype_key(instance: Instance) -> tuple[str, ...]:
    instance.configure('defualt = "image"')
    return instance.file, "defualt", "known here: "


def remove(instance: Instance) -> tuple[str, ...]:
    (instance.machine.root / instance.file.lstrip("/")).unlink()
    return f"{instance.name}.toml", "no such file in /etc/container-image-proxy", "container-image-proxy.toml(5)"


def mask(instance: Instance) -> tuple[str, ...]:
    remove(instance)
    (instance.machine.root / instance.file.lstrip("/")).symlink_to("/dev/null")
    return instance.file, "masked by a link to /dev/null"


def lock_away(instance: Instance) -> tuple[str, ...]:
    (instance.machine.root / instance.file.lstrip("/")).chmod(0o600)
    return instance.file, "Permission denied"


def lock_auth_file_away(instance: Instance) -> tuple[str, ...]:
    instance.machine.write("/etc/ostree/secret.json", "{}", mode=0o600)
    instance.configure('[registry]\nauthfile = "/etc/ostree/secret.json"')
    return "/etc/ostree/secret.json", "Permission denied"


def name_absent_auth_file(instance: Instance) -> tuple[str, ...]:
    instance.configure('[registry]\nauthfile = "/no/such/auth.json"')
    return instance.file, "registry.authfile", "/no/such/auth.json does not exist"


def break_credential(instance: Instance) -> tuple[str, ...]:
    instance.machine.write(f"/etc/credstore/container-image-proxy.{instance.name}.auth.json", "[]", mode=0o600)
    return f"/{instance.service}/auth.json", "must be an object", "containers-auth.json(5)"


FAULTS = (break_syntax, mistype_key, remove, mask, lock_away, lock_auth_file_away, name_absent_auth_file)


def mend(instance: Instance) -> None:
    (instance.machine.root / instance.file.lstrip("/")).unlink(missing_ok=True)
    instance.configure()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_clients_and_systemd_are_told_what_is_wrong_and_mending_it_is_all_it_takes(
    instance: Instance, fault: Callable[[Instance], tuple[str, ...]]
) -> None:
    said = fault(instance)
    answer = instance.get("/manifest")
    assert (answer.exit, answer.status, answer.json()["code"]) == (0, 500, "CONFIGURATION")
    assert all(text in answer.json()["detail"] for text in said)
    status = instance.show("StatusText")
    assert all(text in status for text in ("Degraded: ", *said))
    assert any(all(text in message for text in said) for message in errors(instance))
    mend(instance)
    assert instance.get("/manifest").status == 200
    assert instance.show("StatusText") == "Serving 1 image: image"
    assert (instance.starts(), instance.show("NRestarts")) == (1, "0")


def failed(instance: Instance) -> list[str]:
    """The units of the instance that ``systemctl --failed`` shows."""
    units = instance.machine.run("systemctl", "--failed", "--plain", "--no-legend").stdout.splitlines()
    return [unit.split()[0] for unit in units if f"@{instance.name}." in unit]


def test_monitoring_sees_a_failed_unit_for_as_long_as_it_lasts(machine: Machine, instance: Instance) -> None:
    mistype_key(instance)
    assert instance.get("/manifest").status == 500
    machine.wait_until(lambda: failed(instance) == [instance.health], "the failure")
    assert machine.run("systemctl", "is-system-running", check=False).stdout.strip() == "degraded"
    said = [record["MESSAGE"] for record in machine.journal(instance.health)]
    assert any(instance.file in message and "defualt" in message for message in said)
    assert instance.show("ActiveState") == "active"
    mend(instance)
    machine.wait_until(lambda: failed(instance) == [], "the end of it")


def test_a_mending_that_comes_at_once_is_seen_by_monitoring_too(machine: Machine, instance: Instance) -> None:
    """A path unit does not look while its service runs."""
    for _ in range(3):
        mistype_key(instance)
        machine.systemctl("restart", instance.service)
        mend(instance)
        machine.systemctl("reload", instance.service)
        machine.wait_until(lambda: machine.show(instance.health, "Result") == "success", "the mending")
        machine.wait_until(lambda: failed(instance) == [], "the end of it")


def test_what_is_stopped_is_not_unwell(machine: Machine, instance: Instance) -> None:
    mistype_key(instance)
    assert instance.get("/manifest").status == 500
    machine.wait_until(lambda: failed(instance) == [instance.health], "the failure")
    machine.systemctl("stop", instance.socket, instance.service)
    machine.wait_until(lambda: failed(instance) == [], "the end of it")


def test_an_instance_that_is_well_starts_no_other_unit_than_the_watch(machine: Machine, instance: Instance) -> None:
    for _ in range(2):
        assert instance.get("/manifest").status == 200
        machine.systemctl("restart", instance.service)
    assert machine.journal(instance.health) == []


def test_a_reload_that_failed_is_seen_by_monitoring(machine: Machine, instance: Instance) -> None:
    """At its next start the instance would be degraded."""
    assert instance.get("/manifest").status == 200
    mistype_key(instance)
    assert machine.run("systemctl", "reload", instance.service, check=False).returncode != 0
    machine.wait_until(lambda: failed(instance) == [instance.health], "the failure")
    mend(instance)
    machine.systemctl("reload", instance.service)
    machine.wait_until(lambda: failed(instance) == [], "the end of it")


def test_a_wrong_credential_is_told_and_a_restart_takes_up_the_right_one(machine: Machine, instance: Instance) -> None:
    said = break_credential(instance)
    detail = instance.get("/manifest").json()["detail"]
    assert all(text in detail for text in said)
    machine.write(f"/etc/credstore/container-image-proxy.{instance.name}.auth.json", "{}", mode=0o600)
    machine.systemctl("restart", instance.service)
    assert instance.get("/manifest").status == 200


def test_a_wrong_option_in_a_drop_in_is_told(instance: Instance) -> None:
    instance.drop_in("[Service]\nExecStart=\nExecStart=/usr/bin/container-image-proxy --instance %i --polici /x\n")
    answer = instance.get("/manifest")
    assert (answer.status, answer.json()["code"]) == (500, "CONFIGURATION")
    assert "unrecognized arguments: --polici" in answer.json()["detail"]
    instance.drop_in("")
    instance.machine.systemctl("restart", instance.service)
    assert instance.get("/manifest").status == 200


def test_without_a_policy_nothing_is_served_until_there_is_one(
    instance: Instance, no_policy: Callable[[], None]
) -> None:
    answer = instance.get("/manifest")
    assert (answer.status, answer.json()["file"]) == (500, POLICY)
    assert "--insecure-policy is there for trying things out" in answer.json()["remedy"]
    no_policy()
    assert instance.get("/manifest").status == 200


def test_a_mended_file_is_taken_up_though_nobody_comes(machine: Machine, instance: Instance) -> None:
    mistype_key(instance)
    assert instance.get("/manifest").status == 500
    mend(instance)
    machine.wait_until(lambda: instance.show("StatusText") == "Serving 1 image: image", "the mending")


def test_sighup_reads_again(machine: Machine, instance: Instance) -> None:
    mistype_key(instance)
    assert instance.get("/manifest").status == 500
    instance.signal(signal.SIGHUP)
    machine.wait_until(lambda: instance.show("SubState") == "running", "the end of reading")
    mend(instance)
    instance.signal(signal.SIGHUP)
    assert instance.get("/manifest").status == 200


def test_who_may_not_connect_learns_nothing(machine: Machine, instance: Instance) -> None:
    machine.add_user("stranger")
    refused = instance.get("/manifest", user="stranger")
    assert (refused.status, refused.json()["code"]) == (403, "DENIED")
    mistype_key(instance)
    machine.systemctl("restart", instance.service)
    answer = instance.get("/manifest", user="stranger")
    assert (answer.status, answer.body) == (403, refused.body)


def test_who_may_connect_is_told_once_that_is_known(
    machine: Machine, instance: Instance, no_policy: Callable[[], None]
) -> None:
    machine.add_user("updater")
    instance.configure('[access]\nusers = ["updater"]')
    assert instance.get("/manifest", user="updater").json()["file"] == POLICY
    assert instance.get("/manifest").status == 403


def test_many_who_ask_at_once_start_it_once(instance: Instance) -> None:
    mistype_key(instance)
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(instance.get, ["/manifest"] * 24))
    assert {(answer.exit, answer.status) for answer in answers} == {(0, 500)}
    assert (instance.starts(), instance.show("NRestarts")) == (1, "0")


def test_when_nobody_asks_any_more_it_has_failed_and_the_next_one_is_answered(
    machine: Machine, instance: Instance
) -> None:
    mistype_key(instance)
    instance.drop_in("[Service]\nExecStart=\nExecStart=/usr/bin/container-image-proxy --instance %i --idle-exit 0.2\n")
    assert instance.get("/manifest").status == 500
    machine.wait_until(lambda: instance.show("ActiveState") == "failed", "the exit")
    assert (instance.show("Result"), instance.show("ExecMainStatus")) == ("exit-code", "78")
    assert instance.service in failed(instance)
    assert machine.show(instance.socket, "ActiveState") == "active"
    mend(instance)
    assert instance.get("/manifest").status == 200


def test_sockets_that_cannot_be_served_do_not_make_a_storm(machine: Machine, instance: Instance) -> None:
    """Of two one is of a wrong kind, and somebody waits there, too."""
    machine.write(f"/etc/systemd/system/{instance.socket}.d/test.conf", "[Socket]\nListenDatagram=/run/datagrams\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", instance.socket)
    sender = "import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', '/run/datagrams')"
    machine.run("python3", "-c", sender)
    answer = instance.get("/manifest")
    assert (answer.status, answer.json()["code"]) == (500, "CONFIGURATION")
    assert "it is not a listening Unix socket of streams or packets" in answer.json()["detail"]
    assert (instance.starts(), instance.show("NRestarts")) == (1, "0")
