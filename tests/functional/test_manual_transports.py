"""The examples of container-image-proxy-transports(5), run as they stand but for places that tests must not use."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.support.daemon import command, write_policy
from tests.support.layouts import OCI_MANIFEST, single_image
from tests.support.registries import docker_registry, needs_docker_registry
from tests.support.requirements import needs_programs, needs_root

PAGE = Path(__file__).resolve().parents[2] / "contrib/man/container-image-proxy-transports.5"


def example(transport: str) -> str:
    """The lines of the transport's example."""
    section = re.search(rf"^\.BI {transport}:[ /].*?^\.nf\n(.*?)^\.fi", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert section is not None
    return section[1].replace("\\-", "-").replace("\\e", "\\")


def run_example(
    tmp_path: Path,
    transport: str,
    image: str,
    *options: str,
    places: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Run it with ``image`` for the one in quay.io; what it gives. ``places`` are others that it must not use."""
    (tmp_path / "srv").mkdir()
    daemon = " ".join([*command("--policy", str(write_policy(tmp_path)), *options), "--socket"])
    script = example(transport)
    for theirs, ours in {
        "docker://quay.io/cgwalters/exampleos:latest": image,
        "container-image-proxy --socket": daemon,
        "skopeo copy": "skopeo copy --quiet --insecure-policy",
        "curl": "curl --silent --fail --retry 9 --retry-max-time 60 --retry-all-errors",
        "/srv": f"{tmp_path}/srv",
        "/tmp/image.sock": f"{tmp_path}/image.sock",
        **places,
    }.items():
        script = script.replace(theirs, ours)
    stop = "trap 'kill $(jobs -p); wait' EXIT\n"
    done = subprocess.run(["bash", "-ec", stop + script], capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 0, done
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@needs_programs("skopeo", "curl", "tar", "zstd")
@pytest.mark.parametrize("transport", ["oci", "dir", "oci-archive", "tarball"])
def test_the_example_gives_a_manifest(disk: Path, transport: str) -> None:
    single_image(disk / "layout")
    found = run_example(disk, transport, f"oci:{disk}/layout:latest", "--cache-dir", str(disk))
    assert found["mediaType"] == OCI_MANIFEST


@needs_root
@needs_programs("podman", "curl")
@pytest.mark.parametrize("transport", ["docker-archive", "docker-daemon"])
def test_the_example_with_an_image_that_podman_has(disk: Path, transport: str) -> None:
    image = single_image(disk / "layout")
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # podman wants a short path
        podman = f"podman --root={place}/root --runroot={place}/run --storage-driver=vfs"
        found = subprocess.run([*podman.split(), "pull", f"oci:{disk}/layout"], check=True, capture_output=True)
        name = "quay.io/cgwalters/exampleos:latest"
        subprocess.run([*podman.split(), "tag", found.stdout.decode().strip(), name], check=True)
        places = {"podman ": f"{podman} ", "/run/podman.sock": f"{place}/podman.sock"}
        document = run_example(disk, transport, "", "--cache-dir", str(disk), places=places)
    digests = document["rootfs"]["diff_ids"] if "rootfs" in document else [one["digest"] for one in document["layers"]]
    assert digests == json.loads(image.config)["rootfs"]["diff_ids"]


@needs_docker_registry
def test_the_example_of_a_registry_gives_a_manifest(tmp_path: Path) -> None:
    single_image(tmp_path / "layout")
    with docker_registry(tmp_path / "registry") as registry:
        name = registry.push(f"oci:{tmp_path}/layout:latest", "some/os:1")
        found = run_example(tmp_path, "docker", f"docker://{name}", "--tls-verify=false")
    assert found["mediaType"] == OCI_MANIFEST
