"""Origins, and who belongs to a registry."""

from __future__ import annotations

import pytest

from container_image_proxy.registry.origin import Origin, is_own_site, split_authority


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
