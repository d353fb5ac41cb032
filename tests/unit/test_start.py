"""The start loads what every daemon needs; what only some requests, options or images need is loaded for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.layouts import Layout

LOADED = """
import sys
import container_image_proxy.__main__
print(*sys.modules)
"""


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    command = [sys.executable, "-c", LOADED]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "name", ["cryptography", "publicsuffix2", "requests", "tarfile", "urllib3", "yaml", "zstandard"]
)
def test_the_start_does_not_wait_for_a_library_that_it_may_not_need(loaded: set[str], name: str) -> None:
    assert name not in loaded


@pytest.mark.parametrize(
    "name",
    ["cli.check", "cli.as_service", "faces.http.distribution", "faces.image_proxy", "registry.client"],
)
def test_the_start_does_not_wait_for_a_room_that_it_may_not_need(loaded: set[str], name: str) -> None:
    assert f"container_image_proxy.{name}" not in loaded


def test_a_transport_is_loaded_for_an_image_of_it(loaded: set[str]) -> None:
    prefix = "container_image_proxy.transports."
    always = {"source", "table", "readers", "archives", "archives.spool"}
    assert {name.removeprefix(prefix) for name in loaded if name.startswith(prefix)} <= always


ALONE = """
import sys
sys.modules["systemd"] = None  # as where the library is not installed
from container_image_proxy.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_stand_alone_use_needs_no_library_of_systemd_and_an_instance_says_that_it_does(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", ALONE, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    layout = Layout(tmp_path / "layout")
    layout.image(name="latest")
    assert run("--check", "--insecure-policy", f"oci:{layout.path}:latest").returncode == 0
    (tmp_path / "os.toml").write_text(f'[images.os]\nreference = "oci:{layout.path}:latest"\n')
    done = run("--instance", "os", "--config-dir", str(tmp_path), "--insecure-policy")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error systemd-python is not installed, which an instance needs")
