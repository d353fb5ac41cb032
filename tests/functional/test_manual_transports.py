"""The examples of container-image-proxy-transports(5), run as they stand but for places that tests must not use."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.daemon import command, write_policy
from tests.support.layouts import OCI_MANIFEST, single_image
from tests.support.registries import docker_registry, needs_docker_registry
from tests.support.requirements import needs_programs

PAGE = Path(__file__).resolve().parents[2] / "contrib/man/container-image-proxy-transports.5"


def example(transport: str) -> str:
    """The lines of the transport's example."""
    section = re.search(rf"^\.BI {transport}:[ /].*?^\.nf\n(.*?)^\.fi", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert section is not None
    return section[1].replace("\\-", "-")


def run_example(tmp_path: Path, transport: str, image: str, *options: str) -> None:
    """Run it with ``image`` for the one in quay.io, and see whether it gives a manifest."""
    (tmp_path / "srv").mkdir()
    daemon = " ".join([*command("--policy", str(write_policy(tmp_path)), *options), "--socket"])
    script = example(transport)
    for theirs, ours in {
        "docker://quay.io/cgwalters/exampleos:latest": image,
        "container-image-proxy --socket": daemon,
        "skopeo copy": "skopeo copy --quiet --insecure-policy",
        "curl": "curl --silent --fail --retry 9 --retry-all-errors",
        "/srv": f"{tmp_path}/srv",
        "/tmp/image.sock": f"{tmp_path}/image.sock",
    }.items():
        script = script.replace(theirs, ours)
    stop = "trap 'kill $!; wait' EXIT\n"
    done = subprocess.run(["bash", "-ec", stop + script], capture_output=True, text=True, check=False, timeout=90)
    assert json.loads(done.stdout)["mediaType"] == OCI_MANIFEST, done


@needs_programs("skopeo", "curl", "tar")
@pytest.mark.parametrize("transport", ["oci", "dir", "tarball"])
def test_the_example_gives_a_manifest(tmp_path: Path, transport: str) -> None:
    single_image(tmp_path / "layout")
    run_example(tmp_path, transport, f"oci:{tmp_path}/layout:latest")


@needs_docker_registry
def test_the_example_of_a_registry_gives_a_manifest(tmp_path: Path) -> None:
    single_image(tmp_path / "layout")
    with docker_registry(tmp_path / "registry") as registry:
        name = registry.push(f"oci:{tmp_path}/layout:latest", "some/os:1")
        run_example(tmp_path, "docker", f"docker://{name}", "--tls-verify=false")
