"""Which token services may have a registry's credentials."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.registry.auth import realms
from container_image_proxy.registry.auth.challenge import parse_challenges
from container_image_proxy.registry.auth.realms import TokenRealms, is_same_site
from container_image_proxy.registry.http.origin import Origin
from container_image_proxy.registry.http.target import parse_target

DATA = tomllib.loads(Path(realms.__file__).with_name("token-services.toml").read_text())
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,5}(\.[a-z]{2,5}){0,3}", fullmatch=True)


def realm(host: str, port: int = 443, scheme: str = "https") -> Origin:
    return Origin(scheme, host, port)


@pytest.mark.demand("AUTH-realm-cross-host")
@pytest.mark.parametrize(
    ("registry", "host", "belongs"),
    [
        ("quay.io", "quay.io", True),
        ("registry-1.docker.io", "auth.docker.io", True),
        ("registry.gitlab.com", "gitlab.com", True),
        ("docker.elastic.co", "docker-auth.elastic.co", True),
        ("registry.digitalocean.com", "api.digitalocean.com", True),
        ("registry.cn-hangzhou.aliyuncs.com", "dockerauth.cn-hangzhou.aliyuncs.com", True),
        ("mine-registry.cn-hangzhou.cr.aliyuncs.com", "dockerauth-ee.cn-hangzhou.aliyuncs.com", True),
        ("registry.suse.com", "scc.suse.com", True),
        ("registry.connect.redhat.com", "sso.redhat.com", True),
        ("registry.example.com", "auth.example.com", True),
        ("registry.example.de", "auth.example.de", True),
        ("registry.gitlab.example.com", "gitlab.example.com", True),
        ("registry.team.cluster.example.com", "auth.team.cluster.example.com", True),
        ("registry.gitlab.example.com", "auth.example.com", True),
        ("registry.example.com", "deep.auth.example.com", True),
        ("registry.example.com", "example.com", True),
        ("example.com", "auth.example.com", True),
        ("registry.shop.co.uk", "auth.shop.co.uk", True),
        ("registry.shop.co.jp", "auth.shop.co.jp", True),
        ("registry.ministry.gouv.fr", "auth.ministry.gouv.fr", True),
        ("registry.xn--mnchen-3ya.de", "auth.xn--mnchen-3ya.de", True),
        ("registry.shop.co.uk", "other.co.uk", False),
        ("shop.co.uk", "evil.co.uk", False),
        ("ministry.gouv.fr", "evil.gouv.fr", False),
        ("registry.foo.ck", "evil.ck", False),
        ("registry.example.com", "example.com.evil.net", False),
        ("registry.example.com", "evilexample.com", False),
        ("registry.example.com", "auth.example.org", False),
        ("mine.azurecr.io", "yours.azurecr.io", False),
        ("one.github.io", "other.github.io", False),
        ("one.github.io", "github.io", False),
        ("mine.netlify.app", "evil.netlify.app", False),
        ("mine.k8s.fr-par.scw.cloud", "evil.k8s.fr-par.scw.cloud", False),
        ("mine.duckdns.org", "evil.duckdns.org", False),
        ("mine.ts.net", "evil.ts.net", False),
        ("mine.tail.ts.net", "evil.ts.net", False),
        ("mine.westeurope.cloudapp.azure.com", "evil.westeurope.cloudapp.azure.com", False),
        ("mine.westeurope.cloudapp.azure.com", "evil.azure.com", False),
        ("registry.uk.com", "evil.uk.com", False),
        ("com", "evil.com", False),
        ("example.com", "docker.io", False),
        # Names that no registry of domains knows: only upwards and downwards.
        ("registry.apps.cluster.local", "apps.cluster.local", True),
        ("apps.cluster.local", "registry.apps.cluster.local", True),
        ("registry.one.svc.cluster.local", "registry.other.svc.cluster.local", False),
        ("registry.one.svc.cluster.local", "evil.one.svc.cluster.local", False),
        ("registry.corp", "auth.corp", False),
        ("registry.corp", "corp", False),
        ("registry", "auth", False),
        ("localhost", "evil.localhost", False),
        ("registry.corp", "registry.example.com", False),
        ("192.0.2.1", "192.0.2.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "0.0.1", False),
        ("::1", "::2", False),
    ],
)
def test_same_site(registry: str, host: str, *, belongs: bool) -> None:
    assert is_same_site(registry, host) is belongs


@pytest.mark.demand("AUTH-realm-cross-host")
@given(NAMES, NAMES)
def test_a_site_is_one_from_both_sides(one: str, other: str) -> None:
    assert is_same_site(one, other) is is_same_site(other, one)


@pytest.mark.demand("AUTH-realm-cross-host")
@given(NAMES, NAMES)
def test_nobody_gets_credentials_by_a_name_that_only_begins_or_ends_alike(registry: str, other: str) -> None:
    registry = f"{registry}.example.com"
    for host in (
        f"{registry}.{other}.test",
        f"{other}-{registry}.test",
        f"x{registry}".replace(".example", "xexample"),
    ):
        assert not TokenRealms().may_have_credentials(registry, realm(host))


@pytest.mark.parametrize(
    ("registry", "host"),
    [
        ("registry-1.docker.io", "auth.docker.io"),
        ("registry.hub.docker.com", "auth.docker.io"),
        ("rg.fr-par.scw.cloud", "api.scaleway.com"),
        ("rg.nl-ams.scw.cloud", "api.scaleway.com"),
        ("nvcr.io", "authn.nvidia.com"),
        ("registry.redhat.io", "sso.redhat.com"),
        ("registry.rancher.com", "scc.suse.com"),
        ("lscr.io", "ghcr.io"),
        ("registry.ollama.ai", "ollama.com"),
    ],
)
def test_known_services_in_other_domains(registry: str, host: str) -> None:
    assert TokenRealms().may_have_credentials(registry, realm(host))


# As the registries of the field send them.
CHALLENGES = {
    "registry-1.docker.io": 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io"',
    "quay.io": 'Bearer realm="https://quay.io/v2/auth",service="quay.io"',
    "ghcr.io": 'Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:user/image:pull"',
    "lscr.io": 'Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:linuxserver/radarr:pull"',
    "gcr.io": 'Bearer realm="https://gcr.io/v2/token",service="gcr.io"',
    "us-docker.pkg.dev": 'Bearer realm="https://us-docker.pkg.dev/v2/token"',
    "public.ecr.aws": 'Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws"',
    "mine.azurecr.io": 'Bearer realm="https://mine.azurecr.io/oauth2/token",service="mine.azurecr.io"',
    "registry.digitalocean.com": 'Bearer realm="https://api.digitalocean.com/v2/registry/auth",service="registry"',
    "us.icr.io": 'Bearer realm="https://us.icr.io/oauth/token",service="registry"',
    "uk-london-1.ocir.io": 'Bearer realm="https://uk-london-1.ocir.io/12345678/docker/token",service="x",scope=""',
    "container-registry.oracle.com": 'Bearer realm="https://container-registry.oracle.com/auth",service="Oracle"',
    "registry.cn-hangzhou.aliyuncs.com": 'Bearer realm="https://dockerauth.cn-hangzhou.aliyuncs.com/auth",'
    'service="registry.aliyuncs.com:cn-hangzhou:26842"',
    "crpi-x.cn-hangzhou.personal.cr.aliyuncs.com": 'Bearer realm="https://dockerauth.cn-hangzhou.aliyuncs.com/auth"',
    "ccr.ccs.tencentyun.com": 'Bearer realm="https://ccr.ccs.tencentyun.com/service/token",service="token-service"',
    "swr.cn-north-4.myhuaweicloud.com": 'Bearer realm="https://swr.cn-north-4.myhuaweicloud.com/swr/auth/v2/registry/auth",'
    'service="dockyard"',
    "rg.fr-par.scw.cloud": 'Bearer realm="https://api.scaleway.com/registry-internal/v1/regions/fr-par/tokens",'
    'service="registry"',
    "x.gra7.container-registry.ovh.net": 'Bearer realm="https://x.gra7.container-registry.ovh.net/service/token"',
    "registry.redhat.io": 'Bearer realm="https://sso.redhat.com/auth/realms/rhcc/protocol/redhat-docker-v2/auth",'
    'service="docker-registry"',
    "registry.connect.redhat.com": 'Bearer realm="https://sso.redhat.com/auth/realms/rhc4tp/protocol/docker-v2/auth"',
    "nvcr.io": 'Bearer realm="https://nvcr.io/proxy_auth?scope=repository:nvidia/cuda:pull,push"',
    "registry.gitlab.com": 'Bearer realm="https://gitlab.com/jwt/auth",service="container_registry"',
    "docker.elastic.co": 'Bearer realm="https://docker-auth.elastic.co/auth",service="token-service"',
    "registry.suse.com": 'Bearer realm="https://scc.suse.com/api/registry/authorize",service="SUSE Linux"',
    "acme.jfrog.io": 'Bearer realm="https://acme.jfrog.io/artifactory/api/docker/docker/v2/token",service="acme.jfrog.io"',
    "docker.cloudsmith.io": 'Bearer realm="https://docker.cloudsmith.io/v2/token",service="docker.cloudsmith.io"',
    "codeberg.org": 'Bearer realm="https://codeberg.org/v2/token",service="container_registry",scope="*"',
    "harbor.corp.example.de": 'Bearer realm="https://harbor.corp.example.de/service/token",service="harbor-registry"',
    "pulp.example.org": 'Bearer realm="https://pulp.example.org/token/",service="pulp.example.org"',
    "registry2.balena-cloud.com": 'Bearer realm="https://api.balena-cloud.com/auth/v1/token",service="registry2"',
}


@pytest.mark.parametrize("registry", CHALLENGES)
def test_the_registries_of_the_field_get_their_credentials(registry: str) -> None:
    (challenge,) = parse_challenges([CHALLENGES[registry]])
    assert challenge.scheme == "bearer"
    assert TokenRealms().may_have_credentials(registry, parse_target(challenge.parameters["realm"]).origin)


@pytest.mark.demand("AUTH-realm-cross-host")
@pytest.mark.parametrize(
    ("registry", "host"),
    [
        ("registry.example.com", "auth.docker.io"),
        ("registry.example.com", "api.scaleway.com"),
        ("rg.fr-par.evil.scw.cloud", "api.scaleway.com"),
        ("xrg.fr-par.scw.cloud", "api.scaleway.com"),
        ("nvcr.io", "evil.nvidia.com"),
        ("nvcr.io", "authn.nvidia.com.evil.test"),
        ("ghcr.io", "lscr.io"),
    ],
)
def test_a_known_service_is_one_for_its_own_registries_only(registry: str, host: str) -> None:
    assert not TokenRealms().may_have_credentials(registry, realm(host))


def test_the_administrator_names_others() -> None:
    named = TokenRealms(frozenset({"auth.test", "other.test:8443", "[::1]"}))
    assert named.may_have_credentials("registry.example.com", realm("auth.test"))
    assert named.may_have_credentials("registry.example.com", realm("auth.test", 444))
    assert named.may_have_credentials("registry.example.com", realm("other.test", 8443))
    assert named.may_have_credentials("registry.example.com", realm("::1", 8443))
    assert not named.may_have_credentials("registry.example.com", realm("other.test"))
    assert not named.may_have_credentials("registry.example.com", realm("sub.auth.test"))


def test_each_line_of_the_data_has_its_source() -> None:
    assert all(set(each) == {"registries", "realm", "source"} for each in DATA["service"])
    assert all(set(each) == {"rule", "source"} for each in DATA["shared"])
    assert all(each["source"].startswith("https://") for each in (*DATA["service"], *DATA["shared"]))


@pytest.fixture
def _fresh_list() -> Iterator[None]:
    realms._public_suffixes.cache_clear()
    yield
    realms._public_suffixes.cache_clear()


@pytest.mark.usefixtures("_fresh_list")
def test_without_the_systems_list_the_librarys_is_used_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(realms, "SYSTEM_LIST", tmp_path / "none")
    assert is_same_site("registry.example.de", "auth.example.de")
    assert not is_same_site("one.github.io", "other.github.io")
    assert len(caplog.messages) == 1
    assert "publicsuffix" in caplog.text


@pytest.mark.usefixtures("_fresh_list")
def test_without_any_list_nobody_is_beside_a_registry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(realms, "SYSTEM_LIST", tmp_path / "none")
    monkeypatch.setattr("publicsuffix2.PSL_FILE", str(tmp_path / "none"))
    assert not is_same_site("registry.example.de", "auth.example.de")
    assert is_same_site("registry.gitlab.example.de", "gitlab.example.de")
    assert "no public suffix list" in caplog.text


@pytest.mark.usefixtures("_fresh_list")
def test_the_systems_list_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("// a comment\nde\n\nexample.de\n")
    monkeypatch.setattr(realms, "SYSTEM_LIST", tmp_path / "list")
    assert not is_same_site("registry.example.de", "auth.example.de")
    assert is_same_site("registry.other.de", "auth.other.de")
