"""What the host keeps for others: it never takes an instance down, and what restricts is never passed over."""

from __future__ import annotations

import json
import re
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
    health = f"container-image-proxy-health@{instance.name}.service"
    machine.wait_until(lambda: machine.show(health, "Result") == "exit-code", "what monitoring sees")
    instance.stop()
    owner = machine.run("stat", "--format=%U", f"/run/container-image-proxy/state/{instance.name}/health")
    assert owner.stdout.strip() == "lodger"
    instance.drop_in(
        "[Service]\nDynamicUser=no\nUser=lodger\nProtectHome=tmpfs\nBindReadOnlyPaths=-/home/lodger/.config/containers/policy.json\n"
    )
    instance.start()
    assert instance.get("/manifest").status == 200
    machine.wait_until(lambda: machine.show(health, "Result") == "success", "that all is well")


def test_what_watches_an_instance_is_not_led_elsewhere_by_it(machine: Machine, make_instance: MakeInstance) -> None:
    instance = served(make_instance, "astray")
    instance.start()
    assert instance.get("/manifest").status == 200
    machine.run("ln", "-sfn", "/etc/shadow", "/run/container-image-proxy/state/astray/health")
    machine.systemctl("start", "container-image-proxy-health@astray.service")
    said = machine.journal("container-image-proxy-health@astray.service")
    assert not any("root:" in record["MESSAGE"] for record in said)


def refused(instance: Instance, name: str) -> str:
    """The detail of the answer about an image whose source cannot be read."""
    answer = instance.get(f"/images/{name}/manifest")
    assert (answer.status, answer.json()["code"]) == (502, "SOURCE_ERROR")
    return str(answer.json()["detail"])


def test_a_layout_that_cannot_be_read_is_told_at_the_request_with_what_hides_it(
    machine: Machine, make_instance: MakeInstance
) -> None:
    instance = make_instance("hidden")
    image = instance.add_image()
    hidden = {
        "closed": ("/srv/hidden/closed", "/srv/hidden/closed (mode 0700, of uid 0) is closed to uid"),
        "below": ("/srv/hidden/below/a/layout", "/srv/hidden/below (mode 0700, of uid 0) is closed to uid"),
        "root": ("/root/layout", "ProtectHome= of the unit hides /root"),
        "home": ("/home/somebody/layout", "ProtectHome= of the unit hides /home"),
        "tmp": ("/tmp/layout", "PrivateTmp= of the unit hides the host's /tmp"),
        "var-tmp": ("/var/tmp/layout", "PrivateTmp= of the unit hides the host's /var/tmp"),
        "missing": ("/srv/hidden/missing", "/srv/hidden/missing: No such file or directory"),
        "parent": ("/srv/no/such/parent", "/srv/no/such/parent: No such file or directory"),
    }
    for path, _ in hidden.values():
        if "missing" not in path and "such" not in path:
            machine.run("mkdir", "-p", str(path.rpartition("/")[0]))
            machine.run("cp", "-a", "/srv/hidden/image", path)
    machine.run("chmod", "0700", "/srv/hidden/closed", "/srv/hidden/below")
    tables = [f'[images.{name}]\nreference = "oci:{path}:latest"\n' for name, (path, _) in hidden.items()]
    instance.configure("\n".join(['default = "image"', *tables]), "image")
    instance.start()
    assert instance.get("/manifest").body == image.manifest
    for name, (_, reason) in hidden.items():
        assert reason in refused(instance, name)
    journal = [record["MESSAGE"] for record in warnings(instance, "502")]
    assert all(any(reason in message for message in journal) for _, reason in hidden.values())


def test_the_remedies_for_what_the_sandbox_hides_are_remedies(machine: Machine, make_instance: MakeInstance) -> None:
    instance = make_instance("cured")
    image = instance.add_image()
    places = {"root": "/root/cured/layout", "home": "/home/cured/layout", "tmp": "/tmp/cured/layout"}
    for path in places.values():
        machine.run("sh", "-c", f"mkdir -p {path.rpartition('/')[0]} && cp -a /srv/cured/image {path}")
    tables = [f'[images.{name}]\nreference = "oci:{path}:latest"\n' for name, path in places.items()]
    instance.configure("\n".join(['default = "image"', *tables]), "image")
    instance.start()
    settings = set()
    for name, path in places.items():
        told = refused(instance, name)
        assert f"BindReadOnlyPaths=-{path}" in told
        settings |= set(re.findall(r"[A-Z][A-Za-z]+=[-\w/:]+", told))
    assert {"ProtectHome=tmpfs", "BindReadOnlyPaths=-/tmp/cured/layout"} <= settings
    instance.stop()
    instance.drop_in("\n".join(["[Service]", *sorted(settings)]))
    instance.start()
    for name in places:
        assert instance.get(f"/images/{name}/manifest").body == image.manifest


@pytest.mark.parametrize("directory", ["/etc/containers/certs.d", "/etc/docker"])
def test_certificates_that_cannot_be_looked_for_are_not_done_without(
    machine: Machine, make_instance: MakeInstance, directory: str
) -> None:
    instance = make_instance(f"shut{directory.replace('/', '-').replace('.', '')}")
    machine.write(instance.file, '[images.image]\nreference = "docker://registry.invalid/image"\n')
    instance.start()
    with replaced(machine, directory, f"install -d -m 0700 {directory}"):
        answer = instance.get("/manifest")
    assert (answer.status, answer.json()["code"]) == (500, "CONFIGURATION")
    assert f"Permission denied: {directory} (mode 0700, of uid 0) is closed to" in answer.json()["detail"]


def test_a_certificate_that_cannot_be_read_says_so(machine: Machine, make_instance: MakeInstance) -> None:
    instance = make_instance("closed-ca")
    file = "/etc/containers/certs.d/registry.invalid/ca.crt"
    machine.write(file, "", mode=0o600)
    machine.write(instance.file, '[images.image]\nreference = "docker://registry.invalid/image"\n')
    instance.start()
    answer = instance.get("/manifest")
    assert (answer.status, answer.json()["code"]) == (500, "CONFIGURATION")
    assert f"{file}: cannot be read: Permission denied: {file} (mode 0600, of uid 0)" in answer.json()["detail"]


def test_a_secret_that_cannot_be_read_is_not_to_be_opened_to_everybody(
    machine: Machine, make_instance: MakeInstance
) -> None:
    instance = served(make_instance, "secret-remedy")
    instance.configure('[registry]\nauthfile = "/etc/secret-remedy.json"\n')
    machine.write("/etc/secret-remedy.json", AUTH, mode=0o600)
    instance.start()
    remedy = instance.get("/manifest").json()["remedy"]
    assert "chmod" not in remedy
    instance.configure()
    (setting,) = re.findall(r"LoadCredential=\S+", remedy)
    instance.drop_in(f"[Service]\n{setting}\n")
    machine.systemctl("restart", instance.service)
    assert instance.get("/manifest").status == 200
    assert warnings(instance, "counts as absent") == []


def test_what_an_editor_leaves_beside_a_file_does_no_harm(machine: Machine, make_instance: MakeInstance) -> None:
    instance = served(make_instance, "edited")
    instance.drop_in("")
    places = ["/etc/containers/registries.d", "/etc/containers/registries.conf.d", f"{instance.file}.d"]
    try:
        for place, ending in zip(places, ("yaml", "conf", "toml"), strict=True):
            left = f"ln -s root@host.1:2 .#tests.{ending} && touch tests.{ending}~ && chmod 0 tests.{ending}~"
            machine.run("sh", "-c", f"mkdir -p {place} && cd {place} && {left} && ln -s /root/a/b tests.notes")
        instance.start()
        assert instance.get("/manifest").status == 200
    finally:
        machine.run("sh", "-c", f"cd / && rm -f {' '.join(f'{place}/*tests.*' for place in places)}")
        machine.run("sh", "-c", f"cd / && rm -f {' '.join(f'{place}/.#tests.*' for place in places)}")
