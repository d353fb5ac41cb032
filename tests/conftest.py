"""Rules for every test: a clean environment, nothing left behind, no silent skip in CI, no demand that nobody made."""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

from tests.support.demands import demands_of, load_demands
from tests.support.environment import isolate
from tests.support.leaks import adopt_orphans, holdings, left_behind
from tests.support.requirements import SkipWithoutSystemd, lack_behind

# With CI=true a skipped test fails, except for what this file lists: part of the skip's reason = why that is all right.
_SKIPS_ALLOWED_IN_CI = Path(__file__).with_name("skips-allowed-in-ci.toml")

# How long an example takes is the machine's business, and what else runs there. The examples are the same everywhere,
# so that a fault fails where it is made. contrib/fuzz looks for others.
settings.register_profile("any-machine", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

pytest_plugins = ["tests.support.gpg", "tests.support.machine"]

_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)
_HOME = pytest.StashKey[Path]()
_TEST_STATE = ("PYTEST_CURRENT_TEST",)  # pytest's own note of what runs


@pytest.hookimpl(trylast=True)  # pytest itself still looks at the terminal's variables
def pytest_configure(config: pytest.Config) -> None:
    """Give the session a home and an environment of its own (tests/support/environment.py)."""
    config.stash[_HOME] = Path(tempfile.mkdtemp(prefix="home-", dir="/tmp"))
    isolate(config.stash[_HOME])
    adopt_orphans()
    SkipWithoutSystemd.install()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the session's home."""
    shutil.rmtree(config.stash[_HOME], ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--all``, which tests/run has as well, and what decides about generated cases (tests/support/generated.py)."""
    parser.addoption("--all", action="store_true", help="run also the tests that take minutes (marked long)")
    parser.addoption("--seed", type=int, default=0, help="make other cases to compare with skopeo")
    parser.addoption("--cases", type=int, default=100, help="how many cases of each kind to compare with skopeo")
    parser.addoption("--skopeo", default=None, metavar="PATH", help="the skopeo to compare with")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests to ``--all``, and refuse what is no demand of tests/demands: it would look like coverage."""
    for item in items:
        if (long := item.get_closest_marker("long")) and not config.getoption("--all"):
            item.add_marker(pytest.mark.skip(reason=f"needs tests/run --all: {long.args[0]}"))
    known = {demand for ids in load_demands().values() for demand in ids}
    unknown = {demand: item.nodeid for item in items for demand in demands_of(item) - known}
    if unknown:
        message = f"no such demand in tests/demands: {unknown}"
        raise pytest.UsageError(message)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed command's own words are shown. What the machine lacks skips a test; in CI every test runs."""
    report = yield
    if call.excinfo and isinstance(call.excinfo.value, subprocess.CalledProcessError):
        report.sections += _words_of(call.excinfo.value)
    if call.excinfo and (lack := lack_behind(call.excinfo.value)):
        path, line, _ = item.reportinfo()
        report.outcome, report.longrepr = "skipped", (str(path), (line or 0) + 1, f"Skipped: {lack}")
    return _without_skip_in_ci(report)


def _words_of(error: subprocess.CalledProcessError) -> list[tuple[str, str]]:
    """A report's section with what the command printed as its error, which the exception itself does not show."""
    said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr
    return [("what the command said", said)] if said else []


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself while it is imported."""
    return _without_skip_in_ci((yield))


@functools.cache
def _skips_allowed_in_ci() -> dict[str, str]:
    allowed: dict[str, str] = tomllib.loads(_SKIPS_ALLOWED_IN_CI.read_text())
    return allowed


def _without_skip_in_ci(report: _Report) -> _Report:
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return report
    reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(allowed in reason for allowed in _skips_allowed_in_ci()):
        report.outcome = "failed"
        report.longrepr = f"{reason}\nNo test may be skipped in CI (CI=true) but those in {_SKIPS_ALLOWED_IN_CI.name}."
    return report


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """A test leaves no thread, descriptor, child process, environment variable or working directory behind."""
    before, environment, directory = holdings(), _environment(), Path.cwd()
    yield
    left = left_behind(before)
    assert not left, f"left behind: {left}"
    assert _environment() == environment, "the environment was changed"
    assert Path.cwd() == directory, "the working directory was changed"


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory of a disk. ``tmp_path`` may be memory, as Debian 13 has it, into which the daemon unpacks nothing.

    Podman makes an image's name of the layout's path, and no part of a name may end in an underscore, as one in 37 of
    tempfile's names does.
    """
    place = Path(f"/var/tmp/disk-{secrets.token_hex(8)}")
    place.mkdir(mode=0o700)
    try:
        yield place
    finally:
        shutil.rmtree(place)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _TEST_STATE}
