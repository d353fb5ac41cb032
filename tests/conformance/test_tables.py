from __future__ import annotations

import pytest

from tests.support.conformance import DIRECTORY


def test_the_recorded_tables_are_here() -> None:
    if not DIRECTORY.is_dir():
        pytest.skip("the recorded tables of containers/image are not here (CONFORMANCE_DIR names their folder)")
    assert sorted(DIRECTORY.glob("*/*.json"))
