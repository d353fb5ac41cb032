"""The shipped units at work: activation, users, idle exit, and requests that are never lost."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.instance import Instance
from tests.support.layouts import layer_tar
from tests.support.machine import Machine

MakeInstance = Callable[[str], Instance]


def test_the_first_connection_starts_the_service(make_instance: MakeInstance) -> None:
    instance = make_instance("activate")
    image = instance.add_image()
    instance.configure()
    instance.start()
    assert instance.show("ActiveState") == "inactive"
    answer = instance.get("/manifest")
    assert (answer.exit, answer.status, answer.body) == (0, 200, image.manifest)
    assert instance.show("ActiveState") == "active"
    assert instance.show("StatusText") == "Serving 1 image: image"


def test_layers_come_through_the_sandbox(make_instance: MakeInstance) -> None:
    instance = make_instance("layers")
    image = instance.add_image(layers=[layer_tar({"big": bytes(3 << 20)}), layer_tar({"small": b"x"})], compression="")
    instance.configure()
    instance.start()
    for digest, content in image.blobs.items():
        answer = instance.get(f"/blobs/{digest}")
        assert (answer.exit, answer.status) == (0, 200)
        assert hashlib.sha256(answer.body).digest() == hashlib.sha256(content).digest()


def test_instances_have_users_and_images_of_their_own(machine: Machine, make_instance: MakeInstance) -> None:
    first, second = make_instance("first"), make_instance("second")
    images = [first.add_image(), second.add_image()]
    uids = set()
    for instance, image in zip((first, second), images, strict=True):
        instance.configure()
        instance.start()
        assert instance.get("/manifest").headers["manifest-digest"] == image.digest
        uids.add(machine.run("stat", "--format=%u", f"/proc/{instance.show('MainPID')}").stdout.strip())
    assert len(uids) == 2
    assert "0" not in uids
    assert images[0].digest != images[1].digest


def test_no_instance_can_read_what_another_keeps(machine: Machine, make_instance: MakeInstance) -> None:
    instance = make_instance("keeper")
    instance.add_image()
    instance.configure()
    instance.start()
    instance.get("/manifest")
    kept = machine.run("find", "/run/container-image-proxy/state/keeper/", "-type", "f").stdout.split()
    assert kept
    machine.add_user("burglar")
    assert [path for path in kept if machine.run("cat", path, user="burglar", check=False).returncode == 0] == []


def test_an_idle_service_leaves_and_comes_back_with_what_it_knew(machine: Machine, make_instance: MakeInstance) -> None:
    instance = make_instance("idle")
    image = instance.add_image()
    instance.configure("idle-exit = 0.2")
    instance.start()
    assert instance.get("/manifest").status == 200
    machine.wait_until(lambda: instance.show("ActiveState") == "inactive", "idle exit")
    assert instance.show("Result") == "success"
    newer = instance.add_image(layers=[layer_tar({"newer": b""})])
    assert newer.digest != image.digest
    assert instance.get(f"/blobs/{image.config_digest}").body == image.config
    assert instance.get("/config").headers["manifest-digest"] == image.digest
    assert instance.get("/manifest").headers["manifest-digest"] == newer.digest


@pytest.mark.demand("idle-exit-race")
def test_no_request_is_lost_between_idle_exits(make_instance: MakeInstance) -> None:
    instance = make_instance("coming-and-going")
    instance.add_image()
    instance.configure("idle-exit = 0.01")
    instance.start()
    gap = threading.Event()

    def client(number: int) -> list[tuple[int, int]]:
        answers = []
        for round_ in range(8):
            gap.wait(0.01 * ((number + round_) % 4))  # around the idle time, so that exits and connections meet
            answer = instance.get("/manifest")
            answers.append((answer.exit, answer.status))
        return answers

    answers: list[tuple[int, int]] = []

    def have_come_and_gone() -> bool:
        with ThreadPoolExecutor(4) as clients:
            answers.extend(answer for done in clients.map(client, range(4)) for answer in done)
        return instance.starts() > 2

    # On a busy machine the clients may be so slow that there is always one of them.
    instance.machine.wait_until(have_come_and_gone, "a third start")
    assert set(answers) == {(0, 200)}


def test_the_journal_knows_who_asked_for_what(machine: Machine, make_instance: MakeInstance) -> None:
    instance = make_instance("journal")
    image = instance.add_image()
    instance.configure('[access]\nusers = ["root", "reader"]')
    machine.add_user("reader")
    instance.start()
    instance.get(f"/blobs/{image.config_digest}", user="reader")
    machine.wait_until(lambda: bool(instance.requests()), "a record of the request")
    (record,) = instance.requests()
    expected = {
        "INSTANCE": "journal",
        "IMAGE": "image",
        "DIGEST": image.config_digest,
        "STATUS": "200",
        "BYTES": str(len(image.config)),
        "PEER_UID": machine.run("id", "-u", "reader").stdout.strip(),
        "PRIORITY": "6",
    }
    assert {name: record.get(name) for name in expected} == expected
    assert record["PEER_PID"].isdecimal()
    assert record["DURATION_USEC"].isdecimal()
