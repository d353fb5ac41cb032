"""The example drop-ins: each gives an instance the one right that it is for, and the default unit has none of them."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.engine import SimulatedEngine, simulated
from tests.support.instance import Instance
from tests.support.layouts import StoredImage, single_image
from tests.support.machine import Machine
from tests.support.stores import Store

MakeInstance = Callable[[str], Instance]
EXAMPLES = Path(__file__).parents[2] / "contrib/examples"
STORE = "/var/lib/system-store"
NAME = "localhost/os:1"
_CAP_DAC_READ_SEARCH = 1 << 2  # capability.h


@pytest.fixture(scope="module")
def image(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> StoredImage:
    """An image in a store of the machine's that is closed to all but root, as podman makes it."""
    image = single_image(tmp_path_factory.mktemp("layout"))
    store = Store(machine.root / STORE.lstrip("/"))
    store.image(image, [NAME])
    for directory, _, files in os.walk(store.root):
        Path(directory).chmod(0o700)
        for file in files:
            Path(directory, file).chmod(0o600)
    return image


@pytest.fixture
def instance(make_instance: MakeInstance, request: pytest.FixtureRequest) -> Iterator[Instance]:
    """An instance that serves the image of the store."""
    instance = make_instance(request.node.name.removeprefix("test_").replace("_", "-")[:25].rstrip("-"))
    reference = f"containers-storage:[overlay@{STORE}]{NAME}"
    instance.machine.write(instance.file, f'[images.image]\nreference = "{reference}"\n')
    yield instance
    instance.machine.run("rm", "-rf", f"/etc/systemd/system/{instance.service}.d")


def install(instance: Instance, example: str) -> None:
    instance.drop_in((EXAMPLES / example).read_text())


def status_of(instance: Instance, field: str) -> str:
    """A line of the daemon's /proc/PID/status."""
    lines = instance.machine.run("cat", f"/proc/{instance.show('MainPID')}/status").stdout.splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:"))


def test_default_unit_has_no_right(instance: Instance, image: StoredImage) -> None:
    instance.start()
    refused = instance.get("/manifest")
    assert refused.status == 502
    assert "the store cannot be read" in refused.json()["detail"]
    assert "CAP_DAC_READ_SEARCH" in refused.json()["detail"]
    assert int(status_of(instance, "CapEff"), 16) == int(status_of(instance, "CapBnd"), 16) == 0


def test_store_of_the_system_is_read(instance: Instance, image: StoredImage) -> None:
    install(instance, "containers-storage.conf")
    instance.start()
    manifest = instance.get("/manifest")
    assert (manifest.status, manifest.headers["manifest-digest"]) == (200, image.digest)
    tars = [gzip.decompress(layer) for layer in image.layers]
    for layer, tar in zip(manifest.json()["layers"], tars, strict=True):
        assert layer["digest"] == f"sha256:{hashlib.sha256(tar).hexdigest()}"
        assert instance.get(f"/blobs/{layer['digest']}").body == tar
    assert instance.get("/config").json() == json.loads(image.config)


def test_reading_is_all_that_it_may(instance: Instance, image: StoredImage) -> None:
    install(instance, "containers-storage.conf")
    instance.start()
    assert instance.get("/manifest").status == 200
    for field in ("CapEff", "CapPrm", "CapBnd"):
        assert int(status_of(instance, field), 16) == _CAP_DAC_READ_SEARCH
    assert status_of(instance, "NoNewPrivs") == "1"
    assert "0" not in status_of(instance, "Uid").split()
    shadow = f"/proc/{instance.show('MainPID')}/root/etc/shadow"
    assert instance.machine.run("stat", "--format=%a", shadow).stdout.strip() == "0"


def test_group_of_the_engine(instance: Instance) -> None:
    machine = instance.machine
    machine.run("groupadd", "--force", "docker")
    reference = '[images.image]\nreference = "docker-daemon:localhost/os:1"\n'
    machine.write(instance.file, f'{reference}[sources]\ndaemon-host = "unix:///run/engine.sock"\n')
    engine = SimulatedEngine()
    with simulated(engine, machine.root / "run/engine.sock"):
        machine.run("chown", "root:docker", "/run/engine.sock")
        machine.run("chmod", "0660", "/run/engine.sock")
        instance.start()
        refused = instance.get("/manifest")
        assert (refused.status, "Permission denied" in refused.json()["detail"]) == (502, True)
        assert not engine.requests
        instance.stop()
        install(instance, "docker-socket.conf")
        instance.start()
        assert instance.get("/manifest").status == 404, "the engine has no such image, and was asked"
        assert engine.requests
    assert int(status_of(instance, "CapEff"), 16) == 0
    machine.run("rm", "/run/engine.sock")
