"""The Debian packages: built from a clone on a bare system; installed, used, upgraded and purged on a booted one."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bare import BareDebian
from tests.support.instance import Instance
from tests.support.layouts import StoredImage
from tests.support.machine import Machine, booted

ROOT = Path(__file__).resolve().parents[2]
MANUAL_PAGES = ROOT / "contrib/man"
BUILD = """
git clone --quiet /in/project.bundle project
project/contrib/build-deb --output /out
apt-get install --yes --quiet --no-install-recommends lintian
runuser --user nobody -- lintian --fail-on error /out/*.deb
"""
UNIT = "container-image-proxy@"

pytestmark = [
    pytest.mark.long("it builds and installs packages on bare Debian systems"),
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def suite(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def packages(suite: str, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The packages of the last commit, which lintian has no error to tell of."""
    bare = BareDebian.given_this_project(suite, tmp_path_factory.mktemp(f"{suite}-build"))
    bare.run(BUILD)
    return sorted(bare.taken.glob("*.deb"))


@pytest.fixture(scope="module")
def machine(suite: str, packages: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted system on which the packages have been installed."""
    place = tmp_path_factory.mktemp(f"{suite}-installed")
    needed = ["curl", "gir1.2-ostree-1.0", "iproute2", "libnss-systemd", "man-db", "python3", "python3-gi", "systemd"]
    bare = BareDebian.make(suite, place / "system", place, *needed, *map(str, packages))
    with booted(bare.directory) as machine:
        machine.write("/etc/containers/policy.json", '{"default": [{"type": "insecureAcceptAnything"}]}')
        yield machine


@pytest.fixture(scope="module")
def instance(machine: Machine) -> Instance:
    """An instance whose image has a layer that no socket's buffers can hold."""
    instance = Instance(machine, "packaged")
    instance.configure()
    instance.start()
    return instance


@pytest.fixture(scope="module")
def image(instance: Instance) -> StoredImage:
    return instance.add_image(layers=[os.urandom(16 << 20)], compression="none")


def test_the_program_its_manual_and_its_completions_are_where_they_are_looked_for(machine: Machine) -> None:
    assert machine.run("container-image-proxy", "--version").stdout.startswith("container-image-proxy ")
    assert machine.run("cip", "--help").stdout
    share = machine.root / "usr/share"
    for program in ("container-image-proxy", "cip"):
        assert (share / "bash-completion/completions" / program).exists()
        assert (share / "zsh/vendor-completions" / f"_{program}").exists()
        assert (share / "fish/vendor_completions.d" / f"{program}.fish").exists()
    for page in MANUAL_PAGES.iterdir():
        assert list(machine.root.glob(f"usr/share/man/man{page.suffix[1]}/{page.name}*"))


def test_the_modules_of_the_daemon_are_nobodys_library(machine: Machine) -> None:
    done = machine.run("python3", "-c", "import container_image_proxy", check=False)
    assert "ModuleNotFoundError" in done.stderr


def test_the_client_is_a_library_for_everybody(machine: Machine) -> None:
    machine.run("python3", "-c", "from container_image_client import Client")


@pytest.mark.parametrize("name", ["carry-image", "install-packages", "ostree-update", "update-sysext"])
def test_the_programs_of_the_uses_run_where_their_document_says(machine: Machine, name: str) -> None:
    assert name in machine.run(f"/usr/libexec/container-image-client/{name}", "--help").stdout


def test_a_program_says_what_it_lacks(machine: Machine) -> None:
    done = machine.run("/usr/libexec/container-image-client/run-wasm", "--help", check=False)
    assert (done.returncode, "pip install wasmtime" in done.stderr) == (1, True)


def test_no_start_compiles_what_the_package_brings(machine: Machine) -> None:
    """An instance's own user can write no bytecode."""
    place = next(machine.root.glob("usr/**/container_image_proxy/__main__.py")).parent
    sources = {source.relative_to(place).with_suffix("") for source in place.rglob("*.py")}
    compiled = {path.parent.parent.relative_to(place) / path.name.split(".")[0] for path in place.rglob("*.pyc")}
    assert sources - compiled == set()


def test_the_package_s_own_test_passes(machine: Machine) -> None:
    source = machine.root / "root/source"
    shutil.copytree(ROOT / "contrib/examples", source / "contrib/examples")
    shutil.copytree(ROOT / "contrib/debian", source / "debian")
    script = "cd /root/source && debian/tests/serves-an-image"
    assert json.loads(machine.run("sh", "-c", script).stdout)["schemaVersion"] == 2


def test_an_instance_serves_through_the_installed_units(instance: Instance, image: StoredImage) -> None:
    assert instance.get("/manifest").headers["manifest-digest"] == image.descriptor["digest"]


def test_the_installed_client_fetches_from_it(machine: Machine, instance: Instance, image: StoredImage) -> None:
    assert machine.run("cip", "--instance", instance.name, "manifest").stdout
    machine.run("cip", "--instance", instance.name, "pull", "oci:/root/pulled")
    assert (machine.root / "root/pulled/index.json").exists()


def test_an_upgrade_loses_no_client_that_is_connected(machine: Machine, instance: Instance, image: StoredImage) -> None:
    (digest,) = image.layer_digests
    instance.get("/manifest")
    before = instance.show("MainPID")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(machine.socket_path(instance.name)))
        client.sendall(f"GET /blobs/{digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        beginning = client.recv(1000)
        machine.run("sh", "-c", "dpkg --install /root/*.deb")
        with client.makefile("rb") as file:
            answer = beginning + file.read()
    assert answer.partition(b"\r\n\r\n")[2] == image.blobs[digest]
    machine.wait_until(lambda: instance.get("/manifest").status == 200, "an answer after the upgrade")
    machine.wait_until(lambda: instance.show("MainPID") not in {before, "0"}, "a daemon of the new version")


def test_a_purge_stops_what_runs_and_leaves_nothing_behind(machine: Machine, instance: Instance) -> None:
    instance.get("/manifest")
    machine.systemctl("enable", instance.socket)
    machine.systemctl("enable", "--now", f"ostree-update@{instance.name}.timer")
    machine.run("sh", "-c", "dpkg --purge $(dpkg-query --show --showformat='${Package} ' 'container-image-*')")
    assert instance.name not in machine.systemctl("list-units", "--all", f"{UNIT}*", "ostree-update@*")
    names = "container.image[^/]*|ostree.update[^/]*|update-sysext[^/]*|cip"
    find = ["find", "/", "-xdev", "-regextype", "posix-extended", "-regex", f".*/({names})", "-not", "-path", "/root/*"]
    administrators_own = str(Path(instance.file).parent)
    assert machine.run(*find).stdout.split() == [administrators_own]
