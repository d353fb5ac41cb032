"""Which demands (attacks and faults that the project must withstand) have tests, by the marker ``demand(id)``.

The demands are JSON tables in the folder named by ``DEMANDS_DIR``, by default ``../shared/demands`` seen from the
project's root. ``python -m tests.support.demands`` (``tests/run --demands``) prints the coverage.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = Path(os.environ.get("DEMANDS_DIR", ROOT.parent / "shared" / "demands"))


def load_demands(directory: Path = DIRECTORY) -> dict[str, list[str]]:
    """Table name -> the ids in it; empty where there is no such folder."""
    tables = sorted(directory.glob("*.json"))
    return {table.stem: [case["id"] for case in json.loads(table.read_text())["cases"]] for table in tables}


def demands_of(item: pytest.Item) -> set[str]:
    """The ids that a test says it covers."""
    return {demand for marker in item.iter_markers("demand") for demand in marker.args}


class Coverage:
    """A pytest plugin that only looks: demand id -> the tests that name it."""

    def __init__(self) -> None:
        self.tests: dict[str, list[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            for demand in demands_of(item):
                self.tests.setdefault(demand, []).append(item.nodeid)


def main() -> int:
    """Collect all tests and print, for each table, the demands with and without tests; 0 if that went well."""
    coverage, output = Coverage(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = pytest.main(["--collect-only", "-q", str(ROOT / "tests")], plugins=[coverage])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        print(output.getvalue(), file=sys.stderr)
        return int(status)
    tables = load_demands()
    if not tables:
        print(f"no demands in {DIRECTORY}; DEMANDS_DIR names another folder", file=sys.stderr)
    for table, ids in tables.items():
        print(f"{table}: {sum(demand in coverage.tests for demand in ids)} of {len(ids)} demands have tests")
        for demand in ids:
            tests = coverage.tests.get(demand, [])
            print(f"  {demand:32} {f'{len(tests)} ({tests[0]})' if tests else '-'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
