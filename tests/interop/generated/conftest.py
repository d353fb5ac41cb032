"""The dice of each case, and the skopeo that it is compared with."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.generated import Bench, Skopeo, one_try
from tests.support.requirements import require_program


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """As many cases of the module's kind as are asked for, each with the seed in its name."""
    if "dice" in metafunc.fixturenames:
        seed, cases = metafunc.config.getoption("--seed"), metafunc.config.getoption("--cases")
        metafunc.parametrize("dice", [f"seed-{seed}-{number}" for number in range(cases)], indirect=True)


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(f"{request.node.path.stem}/{request.param}")  # noqa: S311 - no secret


@pytest.fixture(scope="session")
def skopeo(pytestconfig: pytest.Config) -> Skopeo:
    path = pytestconfig.getoption("--skopeo")
    if path is None:
        require_program("skopeo")
        path = str(shutil.which("skopeo"))
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    return Skopeo(path, said.split()[2])


@pytest.fixture
def bench(tmp_path: Path, skopeo: Skopeo, monkeypatch: pytest.MonkeyPatch) -> Bench:
    one_try(monkeypatch)
    return Bench(tmp_path, skopeo)
