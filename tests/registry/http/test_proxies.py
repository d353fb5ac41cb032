"""Which proxy a URL goes through."""

from __future__ import annotations

import pytest

from container_image_proxy.errors import ConfigurationError
from container_image_proxy.registry.http.proxies import parse_proxies
from container_image_proxy.registry.http.target import parse_target

pytestmark = pytest.mark.demand("ENV-proxy")
PROXY = "http://proxy.example:3128"


def proxy_for(url: str, **environ: str) -> str | None:
    return parse_proxies(environ).proxy_for(parse_target(url).origin)


def test_each_scheme_has_its_proxy() -> None:
    environ = {"HTTP_PROXY": "http://one:1", "HTTPS_PROXY": "http://two:2"}
    assert proxy_for("http://a.example/", **environ) == "http://one:1"
    assert proxy_for("https://a.example/", **environ) == "http://two:2"
    assert proxy_for("https://a.example/", HTTP_PROXY=PROXY) is None


def test_upper_case_wins_and_lower_case_does() -> None:
    assert proxy_for("https://a.example/", HTTPS_PROXY="http://up:1", https_proxy="http://low:1") == "http://up:1"
    assert proxy_for("http://a.example/", http_proxy="low.example:1") == "http://low.example:1"
    assert proxy_for("https://a.example/", HTTPS_PROXY="", https_proxy=PROXY) == PROXY


def test_what_a_cgi_server_calls_http_proxy_is_a_request_header() -> None:
    assert proxy_for("http://a.example/", HTTP_PROXY=PROXY, REQUEST_METHOD="GET") is None
    assert proxy_for("http://a.example/", http_proxy=PROXY, REQUEST_METHOD="GET") == PROXY


@pytest.mark.parametrize(
    ("exceptions", "url", "direct"),
    [
        ("example.com", "https://example.com/", True),
        ("example.com", "https://sub.example.com/", True),
        ("EXAMPLE.com", "https://sub.example.COM/", True),
        ("example.com", "https://notexample.com/", False),
        (".example.com", "https://sub.example.com/", True),
        (".example.com", "https://example.com/", False),
        ("*.example.com", "https://sub.example.com/", True),
        ("*.example.com", "https://example.com/", False),
        ("*example.com", "https://sub.example.com/", False),
        ("*example.com", "https://example.com/", False),
        ("*.example.com:443", "https://sub.example.com/", True),
        ("*:443", "https://example.com/", False),
        ("example.com:443", "https://example.com/", True),
        ("example.com:0443", "https://example.com/", False),
        ("example.com:8443", "https://example.com/", False),
        pytest.param("example.com:" + "9" * 5000, "https://example.com/", False, id="a port of thousands of digits"),
        ("a.example, b.example", "https://b.example/", True),
        ("*", "https://anything.example/", True),
        ("192.0.2.0/24", "https://192.0.2.7/", True),
        ("192.0.2.0/24", "https://198.51.100.7/", False),
        ("192.0.2.7", "https://192.0.2.7/", True),
        ("192.0.2.7:443", "https://192.0.2.7/", True),
        ("[2001:db8::1]", "https://[2001:db8::1]/", True),
        ("2001:db8::1", "https://[2001:db8::1]/", True),
        ("192.0.2.0/99", "https://192.0.2.7/", False),
        ("", "https://example.com/", False),
        (" , ", "https://example.com/", False),
        ("", "https://localhost/", True),
        ("", "https://127.8.9.10/", True),
        ("", "https://[::1]/", True),
    ],
)
def test_no_proxy(exceptions: str, url: str, *, direct: bool) -> None:
    assert (proxy_for(url, HTTPS_PROXY=PROXY, NO_PROXY=exceptions) is None) is direct


@pytest.mark.parametrize("value", ["socks5://proxy:1080", "socks5h://me:x@[2001:db8::1]"])
def test_a_proxy_may_be_one_of_socks(value: str) -> None:
    assert proxy_for("https://a.example/", HTTPS_PROXY=value) == value


@pytest.mark.parametrize(
    "value",
    ["socks4://proxy:1080", "socks://proxy", "socks5://", "ftp://proxy", "http://", "http://proxy:port", "http://[::1"],
)
def test_a_proxy_that_cannot_be_used_is_an_error_and_not_gone_around(value: str) -> None:
    with pytest.raises(ConfigurationError, match="HTTPS_PROXY"):
        parse_proxies({"HTTPS_PROXY": value})


def test_a_password_shows_neither_in_repr_nor_in_an_error() -> None:
    assert "secret" not in repr(parse_proxies({"HTTPS_PROXY": "http://me:secret@proxy"}))
    with pytest.raises(ConfigurationError) as caught:
        parse_proxies({"HTTPS_PROXY": "gopher://me:secret@proxy"})
    assert "secret" not in str(caught.value)
