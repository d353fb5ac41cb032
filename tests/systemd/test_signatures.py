"""Signed images under the shipped unit: the system's storage of signatures, and the decision in the journal."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.support.gpg import Signer
from tests.support.instance import Instance
from tests.support.layouts import StoredImage
from tests.support.machine import Machine, curl_command

REGISTRY = "127.0.0.1:5001"
IMAGES = ("signed", "unsigned")
STATE = "/run/container-image-proxy/state"
MakeInstance = Callable[[str], Instance]


@dataclass(frozen=True)
class Signed:
    """An image of the registry, and whose key signed it."""

    stored: StoredImage
    fingerprint: str


@pytest.fixture(scope="module")
def signed(machine: Machine, signer: Signer) -> Iterator[Signed]:
    """An image in a registry in the machine, its signature where skopeo keeps those of root by itself."""
    configuration = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": "/srv/signed-registry"}},
        "http": {"addr": REGISTRY},
    }
    machine.write("/etc/signed-registry.yml", json.dumps(configuration))
    serve = ["docker-registry", "serve", "/etc/signed-registry.yml"]
    machine.run("systemd-run", "--quiet", "--unit=signed-registry", *serve)
    answers = ["curl", "--silent", f"http://{REGISTRY}/v2/"]
    machine.wait_until(lambda: machine.run(*answers, check=False).returncode == 0, "the registry")
    source = Instance(machine, "signed-source")
    stored = source.add_image()
    for name in IMAGES:
        push = ["skopeo", "copy", "--dest-tls-verify=false", "--insecure-policy", source.reference()]
        machine.run(*push, f"docker://{REGISTRY}/{name}:1")
    write_signature(machine, signer, stored.digest)
    key = machine.root / "etc/pki/containers/signer.gpg"
    key.parent.mkdir(parents=True, exist_ok=True)
    key.write_bytes(signer.public_key)
    key.chmod(0o644)
    yield Signed(stored, signer.fingerprint)
    machine.systemctl("stop", "signed-registry.service")


def write_signature(machine: Machine, signer: Signer, digest: str) -> None:
    storage = machine.root / "var/lib/containers/sigstore"
    place = storage / f"signed@{digest.replace(':', '=')}"
    place.mkdir(parents=True, exist_ok=True)
    for directory in (storage.parent, storage, place):
        directory.chmod(0o755)
    (place / "signature-1").write_bytes(signer.sign_image(f"{REGISTRY}/signed:1", digest))


@pytest.fixture
def start(machine: Machine, make_instance: MakeInstance, signed: Signed) -> MakeInstance:
    """Start an instance with the signed image and another one that has no signature."""
    requirement = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/etc/pki/containers/signer.gpg"}
    policy = {"default": [{"type": "reject"}], "transports": {"docker": {REGISTRY: [requirement]}}}
    machine.write("/etc/signatures-policy.json", json.dumps(policy))

    def started(name: str) -> Instance:
        made = make_instance(name)
        tables = (f'[images.{image}]\nreference = "docker://{REGISTRY}/{image}:1"\n' for image in IMAGES)
        settings = '[registry]\ntls-verify = false\n[trust]\npolicy = "/etc/signatures-policy.json"\n'
        machine.write(made.file, "".join(tables) + settings)
        made.start()
        return made

    return started


@pytest.mark.demand("SIG-before-use")
def test_the_unit_reads_signatures_from_the_systems_storage(start: MakeInstance, signed: Signed) -> None:
    instance = start("signatures")
    answer = instance.get("/images/signed/manifest")
    assert (answer.status, answer.body) == (200, signed.stored.manifest), answer.body
    assert answer.headers["signed-by"] == f"openpgp:{signed.fingerprint}"
    assert instance.get("/images/unsigned/manifest").status == 403


def test_the_journal_has_the_receipt_of_the_decision(machine: Machine, start: MakeInstance, signed: Signed) -> None:
    instance = start("receipt")
    receipt = instance.get("/images/signed/verification").json()
    (record,) = [one for one in machine.journal(instance.service) if "RECEIPT" in one]
    assert json.loads(record["RECEIPT"]).items() <= receipt.items()
    expected = {
        "DIGEST": signed.stored.digest,
        "IMAGE": "signed",
        "POLICY_SCOPE": f"docker|{REGISTRY}",
        "REFERENCE": f"docker://{REGISTRY}/signed:1",
        "SIGNED_BY": f"openpgp:{signed.fingerprint}",
    }
    assert {name: record[name] for name in expected} == expected


def test_the_journal_has_the_reason_of_a_rejection(machine: Machine, start: MakeInstance) -> None:
    instance = start("rejection")
    (reason,) = instance.get("/images/unsigned/manifest").json()["reasons"]
    (record,) = [one for one in machine.journal(instance.service) if "REFERENCE" in one]
    assert reason in record["MESSAGE"]
    assert (record["IMAGE"], record["PRIORITY"]) == ("unsigned", "4")


@pytest.fixture
def gpg_script(machine: Machine) -> Iterator[Callable[[str], None]]:
    """Put a shell script in front of the machine's gpg."""
    path = "/usr/local/bin/gpg"
    yield lambda script: machine.write(path, f"#!/bin/sh\n{script}\n", mode=0o755)
    machine.run("rm", "-f", path)


def homes(machine: Machine, name: str) -> list[str]:
    """The homes of gpg that lie in the runtime directory of an instance."""
    return machine.run("find", "-L", f"{STATE}/{name}", "-name", "*gpg*").stdout.split()


def test_gpg_has_its_homes_in_the_units_runtime_directory(
    machine: Machine, start: MakeInstance, gpg_script: Callable[[str], None]
) -> None:
    gpg_script('pwd >>../where; stat -c "%a %U" . >>../modes; exec /usr/bin/gpg "$@"')
    assert start("homes").get("/images/signed/manifest").status == 200
    where = machine.run("cat", f"{STATE}/homes/where").stdout.split()
    modes = machine.run("cat", f"{STATE}/homes/modes").stdout.splitlines()
    assert where
    assert all(f"{STATE}/homes/container-image-proxy-gpg-" in path.replace("/private/", "/") for path in where)
    assert set(modes) == {"700 cip-homes"}
    assert homes(machine, "homes") == []


@pytest.mark.demand("sigkill")
def test_what_a_killed_unit_left_is_removed_by_the_next_start(
    machine: Machine, start: MakeInstance, gpg_script: Callable[[str], None]
) -> None:
    gpg_script('case "$*" in *--import*) exec /usr/bin/gpg "$@";; esac; echo $$ >../hangs; exec sleep 1000')
    instance = start("killed")
    client = subprocess.Popen(
        machine.command(*curl_command("killed", "/images/signed/manifest")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    hangs = ["test", "-s", f"{STATE}/killed/hangs"]
    machine.wait_until(lambda: machine.run(*hangs, check=False).returncode == 0, "gpg")
    instance.signal(signal.SIGKILL)
    client.wait()
    assert len(homes(machine, "killed")) == 1
    gpg_script('exec /usr/bin/gpg "$@"')
    assert instance.get("/images/signed/manifest").status == 200
    assert homes(machine, "killed") == []
    assert machine.run("pgrep", "--full", "sleep 1000", check=False).stdout == ""
