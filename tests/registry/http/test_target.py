"""URLs that others wrote: resolved where they are relative, and otherwise left as they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import RegistryError
from container_image_proxy.registry.http.origin import Origin
from container_image_proxy.registry.http.target import parse_target

BASE = parse_target("https://registry.example:5000/v2/some/image/blobs/x?digest=1#part")


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://A.example/x", Origin("https", "a.example", 443)),
        ("HTTP://a.example:8080", Origin("http", "a.example", 8080)),
        ("https://[::1]:5000/x", Origin("https", "::1", 5000)),
        ("https://bucket_of_mine.example:/", Origin("https", "bucket_of_mine.example", 443)),
    ],
)
def test_origin_of_a_url(url: str, origin: Origin) -> None:
    assert parse_target(url).origin == origin


@pytest.mark.parametrize(
    "request_target",
    [
        "/data%7Esig%2Dx?Policy=a%7Eb%2Dc&Signature=Zm9v%2Fbar%3D",
        "/a%2fb/..%2fc/%2e%2e/../d/./e",
        "//double//slash/",
        "/x?",
        "/?a=?b",
        "/p;v=1?x=y;z",
        "/d[1]{2}|\\^`<>\"'?x={1}|[2]^`\\",
        "/not%zzhex%",
        "/a+b?c=d+e",
    ],
)
def test_a_url_is_asked_for_byte_for_byte(request_target: str) -> None:
    target = parse_target(f"https://Storage.example:443{request_target}#fragment")
    assert target.request_target == request_target
    assert target.url == f"https://Storage.example:443{request_target}"
    assert target.host_header == "Storage.example:443"


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#?")), st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#")))  # fmt: skip
def test_whatever_can_stand_in_a_request_line_is_left_alone(path: str, query: str) -> None:
    written = f"/{path}?{query}"
    assert parse_target(f"https://a{written}").request_target == written
    assert parse_target(f"https://a{written}", BASE).request_target == written
    if not path.startswith("/"):  # two slashes begin a host
        assert parse_target(written, BASE).request_target == written


@pytest.mark.parametrize(
    ("url", "request_target"),
    [
        ("https://a", "/"),
        ("https://a?x=1", "/?x=1"),
        ("https://a/b c?d e", "/b%20c?d%20e"),
        ("https://a/\u00c3\u00bc?\u00fc", "/%C3%BC?%FC"),  # a header's bytes, read as Latin-1
        (" https://a/x\t", "/x"),
    ],
)
def test_what_a_request_line_cannot_hold_is_encoded(url: str, request_target: str) -> None:
    assert parse_target(url).request_target == request_target


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("/other?y=%2f", "https://registry.example:5000/other?y=%2f"),
        ("/a/../b%2e", "https://registry.example:5000/a/../b%2e"),
        ("y", "https://registry.example:5000/v2/some/image/blobs/y"),
        ("./y?z=%7e", "https://registry.example:5000/v2/some/image/blobs/y?z=%7e"),
        ("../../%2e./y", "https://registry.example:5000/v2/some/%2e./y"),
        ("../../../../../../y/..", "https://registry.example:5000/"),
        ("?next=2", "https://registry.example:5000/v2/some/image/blobs/x?next=2"),
        ("", "https://registry.example:5000/v2/some/image/blobs/x?digest=1"),
        ("#z", "https://registry.example:5000/v2/some/image/blobs/x?digest=1"),
        ("//other.example/x", "https://other.example/x"),
        ("http://other.example", "http://other.example/"),
    ],
)
def test_a_relative_url_is_resolved_and_the_rest_left_alone(reference: str, url: str) -> None:
    assert parse_target(reference, BASE).url == url


@pytest.mark.demand("AUTH-userinfo-url")
def test_user_information_becomes_a_login_and_is_shown_nowhere() -> None:
    target = parse_target("https://me:se%63ret@a.example/x?y=1#z")
    assert target.url == "https://a.example/x?y=1"
    assert target.host_header == "a.example"
    assert target.authorization == "Basic bWU6c2VjcmV0"
    assert "cret" not in repr(target)
    assert parse_target("/y", target).authorization is None


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "with a host"),
        ("/relative", "with a host"),
        ("https:/a", "with a host"),
        ("https:a", "with a host"),
        ("https://", "with a host"),
        ("ftp://a/", "not http://"),
        ("file:///etc/passwd", "not http://"),
        ("https://a:99999/", "malformed"),
        ("https://a:b/", "malformed"),
        ("https://a:0/", "malformed"),
        ("https://[::1", "malformed"),
        ("https://[fe80::1%25eth0]/", "malformed"),
        ("https://\u00e4/", "malformed"),
        ("https://a b/", "malformed"),
        ("https://a\\@b/", "malformed"),
        ("https://a/\x7f", "control"),
        ("https://a/x\r\nHost: b", "control"),
    ],
)
def test_what_cannot_be_requested_is_refused_and_not_shown(url: str, complaint: str) -> None:
    with pytest.raises(RegistryError, match=complaint) as caught:
        parse_target(url)
    assert "etc" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "is_resource"),
    [
        ("https://a/v2/", True),
        ("https://a/v2", True),
        ("https://a/v2/x/blobs/sha256:0?y=/", True),
        ("https://a/v2x", False),
        ("https://a/storage/v2/x", False),
        ("https://a/?/v2/", False),
    ],
)
def test_what_is_a_resource_of_the_api(url: str, *, is_resource: bool) -> None:
    assert parse_target(url).is_in_api is is_resource
