"""Instances for the tests under systemd; each is stopped at the end of its test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.instance import Instance
from tests.support.machine import Machine


@pytest.fixture
def make_instance(machine: Machine) -> Iterator[Callable[[str], Instance]]:
    """Make an instance, not started, whose name must be the test's own."""
    made: list[Instance] = []

    def make(name: str) -> Instance:
        made.append(Instance(machine, name))
        return made[-1]

    yield make
    for instance in made:
        instance.stop()
