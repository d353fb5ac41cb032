"""docker-registry as sites run it, behind nginx: TLS, client certificates, storage elsewhere, rate limits; through the
real daemon, which knows nothing but the host's files.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.support.authority import Authority
from tests.support.daemon import RunningDaemon
from tests.support.host import Host, fetch_image
from tests.support.layouts import StoredImage, single_image
from tests.support.nginx import LoggedRequest, Nginx, needs_nginx, nginx, tls
from tests.support.registries import PASSWORD, USER, docker_registry, free_port, needs_docker_registry
from tests.support.waiting import await_true

pytestmark = [needs_nginx, needs_docker_registry]

STORAGE_HOST = "127.0.0.2"
ATTEMPTS = 8  # more at a time than the limits let through
KINDS = (
    "open", "untrusted", "for-clients", "for-strangers", "elsewhere", "downgrade", "slow-down", "overloaded",
)  # fmt: skip
STORAGES = ("storage", "plain-storage")


@dataclass(frozen=True)
class Site:
    """Everything runs; ``ports`` by the kind of server."""

    stored: StoredImage
    ports: dict[str, int]
    nginx: Nginx
    daemon: RunningDaemon


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    place = tmp_path_factory.mktemp("site")
    stored = single_image(place / "layout")
    authority = Authority(place)
    ports = {kind: free_port() for kind in KINDS} | {kind: free_port(STORAGE_HOST) for kind in STORAGES}
    host = Host(place / "host")
    domains = {kind: f"127.0.0.1:{ports[kind]}" for kind in KINDS}
    for kind in set(KINDS) - {"untrusted"}:
        host.trust(domains[kind], authority.certificate, authority.issue("a-host") if kind == "for-clients" else None)
    host.write_credentials(dict.fromkeys(domains.values(), (USER, PASSWORD)))
    with docker_registry(place / "registry", htpasswd=True) as registry:
        registry.push(place / "layout", "os:1")
        servers = configuration(registry.authority, ports, authority)
        listening = [*domains.values(), *(f"{STORAGE_HOST}:{ports[kind]}" for kind in STORAGES)]
        images = {kind: f"docker://{domain}/os:1" for kind, domain in domains.items()}
        with nginx(place / "nginx", servers, await_at=listening) as server, host.daemon(images) as daemon:
            yield Site(stored, ports, server, daemon)


def configuration(registry: str, ports: dict[str, int], authority: Authority) -> str:
    """nginx's servers: those that are registries to the world, and two that are storage behind them."""
    secure = tls(authority.issue("127.0.0.1"))
    forward = f"location / {{ proxy_pass http://{registry}; proxy_set_header Host $http_host;"
    login = "proxy_set_header Authorization 'Basic c29tZWJvZHk6Y29ycmVjdCBob3JzZQ==';"
    demand = f"ssl_client_certificate {authority.certificate}; ssl_verify_client on;"
    more = {
        "for-clients": demand,
        "for-strangers": demand,
        "elsewhere": redirect_blobs(f"https://{STORAGE_HOST}:{ports['storage']}"),
        "downgrade": redirect_blobs(f"http://{STORAGE_HOST}:{ports['plain-storage']}"),
        "slow-down": "limit_req zone=first burst=1 nodelay; limit_req_status 429; add_header Retry-After 1 always;",
        "overloaded": "limit_req zone=second burst=1 nodelay; limit_req_status 503;",
    }
    zones = "".join(f"limit_req_zone $server_port zone={zone}:1m rate=20r/s;\n" for zone in ("first", "second"))
    registries = "".join(
        f"server {{ listen 127.0.0.1:{ports[kind]} ssl; {secure} {more.get(kind, '')} {forward} }} }}\n"
        for kind in KINDS
    )
    storage = tls(authority.issue(STORAGE_HOST))
    return (
        f"{zones}{registries}"
        f"server {{ listen {STORAGE_HOST}:{ports['storage']} ssl; {storage} {forward} {login} }} }}\n"
        f"server {{ listen {STORAGE_HOST}:{ports['plain-storage']}; {forward} {login} }} }}\n"
    )


def redirect_blobs(target: str) -> str:
    return f"location ~ ^/v2/.+/blobs/ {{ return 307 {target}$request_uri; }}"


@pytest.mark.demand("TLS-basics")
def test_an_image_arrives_over_tls_with_the_sites_own_authority(site: Site) -> None:
    assert fetch_image(site.daemon, "open") == site.stored.blobs
    assert {request.status for request in site.nginx.requests(site.ports["open"])} <= {200, 401}


@pytest.mark.demand("TLS-basics")
def test_an_authority_that_the_host_does_not_know_is_refused_by_name(site: Site) -> None:
    reply = site.daemon.get("/images/untrusted/manifest")
    assert (reply.status, reply.json["phase"], reply.json["retryable"]) == (502, "connect", False)
    assert "its certificate is not trusted" in reply.json["detail"]
    assert reply.json["endpoint"] == f"127.0.0.1:{site.ports['untrusted']}"
    assert site.nginx.requests(site.ports["untrusted"]) == []


def test_a_client_certificate_from_certs_d_opens_the_door(site: Site) -> None:
    assert fetch_image(site.daemon, "for-clients") == site.stored.blobs
    assert {request.client for request in site.nginx.requests(site.ports["for-clients"])} == {"CN=a-host"}


def test_without_the_client_certificate_the_error_says_who_refused_what(site: Site) -> None:
    reply = site.daemon.get("/images/for-strangers/manifest")
    members = {name: reply.json[name] for name in ("phase", "endpoint", "upstream_status", "retryable")}
    endpoint = f"127.0.0.1:{site.ports['for-strangers']}"
    assert members == {"phase": "manifest", "endpoint": endpoint, "upstream_status": 400, "retryable": False}
    assert reply.status == 502
    assert b"nginx" not in reply.body


@pytest.mark.demand("AUTH-redirect-cross-origin")
@pytest.mark.demand("redirect-cdn")
def test_storage_elsewhere_serves_the_blobs_and_never_sees_the_login(site: Site) -> None:
    assert fetch_image(site.daemon, "elsewhere") == site.stored.blobs
    asked = site.nginx.requests(site.ports["elsewhere"])
    assert any(request.authorization for request in asked)

    def delivered() -> list[LoggedRequest]:
        return site.nginx.requests(site.ports["storage"])

    # nginx logs a request once it is done with it, which the client need not wait for.
    digests = set(site.stored.blobs)
    await_true(lambda: {request.path.rpartition("/")[2] for request in delivered()} == digests, "all of the blobs")
    assert {request.authorization for request in delivered()} == {""}


@pytest.mark.demand("AUTH-redirect-cross-origin")
def test_storage_without_tls_is_not_even_asked(site: Site) -> None:
    assert site.daemon.get("/images/downgrade/manifest").status == 200
    reply = site.daemon.get(f"/images/downgrade/blobs/{site.stored.layer_digests[0]}")
    assert (reply.status, reply.json["phase"]) == (502, "blob")
    assert "redirects from https to http" in reply.json["detail"]
    assert site.nginx.requests(site.ports["plain-storage"]) == []


@pytest.mark.demand("429-retry-after")
@pytest.mark.demand("5xx-then-ok")
@pytest.mark.parametrize(("kind", "refusal"), [("slow-down", 429), ("overloaded", 503)])
def test_a_rate_limit_costs_time_and_no_transfer(site: Site, kind: str, refusal: int) -> None:
    with ThreadPoolExecutor(ATTEMPTS) as pool:
        received = list(pool.map(lambda _: fetch_image(site.daemon, kind), range(ATTEMPTS)))
    assert received == [site.stored.blobs] * ATTEMPTS
    assert refusal in {request.status for request in site.nginx.requests(site.ports[kind])}, "the limit was never met"
