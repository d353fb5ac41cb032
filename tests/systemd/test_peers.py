"""Who may connect: real users of a real system, told apart by the kernel."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.flood import ask_patiently, flood, flood_command
from tests.support.instance import Instance
from tests.support.machine import ROOT, Machine

COULD_NOT_CONNECT = 7  # curl(1)


@pytest.fixture(scope="module")
def instance(machine: Machine) -> Iterator[Instance]:
    """One image for a user and a group, one for root alone."""
    instance = Instance(machine, "peers")
    machine.add_user("named")
    machine.add_user("member", "allowed")
    machine.add_user("stranger", "others")
    instance.add_image("image")
    instance.add_image("private")
    instance.configure(
        'default = "image"\n[access]\nusers = ["root", "named"]\ngroups = ["allowed"]\n'
        '[images.private.access]\nusers = ["root"]',
        "image",
        "private",
    )
    instance.start()
    yield instance
    instance.stop()


@pytest.mark.parametrize("user", ["root", "named", "member"])
def test_whom_the_file_names_is_served(instance: Instance, user: str) -> None:
    assert instance.get("/manifest", user=user).status == 200


@pytest.mark.parametrize("user", ["stranger", "nobody"])
def test_everybody_else_is_denied(instance: Instance, user: str) -> None:
    answer = instance.get("/manifest", user=user)
    assert (answer.exit, answer.status) == (0, 403)
    assert answer.json()["code"] == "DENIED"


def test_a_stranger_who_connects_in_a_loop_keeps_nobody_out(machine: Machine, instance: Instance) -> None:
    path = f"/run/container-image-proxy/{instance.name}.sock"
    with flood(machine.command(*flood_command(path, "python3"), user="stranger")) as counts:
        statuses = [ask_patiently(machine.socket_path(instance.name)) for _ in range(50)]
    assert statuses == [200] * 50
    instance.get("/manifest")  # whoever was in the backlog before has been accepted then
    machine.systemctl("stop", instance.service)
    told = [record for record in machine.journal(instance.service) if "CONNECTIONS" in record]
    uid = machine.run("id", "--user", "stranger").stdout.strip()
    assert sum(int(record["CONNECTIONS"]) for record in told if record["PEER_UID"] == uid) >= sum(counts) > 50


def test_an_image_may_have_a_list_of_its_own(instance: Instance) -> None:
    assert instance.get("/images/private/manifest").status == 200
    assert instance.get("/images/private/manifest", user="named").status == 403


def test_a_peer_sees_the_images_that_it_may_have(instance: Instance) -> None:
    seen = {user: instance.get("/images", user=user).json() for user in ("root", "named")}
    names = {user: {image["name"] for image in images} for user, images in seen.items()}
    assert names == {"root": {"image", "private"}, "named": {"image"}}


@pytest.fixture
def guarded(machine: Machine) -> Iterator[Instance]:
    """An instance with the drop-in that the socket unit shows."""
    instance = Instance(machine, "guarded")
    machine.add_user("updater", "ostree")
    machine.add_user("passer-by", "others")
    instance.add_image("image")
    instance.configure('[access]\nusers = ["root"]\ngroups = ["ostree"]')
    shown = (ROOT / "systemd/container-image-proxy@.socket").read_text()
    (drop_in,) = re.findall(r"^#   (\[Socket\]\n(?:#   .*\n)+)", shown, re.MULTILINE)
    machine.write(f"/etc/systemd/system/{instance.socket}.d/group.conf", drop_in.replace("#   ", ""))
    machine.systemctl("daemon-reload")
    instance.start()
    yield instance
    instance.stop()


@pytest.mark.demand("PEER-uid")
def test_by_group_and_mode_of_the_socket_nobody_else_can_connect(guarded: Instance) -> None:
    statuses = {user: guarded.get("/manifest", user=user) for user in ("root", "updater", "passer-by")}
    assert {user: answer.status for user, answer in statuses.items()} == {"root": 200, "updater": 200, "passer-by": 0}
    assert statuses["passer-by"].exit == COULD_NOT_CONNECT
    assert not any("turned away" in record["MESSAGE"] for record in guarded.machine.journal(guarded.service))


def test_the_accept_loop_comes_before_others_and_its_threads_do_not(machine: Machine, instance: Instance) -> None:
    assert instance.get("/manifest").status == 200
    with begun_connection(machine.socket_path(instance.name)):
        pid = instance.show("MainPID")
        threads = machine.run("ps", "-L", "-o", "nice=", "--pid", pid).stdout.split()
    assert (threads[0], set(threads[1:])) == ("-10", {"0"})


@contextmanager
def begun_connection(path: Path) -> Iterator[None]:
    """A connection that has a thread."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /images HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1)
        yield
