"""The figures of a run as pictures for README.md: a chart in SVG, and a table in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape

from benchmarking.measurement import OURS, RELAY, SKOPEO

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarking.report import Row

_COLOURS: Final = {OURS: "#1f6feb", SKOPEO: "#8b949e", RELAY: "#d0d7de"}
_WIDTH: Final = 760
_LABEL: Final = 210
_BAR: Final = 16
_GAP: Final = 14
_STYLE: Final = "text { font: 13px sans-serif; fill: #57606a } .title { font-weight: bold }"


def draw(rows: Sequence[Row], host: dict[str, Any]) -> str:
    """Bars of every throughput, longer is better, one group for each measurement."""
    shown = [row for row in rows if row.figure.name == "throughput"]
    longest = max(row.median(contender) for row in shown for contender in _COLOURS if contender in row.rounds)
    body, y = [], 48
    for row in shown:
        contenders = [contender for contender in _COLOURS if contender in row.rounds]
        middle = y + len(contenders) * _BAR / 2 + 5
        body.append(f'<text class="title" x="8" y="{middle:g}">{escape(row.measurement.title)}</text>')
        for contender in contenders:
            body += _bar(y, contender, row.median(contender), longest)
            y += _BAR
        y += _GAP
    caption = f"MB/s, longer is better. {host['time'][:10]}, {host['cpus']} x {host['cpu']}, {host['skopeo']}"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 8}" role="img">',
        f"<style>{_STYLE}</style>",
        f'<text x="8" y="24">{escape(caption)}</text>',
    )
    return "\n".join((*head, *body, "</svg>", ""))


def _bar(y: int, contender: str, value: float, longest: float) -> Iterator[str]:
    length = (_WIDTH - _LABEL - 150) * value / longest
    yield f'<rect x="{_LABEL}" y="{y}" width="{length:.0f}" height="{_BAR - 2}" fill="{_COLOURS[contender]}"/>'
    yield f'<text x="{_LABEL + length + 6:.0f}" y="{y + 12}">{value:.0f} {contender}</text>'


def format_markdown(rows: Sequence[Row]) -> Iterator[str]:
    """A table of all figures that skopeo has, too: ours, its, and the ratio."""
    yield "| | this | skopeo | ratio |"
    yield "|---|---:|---:|---:|"
    for row in rows:
        if SKOPEO in row.rounds:
            numbers = (f"{row.median(OURS):.4g} {row.figure.unit}", f"{row.median(SKOPEO):.4g} {row.figure.unit}")
            yield f"| {row.measurement.title}: {row.figure.name} | {' | '.join(numbers)} | {row.ratio(SKOPEO):.2f} |"
