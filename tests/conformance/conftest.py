"""Without the recorded tables nothing of this folder is collected but the one test that says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.conformance import DIRECTORY

if "CONFORMANCE_DIR" in os.environ and not DIRECTORY.is_dir():
    message = f"CONFORMANCE_DIR: there is no folder {DIRECTORY}"
    raise pytest.UsageError(message)

_MODULES = {path.name for path in Path(__file__).parent.glob("test_*.py")}
collect_ignore = [] if DIRECTORY.is_dir() else sorted(_MODULES - {"test_tables.py"})
