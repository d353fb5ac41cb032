"""The targets of contrib/fuzz take any bytes; without atheris, whose coverage finds more, a few hundred of each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "contrib"))
from fuzzing.targets import TARGETS, run

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.binary(max_size=300) | st.text().map(str.encode) | JSON.map(lambda value: repr(value).encode()))
def test_a_target_takes_any_bytes(name: str, data: bytes) -> None:
    run(name, data)
