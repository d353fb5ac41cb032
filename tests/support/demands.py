"""The demands of tests/demands: attacks and faults that the project must withstand, and which tests show it.

A test names what it shows by the marker ``demand(id)``. ``python -m tests.support.demands [ID...]``
(``tests/run --demands``) prints all demands with the number of their tests, or some of them in full.
"""

from __future__ import annotations

import contextlib
import io
import sys
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / "tests" / "demands"


@dataclass(frozen=True, slots=True)
class Demand:
    """What happens to the daemon, and what it has to do then."""

    given: str
    required: str


def load_demands() -> dict[str, dict[str, Demand]]:
    """The tables, "attacks" and "faults": id -> demand, in the order of the files."""
    return {
        kind: _parse(DIRECTORY / f"{kind}.toml", given) for kind, given in (("attacks", "attack"), ("faults", "fault"))
    }


def _parse(path: Path, given: str) -> dict[str, Demand]:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: Demand(_one_line(row[given]), _one_line(row["required"])) for name, row in table.items()}


def _one_line(text: str) -> str:
    return " ".join(text.split())


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


def main(*wanted: str) -> int:
    """Print the demands with the number of their tests, or those that are wanted in full; 0 if that went well."""
    tables = load_demands()
    known = {name: demand for table in tables.values() for name, demand in table.items()}
    if unknown := set(wanted) - set(known):
        print(f"no such demand: {', '.join(sorted(unknown))}; see {DIRECTORY.relative_to(ROOT)}", file=sys.stderr)
        return 2
    coverage, output = Coverage(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = pytest.main(["--collect-only", "-q", str(ROOT / "tests")], plugins=[coverage])
    if status != pytest.ExitCode.OK:
        print(output.getvalue(), file=sys.stderr)
        return int(status)
    if wanted:
        for name in wanted:
            _print_whole(name, known[name], coverage.tests.get(name, []))
    else:
        _print_summary(tables, coverage)
    return 0


def _print_summary(tables: dict[str, dict[str, Demand]], coverage: Coverage) -> None:
    for kind, demands in tables.items():
        print(f"{kind}: {sum(name in coverage.tests for name in demands)} of {len(demands)} demands have tests")
        for name, demand in demands.items():
            print(f"  {len(coverage.tests.get(name, [])):4} {name:33} {textwrap.shorten(demand.given, 100)}")


def _print_whole(name: str, demand: Demand, tests: list[str]) -> None:
    print(name)
    for text in (demand.given, demand.required):
        print(textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="  "), end="\n\n")
    print(*(f"  {test}" for test in tests or ["no test yet"]), sep="\n", end="\n\n")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
