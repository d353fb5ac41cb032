"""Origins, and who belongs to a registry."""

from __future__ import annotations

import pytest

from container_image_proxy.errors import RegistryError
from container_image_proxy.registry.origin import Origin, is_own_site, parse_target


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://A.example/x", Origin("https", "a.example", 443)),
        ("http://a.example:8080", Origin("http", "a.example", 8080)),
        ("https://[::1]:5000/x", Origin("https", "::1", 5000)),
    ],
)
def test_origin_of_a_url(url: str, origin: Origin) -> None:
    assert parse_target(url).origin == origin


def test_authority_as_people_write_it() -> None:
    assert Origin("https", "a", 443).authority == "a"
    assert Origin("https", "a", 80).authority == "a:80"
    assert Origin("http", "::1", 5000).authority == "[::1]:5000"


@pytest.mark.demand("AUTH-userinfo-url")
def test_user_information_and_fragment_are_dropped() -> None:
    assert parse_target("https://me:secret@a.example/x?y=1#z").url == "https://a.example/x?y=1"


@pytest.mark.parametrize(
    "url",
    ["", "/relative", "ftp://a/", "file:///etc/passwd", "https://", "https://a:99999/", "https://a:b/", "https://ä/",
     "https://[::1", "ftp://a:21/", "https://a:0/", "https://a/\x7f"],
)  # fmt: skip
def test_what_cannot_be_requested_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(RegistryError, match=r"is not http:// or https://, or is malformed$"):
        parse_target(url)


@pytest.mark.demand("AUTH-realm-cross-host")
@pytest.mark.parametrize(
    ("registry", "host", "belongs"),
    [
        ("quay.io", "quay.io", True),
        ("docker.io", "auth.docker.io", True),
        ("registry-1.docker.io", "auth.docker.io", True),
        ("registry.example.com", "auth.example.com", True),
        ("registry.gitlab.example.com", "gitlab.example.com", True),
        ("registry.example.com", "example.com", True),
        ("example.com", "auth.example.com", True),
        ("registry.shop.co.uk", "auth.shop.co.uk", True),
        ("registry.shop.co.uk", "other.co.uk", False),
        ("shop.co.uk", "evil.co.uk", False),
        ("registry.example.com", "example.com.evil.net", False),
        ("registry.example.com", "evilexample.com", False),
        ("mine.azurecr.io", "yours.azurecr.io", False),
        ("a.mine.azurecr.io", "b.mine.azurecr.io", False),
        ("one.github.io", "other.github.io", False),
        ("com", "evil.com", False),
        ("registry.ministry.gouv.fr", "auth.ministry.gouv.fr", False),
        ("ministry.gouv.fr", "evil.gouv.fr", False),
        ("mine.duckdns.org", "evil.duckdns.org", False),
        ("mine.ts.net", "evil.ts.net", False),
        ("mine.tail.ts.net", "evil.ts.net", False),
        ("mine.westeurope.cloudapp.azure.com", "evil.westeurope.cloudapp.azure.com", False),
        ("mine.westeurope.cloudapp.azure.com", "evil.azure.com", False),
        ("1.dkr.ecr.eu-west-1.amazonaws.com", "2.dkr.ecr.eu-west-1.amazonaws.com", False),
        ("1.dkr.ecr.eu-west-1.amazonaws.com", "evil.amazonaws.com", False),
        ("registry.one.svc.cluster.local", "registry.other.svc.cluster.local", False),
        ("registry.one.svc.cluster.local", "evil.one.svc.cluster.local", False),
        ("registry.uk.com", "evil.uk.com", False),
        ("registry.gitlab.example.com", "auth.example.com", False),
        ("registry.example.com", "deep.auth.example.com", False),
        ("registry.gitlab.example.com", "auth.gitlab.example.com", False),
        ("localhost", "evil.localhost", False),
        ("registry", "auth", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "0.0.1", False),
        ("192.0.2.1", "192.0.2.1", True),
        ("example.com", "docker.io", False),
    ],
)
def test_own_site(registry: str, host: str, *, belongs: bool) -> None:
    assert is_own_site(registry, host) is belongs
