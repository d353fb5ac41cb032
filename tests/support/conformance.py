"""Recorded cases of what containers/image does, as pytest parameters.

The folder is named by ``CONFORMANCE_DIR``, by default ``../shared/conformance`` seen from the project's root; without
it nothing of tests/conformance is collected. A row that the project answers differently on purpose is matched by a rule
in ``tests/conformance/deviations.toml``::

    [[deviation]]
    table = "manifest/convert_to_oci"
    reason = "why"
    expect = "error"                     # what the project does instead: "error", "ok", or a word the test module knows
    where = { name = "^layer-digest-" }  # column (dotted if nested) -> regular expression found in its text; all match
"""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = Path(os.environ.get("CONFORMANCE_DIR", ROOT.parent / "shared" / "conformance"))
_DEVIATIONS = ROOT / "tests" / "conformance" / "deviations.toml"


@dataclass(frozen=True)
class Deviation:
    """A rule that says on which rows of a table the project differs, how, and why."""

    table: str
    reason: str
    expect: str
    where: dict[str, str]

    def covers(self, table: str, row: dict[str, Any]) -> bool:
        return table == self.table and all(re.search(rule, _text(row, column)) for column, rule in self.where.items())


def _text(row: dict[str, Any], column: str) -> str:
    value: Any = row
    for key in column.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else json.dumps(value)


@functools.cache
def _deviations() -> tuple[Deviation, ...]:
    if not _DEVIATIONS.exists():
        return ()
    return tuple(Deviation(**rule) for rule in tomllib.loads(_DEVIATIONS.read_text())["deviation"])


def deviation(table: str, row: dict[str, Any]) -> Deviation | None:
    """The rule under which the project answers this row differently on purpose, if any."""
    return next((rule for rule in _deviations() if rule.covers(table, row)), None)


def expects_error(table: str, row: dict[str, Any], *, recorded: bool) -> bool:
    """Whether the project answers this row with an error: as recorded, unless a deviation says otherwise."""
    rule = deviation(table, row)
    return rule.expect == "error" if rule else recorded


def rows(table: str, *, keep: Callable[[dict[str, Any]], bool] = bool) -> pytest.MarkDecorator:
    """Parametrise a test's ``row`` over a table such as ``"platform/lists"``; ``keep`` selects the kind of row."""
    cases = json.loads((DIRECTORY / f"{table}.json").read_text(encoding="utf-8"))["cases"]
    return pytest.mark.parametrize("row", [case for case in cases if keep(case)], ids=str_id)


def str_id(row: dict[str, Any]) -> str:
    """A short, stable name for a row in pytest's output."""
    name = row.get("name") or row.get("input") or row.get("source") or "row"
    return re.sub(r"[^\w.:/@-]+", "-", str(name))[:60]


def to_bytes(value: dict[str, str] | str) -> bytes:
    """A table's ``{"text": s}`` or ``{"b64": s}`` (or plain text) as the bytes it stands for."""
    if isinstance(value, str):
        return value.encode()
    if "b64" in value:
        return base64.b64decode(value["b64"])
    return value.get("text", value.get("$serialized", "")).encode()
