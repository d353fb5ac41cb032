"""The README's commands, as they are pasted."""

from __future__ import annotations

import re
from pathlib import Path

_README = Path(__file__).resolve().parents[2] / "README.md"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def section(title: str) -> str:
    """The text below a heading, up to the next one of its level or above."""
    text = _README.read_text(encoding="utf-8")
    level, rest = re.split(rf"^(#+) {re.escape(title)}\n", text, flags=re.MULTILINE)[1:]
    return re.split(rf"^#{{1,{len(level)}}} ", rest, flags=re.MULTILINE)[0]


def blocks(title: str, language: str = "") -> list[str]:
    """The blocks of a section; those without a language are commands."""
    return [text for kind, text in _BLOCK.findall(section(title)) if kind == language]


def as_root(commands: str, *, reference: str = "") -> str:
    """Commands without sudo, and with another image than the example's."""
    commands = re.sub(r"\bsudo ", "", commands)
    return re.sub(r"docker://[\w./:-]+", reference, commands) if reference else commands
