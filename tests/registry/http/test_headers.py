"""Reading response headers."""

from __future__ import annotations

import email.utils
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import RegistryError
from container_image_proxy.registry.http.headers import (
    ContentRange,
    parse_content_range,
    parse_media_type,
    parse_next_link,
    parse_retry_after,
    parse_warning,
)


@given(st.integers(0, 2**60), st.integers(0, 2**60), st.none() | st.integers(0, 2**60))
def test_content_range_round_trip(first: int, last: int, complete: int | None) -> None:
    text = f"bytes {first}-{last}/{'*' if complete is None else complete}"
    assert parse_content_range(text) == ContentRange(first, last, complete)


@pytest.mark.parametrize(
    "value", ["", "bytes */10", "items 1-2/3", "bytes 1-2/3, bytes 4-5/6", "bytes \u0661-2/3", "1-2/3"]
)
def test_what_is_no_content_range(value: str) -> None:
    with pytest.raises(RegistryError):
        parse_content_range(value)


NOW = 1_800_000_000.0


@pytest.mark.demand("429-retry-after")
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        (" 0 ", 0.0),
        ("100000", 86400.0),
        ("-5", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("1.5", 1.5),
        ("9" * 400, 86400.0),
        ("+3", None),
        ("0, 5", None),
        ("1e3", None),
    ],
)
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, 0) == seconds


@pytest.mark.demand("429-retry-after")
def test_retry_after_as_a_date() -> None:
    date = email.utils.formatdate(NOW, usegmt=True)
    assert parse_retry_after(date, NOW - 3600) == 3600
    assert parse_retry_after(date, NOW + 3600) is None


@pytest.mark.demand("429-retry-after")
@pytest.mark.parametrize("form", ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"])
def test_retry_after_in_each_format_of_dates_wherever_the_host_is(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    try:
        coming = parse_retry_after(time.strftime(form, time.gmtime(NOW)), NOW - 3600)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert coming == 3600


def test_media_types_lose_case_and_parameters() -> None:
    assert parse_media_type("Application/JSON ; charset=UTF-8") == "application/json"


def test_other_warnings_than_the_registrys_are_ignored() -> None:
    assert parse_warning('110 - "stale"') == ""


@pytest.mark.parametrize("control", ["\x1b", "\r", "\x00", "\x7f", "\x0b"])
def test_a_warning_with_control_characters_is_none(control: str) -> None:
    assert parse_warning(f'299 - "a{control}b"') == ""
    assert parse_warning(f'299 - "a\\{control}b"') == ""
    assert parse_warning('299 - "a\tb"') == "a\tb"


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ('</v2/os/referrers/x?n=2>; rel="next"', "/v2/os/referrers/x?n=2"),
        ("<https://r.example/2>; title=two; rel=next", "https://r.example/2"),
        ('<1>; rel="prev", <3>; REL="next"', "3"),
        ('<1>; rel="prev"', None),
        ('<1>; rel="nextish"', None),
        ("", None),
        ("1; rel=next", None),
    ],
)
def test_the_link_to_the_next_page(value: str, url: str | None) -> None:
    assert parse_next_link(value) == url
