"""The start loads what every daemon needs; what only some requests, options or images need is loaded for them."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
