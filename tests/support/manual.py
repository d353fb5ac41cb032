"""What the manual pages show."""

from __future__ import annotations

import re
from pathlib import Path

PAGES = Path(__file__).resolve().parents[2] / "contrib" / "man"


def shown(page: str, title: str) -> list[str]:
    """The texts that a subsection shows as they are to be typed, in their order."""
    section = (PAGES / page).read_text().partition(f".SS {title}\n")[2].partition("\n.S")[0]
    texts = re.findall(r"^\.nf\n(.*?)^\.fi$", section, re.DOTALL | re.MULTILINE)
    assert texts
    return [text.replace("\\-", "-") for text in texts]
