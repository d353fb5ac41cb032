"""URLs and their origins."""

from __future__ import annotations

import pytest

from container_image_proxy.registry.http.origin import Origin, split_authority


def test_authority_as_people_write_it() -> None:
    assert Origin("https", "a", 443).authority == "a"
    assert Origin("https", "a", 80).authority == "a:80"
    assert Origin("http", "::1", 5000).authority == "[::1]:5000"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ("a", None)),
        ("A.example:5000", ("a.example", 5000)),
        ("a.example:", ("a.example", None)),
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        ("[::1]", ("::1", None)),
        ("[2001:DB8:0:0::1]:5000", ("2001:db8::1", 5000)),
    ],
)
def test_an_authority_is_split_the_same_however_it_is_spelled(text: str, parts: tuple[str, int | None]) -> None:
    assert split_authority(text) == parts


@pytest.mark.parametrize(
    "text", ["", ":80", "a:0", "a:65536", "a:x", "::1", "[::1", "[1:2]", "[fe80::1%eth0]", "[a]", "ä"]
)
def test_what_is_no_authority_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        split_authority(text)
