from __future__ import annotations

import pytest

from tests.support import demands


def test_every_demand_says_what_happens_and_what_is_required() -> None:
    for table in demands.load_demands().values():
        assert table
        assert not [name for name, demand in table.items() if not demand.given.endswith(".") or not demand.required]


def test_a_demand_is_in_one_table_only() -> None:
    attacks, faults = demands.load_demands().values()
    assert attacks.keys() & faults.keys() == set()


def test_an_id_that_no_table_has_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert demands.main("DIG-blob-mismach") == 2
    assert "no such demand: DIG-blob-mismach; see tests/demands" in capsys.readouterr().err
