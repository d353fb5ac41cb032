"""The machine as an administrator has it, cip included, and instances that are stopped at the end of their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.instance import Instance
from tests.support.machine import Machine, install_program


@pytest.fixture(scope="session")
def machine_with_cip(machine: Machine) -> Machine:
    install_program(machine, Path("/usr/bin/cip"), "container_image_client")
    return machine


@pytest.fixture
def make_instance(machine_with_cip: Machine) -> Iterator[Callable[[str], Instance]]:
    """Make an instance, not started, whose name must be the test's own."""
    made: list[Instance] = []

    def make(name: str) -> Instance:
        made.append(Instance(machine_with_cip, name))
        return made[-1]

    yield make
    for instance in made:
        instance.stop()
