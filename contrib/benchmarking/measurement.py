"""What a measurement is: contenders, figures and what is expected of them, and the table that all are entered into.

Each measurement is a function, a context manager that sets the contenders up and yields a probe for each. A probe,
called once a round, returns one number for each of the measurement's figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from benchmarking.bench import Bench

OURS: Final = "proxy"
SKOPEO: Final = "skopeo"
RELAY: Final = "relay"
"""The bare relay of ``relay.py``: what Python can do at best."""
HASH: Final = "sha256"
"""SHA-256 over the same bytes, and nothing else."""
DIRECT: Final = "direct"
"""The registry asked by curl, or by the smallest client that keeps its connection; beside cip, curl in its place."""

Probe = Callable[[], Sequence[float]]
Probes = Iterator[Mapping[str, Probe]]


@dataclass(frozen=True, slots=True)
class Bound:
    """What is expected of the ratio of our number to that of ``contender``."""

    contender: str
    at_least: float = 0.0
    at_most: float = float("inf")

    def is_met(self, ratio: float) -> bool:
        """Whether a ratio is as expected."""
        return self.at_least <= ratio <= self.at_most

    def __str__(self) -> str:
        sign, value = (">=", self.at_least) if self.at_least else ("<=", self.at_most)
        return f"{sign} {value:g} {self.contender}"


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that is reported; ``limit`` bounds our own number, ``bounds`` its ratios to those of others."""

    name: str
    unit: str
    bounds: tuple[Bound, ...] = ()
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measurement as ``--only`` names it, and its figures in the order in which probes return them."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    prepare: Callable[[Bench], AbstractContextManager[Mapping[str, Probe]]]


MEASUREMENTS: Final[dict[str, Measurement]] = {}


def measurement(name: str, title: str, *figures: Figure) -> Callable[[Callable[[Bench], Probes]], None]:
    """Enter a function into the table."""

    def enter(function: Callable[[Bench], Probes]) -> None:
        MEASUREMENTS[name] = Measurement(name, title, figures, contextmanager(function))

    return enter
