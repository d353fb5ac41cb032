"""contrib/update-sysext under a real systemd: extensions out of images are merged into /usr, and only whole ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.instance import Instance
from tests.support.layouts import OCI_EMPTY, OCI_MANIFEST, Layout, layer_tar
from tests.support.machine import Machine
from tests.support.requirements import needs_third_overlay

CONTRIB = Path(__file__).resolve().parents[2] / "contrib"
NAME = "tools"
UNIT = f"update-sysext@{NAME}.service"
RELEASE = f"usr/lib/extension-release.d/extension-release.{NAME}"


@pytest.fixture
def instance(machine_with_cip: Machine, make_instance: Callable[[str], Instance]) -> Iterator[Instance]:
    """The example's instance and unit, and no extension."""
    machine, instance = machine_with_cip, make_instance(NAME)
    machine.write("/usr/local/libexec/update-sysext", (CONTRIB / "update-sysext").read_text())
    paths = "PYTHONPATH=/opt/tests/source:/opt/tests/packages"
    python = f"{Path(sys.executable).resolve()} /usr/local/libexec/update-sysext"
    machine.write(
        "/usr/libexec/container-image-client/update-sysext", f'#!/bin/sh\n{paths} exec {python} "$@"\n', mode=0o755
    )
    machine.write(
        "/etc/systemd/system/update-sysext@.service", (CONTRIB / "examples/update-sysext@.service").read_text()
    )
    instance.configure()
    yield instance
    machine.run("systemd-sysext", "unmerge")
    machine.run(
        "rm",
        "-rf",
        "/var/lib/extensions",
        "/var/lib/extensions.images",
        "/run/update-sysext",
        "/etc/systemd/system/update-sysext@.service",
    )


def add_extension(instance: Instance, version: str, release: str = "") -> None:
    """An extension for this very system; with ``release``, for another one."""
    lines = (instance.machine.root / "etc/os-release").read_text().splitlines()
    fitting = "\n".join(line for line in lines if line.startswith(("ID=", "VERSION_ID=")))
    files = {RELEASE: f"{release or fitting}\n".encode(), "usr/share/tools-version": f"{version}\n".encode()}
    image = instance.add_image(layers=[layer_tar(files)])
    if instance.show("ActiveState") == "active":
        moved = lambda: instance.get("/manifest").headers["manifest-digest"] == image.digest  # noqa: E731
        instance.machine.wait_until(moved, "the new image")


def update(machine: Machine) -> str:
    """Run the unit; what the journal has of that."""
    before = len(machine.journal(UNIT))
    machine.systemctl("daemon-reload")
    machine.run("systemctl", "restart", UNIT, check=False)
    return "\n".join(str(record["MESSAGE"]) for record in machine.journal(UNIT)[before:])


def merged(machine: Machine) -> str:
    """The extension's file as /usr has it."""
    return machine.run("cat", "/usr/share/tools-version", check=False).stdout.strip()


@needs_third_overlay
def test_an_extension_is_merged_and_follows_its_image(machine_with_cip: Machine, instance: Instance) -> None:
    machine = machine_with_cip
    add_extension(instance, "one")
    said = update(machine)
    assert "is merged" in said, said
    assert merged(machine) == "one"
    assert "is the newest" in update(machine)
    add_extension(instance, "two")
    said = update(machine)
    assert (merged(machine), "is merged" in said) == ("two", True), said
    assert len(machine.run("ls", "-A", "/var/lib/extensions.images").stdout.split()) == 1


@needs_third_overlay
def test_what_is_there_but_not_merged_is_merged(machine_with_cip: Machine, instance: Instance) -> None:
    """A reboot takes away what is merged, and what is known of it in /run; so does who merges later by himself."""
    machine = machine_with_cip
    add_extension(instance, "one")
    update(machine)
    machine.run("systemd-sysext", "unmerge")
    machine.run("rm", "-r", "/run/update-sysext")
    assert "is merged" in update(machine)
    assert merged(machine) == "one"
    add_extension(instance, "two")
    machine.run("/usr/libexec/container-image-client/update-sysext", "--instance", NAME, "--no-refresh", NAME)
    assert merged(machine) == "one"
    assert "is merged" in update(machine)
    assert merged(machine) == "two"


@needs_third_overlay
def test_the_old_version_stays_when_systemd_does_not_take_the_new_one(
    machine_with_cip: Machine, instance: Instance
) -> None:
    machine = machine_with_cip
    add_extension(instance, "one")
    update(machine)
    link = machine.run("readlink", f"/var/lib/extensions/{NAME}").stdout
    machine.write("/run/fake/systemd-sysext", "#!/bin/sh\n[ -e /run/refused ] || { >/run/refused; exit 1; }\n", 0o755)
    machine.write(f"/etc/systemd/system/{UNIT}.d/test.conf", "[Service]\nEnvironment=PATH=/run/fake:/usr/bin:/bin\n")
    add_extension(instance, "two")
    said = update(machine)
    assert "does not take" in said, said
    assert machine.run("readlink", f"/var/lib/extensions/{NAME}").stdout == link
    machine.run("rm", "-r", "/run/fake", f"/etc/systemd/system/{UNIT}.d", "/run/refused")
    assert "is merged" in update(machine)
    assert merged(machine) == "two"


@pytest.mark.parametrize("files", [{"usr/bin/tool": b""}], ids=["an image of something else"])
def test_what_is_no_extension_is_never_linked(
    machine_with_cip: Machine, instance: Instance, files: dict[str, bytes]
) -> None:
    instance.add_image(layers=[layer_tar(files)])
    said = update(machine_with_cip)
    assert f"the image has no {RELEASE}" in said, said
    assert machine_with_cip.run("ls", "-A", "/var/lib/extensions", "/var/lib/extensions.images").stdout.split() == [
        "/var/lib/extensions:",
        "/var/lib/extensions.images:",
    ]


def test_a_rejected_extension_is_never_there(machine_with_cip: Machine, instance: Instance) -> None:
    machine = machine_with_cip
    machine.write("/etc/sysext-policy.json", '{"default": [{"type": "reject"}]}')
    path = machine.root / instance.file.lstrip("/")
    path.write_text(path.read_text() + '[trust]\npolicy = "/etc/sysext-policy.json"\n')
    add_extension(instance, "one")
    assert "policy" in update(machine)
    assert merged(machine) == ""
    assert machine.run("ls", "-A", "/var/lib/extensions").stdout == ""


def test_a_disk_image_out_of_an_artifact_is_known_to_systemd(
    machine_with_cip: Machine, instance: Instance, tmp_path: Path
) -> None:
    """It is not merged here: the machine has no loop devices."""
    machine = machine_with_cip
    raw = tmp_path / "tools.raw"
    (tmp_path / "tree" / RELEASE).parent.mkdir(parents=True)
    (tmp_path / "tree" / RELEASE).write_text("ID=_any\n")
    subprocess.run(["mkfs.ext4", "-q", "-d", tmp_path / "tree", raw, "1M"], check=True, capture_output=True)
    layout = Layout(machine.root / "srv" / NAME / "image")
    title = {"org.opencontainers.image.title": "tools.raw"}
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.example.sysext",
        "config": layout.blob(b"{}", OCI_EMPTY),
        "layers": [layout.blob(raw.read_bytes(), "application/octet-stream") | {"annotations": title}],
    }
    layout.manifest(manifest, b"{}", (), name="latest")
    instance.start()
    machine.run("/usr/libexec/container-image-client/update-sysext", "--instance", NAME, "--no-refresh", NAME)
    path = machine.root / "var/lib/extensions" / f"{NAME}.raw"
    assert (machine.root / str(path.readlink()).lstrip("/")).read_bytes() == raw.read_bytes()
    listed = machine.run("systemd-sysext", "list", "--no-legend").stdout.split()
    assert listed[:2] == [NAME, "raw"]
