"""Rounds, medians, the table and the JSON document."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarking.measurement import DIRECT, HASH, OURS, RELAY, SKOPEO, Figure, Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from benchmarking.bench import Bench

_OTHERS: Final = (SKOPEO, RELAY, DIRECT, HASH)
_HEAD: Final = (
    f"{'':<40}"
    + "".join(f"{name:>10}" for name in (OURS, *_OTHERS))
    + f"  {'':6}"
    + "".join(f"{'/' + name:>9}" for name in _OTHERS)
    + "  expected"
)
_VERSIONS: Final = {
    "docker-registry": ("docker-registry", "--version"),
    "curl": ("curl", "--version"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one measurement: what each contender showed in each round."""

    measurement: Measurement
    figure: Figure
    rounds: Mapping[str, Sequence[float]]

    def median(self, contender: str) -> float:
        """The middle of the rounds."""
        return statistics.median(self.rounds[contender])

    def ratio(self, contender: str) -> float:
        """Ours by theirs."""
        return self.median(OURS) / self.median(contender)

    @property
    def is_met(self) -> bool | None:
        """Whether ours is as expected; None if nothing is."""
        if self.figure.limit is not None:
            return self.median(OURS) < self.figure.limit
        known = [bound for bound in self.figure.bounds if bound.contender in self.rounds]
        return all(bound.is_met(self.ratio(bound.contender)) for bound in known) if known else None


def measure(measurement: Measurement, bench: Bench, rounds: int) -> Iterator[Row]:
    """Run the probes in turn, A B C A B C, so that what disturbs the machine disturbs all alike."""
    with measurement.prepare(bench) as probes:
        taken: dict[str, list[Sequence[float]]] = {contender: [] for contender in probes}
        for _ in range(rounds):
            for contender, probe in probes.items():
                taken[contender].append(probe())
    for position, figure in enumerate(measurement.figures):
        yield Row(measurement, figure, {name: [sample[position] for sample in each] for name, each in taken.items()})


def format_table(rows: Iterable[Row]) -> Iterator[str]:
    """Lines of a table of medians with the ratios ours/skopeo and ours/direct."""
    yield _HEAD
    for row in rows:
        values = "".join(_cell(row, row.median, contender, ">10.4g") for contender in (OURS, *_OTHERS))
        ratios = "".join(_cell(row, row.ratio, contender, ">9.2f") for contender in _OTHERS)
        name = f"{row.measurement.title}: {row.figure.name}"
        yield f"{name:<40}{values}  {row.figure.unit:6}{ratios}  {_expectation(row)}".rstrip()


def _cell(row: Row, value: Callable[[str], float], contender: str, form: str) -> str:
    """A number, or a dash for a contender that cannot take part."""
    width = form.partition(".")[0]
    return format(value(contender), form) if contender in row.rounds else format("-", width)


def _expectation(row: Row) -> str:
    bounds = [f"< {row.figure.limit:g}"] if row.figure.limit is not None else map(str, row.figure.bounds)
    return "" if row.is_met is None else f"{', '.join(bounds)} {'ok' if row.is_met else 'MISSED'}"


def describe_host(skopeo: str) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "skopeo": _first_line((skopeo, "--version")),
        **{name: _first_line(command) for name, command in _VERSIONS.items()},
    }


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _first_line(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.partition("\n")[0]


def to_json(row: Row) -> dict[str, Any]:
    """Everything about a row; ``expected_met`` is null where nothing is expected."""
    return {
        "measurement": row.measurement.name,
        "title": row.measurement.title,
        "figure": row.figure.name,
        "unit": row.figure.unit,
        "median": {contender: row.median(contender) for contender in row.rounds},
        "rounds": dict(row.rounds),
        "ratio": {contender: row.ratio(contender) for contender in row.rounds if contender != OURS},
        "expected_met": row.is_met,
    }
