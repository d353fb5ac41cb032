"""Who may connect: real users of a real system, told apart by the kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.instance import Instance
from tests.support.machine import Machine


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


def test_an_image_may_have_a_list_of_its_own(instance: Instance) -> None:
    assert instance.get("/images/private/manifest").status == 200
    assert instance.get("/images/private/manifest", user="named").status == 403


def test_a_peer_sees_the_images_that_it_may_have(instance: Instance) -> None:
    seen = {user: instance.get("/images", user=user).json() for user in ("root", "named")}
    names = {user: {image["name"] for image in images} for user, images in seen.items()}
    assert names == {"root": {"image", "private"}, "named": {"image"}}
