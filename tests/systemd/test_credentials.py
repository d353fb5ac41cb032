"""Registry credentials that only root can read, handed to the daemon by systemd, against Debian's registry."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.instance import Instance
from tests.support.layouts import StoredImage
from tests.support.machine import Machine

MakeInstance = Callable[[str], Instance]
REGISTRY = "127.0.0.1:5000"
SECRET = "moving-target"
AUTH = json.dumps({"auths": {REGISTRY: {"auth": b64encode(f"puller:{SECRET}".encode()).decode()}}})


@pytest.fixture(scope="module")
def image(machine: Machine) -> Iterator[StoredImage]:
    """An image in a registry that asks for a password; the registry runs in the machine."""
    configuration = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": "/srv/registry"}},
        "http": {"addr": REGISTRY},
        "auth": {"htpasswd": {"realm": "test", "path": "/etc/registry.htpasswd"}},
    }
    machine.write("/etc/registry.htpasswd", machine.run("htpasswd", "-nbB", "-C4", "puller", SECRET).stdout)
    machine.write("/etc/registry.yml", json.dumps(configuration))
    machine.run("systemd-run", "--quiet", "--unit=registry", "docker-registry", "serve", "/etc/registry.yml")
    answers = ["curl", "--silent", f"http://{REGISTRY}/v2/"]
    machine.wait_until(lambda: machine.run(*answers, check=False).returncode == 0, "the registry")
    source = Instance(machine, "pushed")
    image = source.add_image()
    login = [f"--dest-creds=puller:{SECRET}", "--dest-tls-verify=false", "--insecure-policy"]
    machine.run("skopeo", "copy", *login, source.reference(), f"docker://{REGISTRY}/image:latest")
    yield image
    machine.systemctl("stop", "registry.service")


def _configure(instance: Instance) -> None:
    reference = f"docker://{REGISTRY}/image:latest"
    text = f'[images.image]\nreference = "{reference}"\n[registry]\ntls-verify = false\n'
    instance.machine.write(instance.file, text)


def test_without_a_credential_the_registry_refuses(make_instance: MakeInstance, image: StoredImage) -> None:
    instance = make_instance("anonymous")
    _configure(instance)
    instance.start()
    answer = instance.get("/manifest")
    assert answer.status == 502
    assert answer.json()["code"] == "UNAUTHORIZED"


def test_a_file_in_the_credential_store_is_enough(
    machine: Machine, make_instance: MakeInstance, image: StoredImage
) -> None:
    instance = make_instance("stored")
    _configure(instance)
    machine.write("/etc/credstore/container-image-proxy.stored.auth.json", AUTH, mode=0o600)
    instance.start()
    assert instance.get("/manifest").body == image.manifest


def test_a_drop_in_names_another_file(machine: Machine, make_instance: MakeInstance, image: StoredImage) -> None:
    instance = make_instance("elsewhere")
    _configure(instance)
    machine.write("/etc/ostree/auth.json", AUTH, mode=0o600)
    instance.drop_in("[Service]\nLoadCredential=auth.json:/etc/ostree/auth.json\n")
    instance.start()
    assert instance.get("/manifest").body == image.manifest


def test_a_rotated_credential_is_taken_up_by_a_restart_that_loses_no_request(
    machine: Machine, make_instance: MakeInstance, image: StoredImage
) -> None:
    instance = make_instance("rotated")
    _configure(instance)
    store = "/etc/credstore/container-image-proxy.rotated.auth.json"
    machine.write(store, json.dumps({"auths": {REGISTRY: {"auth": b64encode(b"puller:outdated").decode()}}}), 0o600)
    instance.start()
    assert instance.get("/manifest").json()["code"] == "UNAUTHORIZED"
    machine.write(store, AUTH, mode=0o600)
    with ThreadPoolExecutor(4) as clients:
        asking = [clients.submit(instance.get, "/images") for _ in range(12)]
        machine.systemctl("try-restart", instance.service)
        assert {(one.result().exit, one.result().status) for one in asking} == {(0, 200)}
    assert instance.get("/manifest").body == image.manifest


def test_a_rotated_auth_file_that_the_instance_can_read_counts_at_once(
    machine: Machine, make_instance: MakeInstance, image: StoredImage
) -> None:
    instance = make_instance("readable")
    _configure(instance)
    with (machine.root / instance.file.lstrip("/")).open("a") as file:
        file.write('authfile = "/etc/ostree/readable.json"\n')
    machine.write("/etc/ostree/readable.json", "{}")
    instance.start()
    assert instance.get("/manifest").json()["code"] == "UNAUTHORIZED"
    machine.write("/etc/ostree/readable.json", AUTH)
    assert instance.get("/manifest").body == image.manifest


@pytest.mark.demand("AUTH-logs")
def test_the_journal_never_holds_the_secret(machine: Machine, image: StoredImage) -> None:
    journal = json.dumps(machine.journal("container-image-proxy@*"))
    assert "/manifest" in journal
    assert SECRET not in journal
    assert json.loads(AUTH)["auths"][REGISTRY]["auth"] not in journal
