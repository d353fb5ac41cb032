"""Paths to handlers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import Error, NotFoundError
from container_image_proxy.faces.http.router import MethodNotAllowedError, Route, find_route

ROUTES = (
    Route("GET", "/manifest", "manifest"),
    Route("GET", "/blobs/{digest...}", "blob"),
    Route("GET", "/images/{name}/blobs/{digest...}", "image blob"),
    Route("POST", "/quit", "quit"),
)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/manifest", ("manifest", {})),
        ("HEAD", "/manifest", ("manifest", {})),
        ("POST", "/quit", ("quit", {})),
        ("GET", "/blobs/sha256:ab", ("blob", {"digest": "sha256:ab"})),
        ("GET", "/blobs/sha256%3Aab", ("blob", {"digest": "sha256:ab"})),
        ("GET", "/blobs/", ("blob", {"digest": ""})),
        ("GET", "/blobs/a/../b", ("blob", {"digest": "a/../b"})),
        ("GET", "/images/a%2Fb/blobs/c", ("image blob", {"name": "a/b", "digest": "c"})),
        ("GET", "/blobs/%252e", ("blob", {"digest": "%2e"})),
    ],
)
def test_a_path_finds_its_handler_and_its_values(method: str, path: str, expected: tuple[str, dict[str, str]]) -> None:
    assert find_route(ROUTES, method, path) == expected


@pytest.mark.parametrize(
    "path", ["", "/", "manifest", "/manifest/", "//manifest", "/Manifest", "/blobs", "/%6danifest", "/images/a"]
)
def test_any_other_path_is_not_found(path: str) -> None:
    with pytest.raises(NotFoundError):
        find_route(ROUTES, "GET", path)


@pytest.mark.demand("HTTP-methods")
@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("POST", "/manifest", ("GET", "HEAD")), ("GET", "/quit", ("POST",)), ("get", "/manifest", ("GET", "HEAD"))],
)
def test_a_wrong_method_lists_the_right_ones(method: str, path: str, allowed: tuple[str, ...]) -> None:
    with pytest.raises(MethodNotAllowedError) as caught:
        find_route(ROUTES, method, path)
    assert caught.value.allowed == allowed


@given(method=st.text(max_size=10), path=st.text(max_size=60) | st.from_regex(r"/(blobs|images)/[%a-z0-9/]{0,40}"))
def test_any_path_has_a_handler_or_our_error(method: str, path: str) -> None:
    try:
        handler, values = find_route(ROUTES, method, path)
    except Error:
        return
    assert handler in {route.handler for route in ROUTES}
    assert all(isinstance(value, str) for value in values.values())
