"""Scripts that tests run in an interpreter of their own."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def importing_project(code: str) -> str:
    """``code`` for ``python -c`` that finds the package and the tests, whether the project is installed or not."""
    return f"import sys\nsys.path[:0] = {[str(ROOT), str(ROOT / 'daemon')]!r}\n{code}"
