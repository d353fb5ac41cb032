"""Strict reading of values: base64, and lists that may or may not be empty."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import InvalidInputError
from container_image_proxy.policy.fields import decode_base64


@given(st.binary(max_size=20), st.integers(1, 8))
def test_base64_is_read_whatever_its_lines(data: bytes, width: int) -> None:
    text = base64.b64encode(data).decode()
    lines = [text[start : start + width] for start in range(0, len(text), width)]
    assert decode_base64("\r\n".join(lines), "it") == data


@pytest.mark.parametrize(
    "text",
    ["AAAA=", "AAAA==", "AAAA====", "AA===", "AA==AA==", "AA==AAAA", "AA=", "AA", "A", "=", "A A==", "AA= =", "_-=="],
)
def test_base64_has_the_padding_that_it_needs_and_nothing_else(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^it: not base64$"):
        decode_base64(text, "it")
