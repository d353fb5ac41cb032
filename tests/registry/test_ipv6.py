"""A registry by its IPv6 address in brackets: wherever a registry can be named."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from container_image_proxy.config.registries import Registries
from container_image_proxy.config.registries_conf import merge_registries, parse_registries
from container_image_proxy.errors import InvalidReferenceError, RegistryError
from container_image_proxy.image.digest import parse_digest
from container_image_proxy.image.manifest import Descriptor
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.registry.auth.keychain import Credentials
from tests.support.authority import Authority
from tests.support.contexts import CONTEXT
from tests.support.daemon import stand_alone, write_policy
from tests.support.layouts import StoredImage, single_image
from tests.support.names import has_ipv6_loopback
from tests.support.readers import read_all
from tests.support.registry_client import registry_client
from tests.support.upstream import (
    Connection,
    Handler,
    ReceivedRequest,
    Upstream,
    answering,
    by_path,
    image,
    redirecting,
)

pytestmark = pytest.mark.skipif(not has_ipv6_loopback(), reason="this host has no ::1")
LOGIN = f"Basic {base64.b64encode(b'me:hunter2').decode()}"


MIRRORED = """
[[registry]]
location = "example.com"
blocked = true
[[registry.mirror]]
location = "{authority}"
insecure = true
"""


@pytest.fixture
def stored(tmp_path: Path) -> StoredImage:
    return single_image(tmp_path / "layout")


def configured(text: str) -> Registries:
    return merge_registries([parse_registries(text.encode(), "registries.conf")])


def test_the_daemon_serves_an_image_from_an_address(stored: StoredImage, tmp_path: Path) -> None:
    authorization: list[str | None] = []

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        authorization.append(request.headers.get("authorization"))
        if authorization[-1] is None:
            connection.answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        else:
            by_path(image(stored))(request, connection)

    with Upstream(handle, host="::1") as registry:
        scope = f"{registry.authority}/some/image"
        policy = {
            "default": [{"type": "reject"}],
            "transports": {"docker": {scope: [{"type": "insecureAcceptAnything"}]}},
        }
        credentials = tmp_path / "auth.json"
        auth = base64.b64encode(b"me:hunter2").decode()
        credentials.write_text(json.dumps({"auths": {registry.authority: {"auth": auth}}}))
        credentials.chmod(0o600)
        arguments = [
            "--policy",
            str(write_policy(tmp_path, policy)),
            "--authfile",
            str(credentials),
            "--tls-verify=false",
        ]
        with stand_alone(tmp_path / "run", [*arguments, f"docker://{scope}:latest"]) as daemon:
            reply = daemon.get("/manifest")
            assert (reply.status, reply.body) == (200, stored.manifest)
            assert reply.headers["image-reference"] == f"docker://{scope}:latest"
            assert daemon.get(f"/blobs/{stored.layer_digests[0]}").body == stored.layers[0]
        assert set(authorization) == {None, LOGIN}
        assert {request.headers["host"] for request in registry.requests} == {registry.authority}


@pytest.mark.parametrize(
    "template",
    [
        '[[registry]]\nprefix = "example.com"\nlocation = "{authority}"\ninsecure = true\n',
        '[[registry]]\nprefix = "example.com/some"\nlocation = "{authority}/some"\ninsecure = true\n',
        MIRRORED,
    ],
    ids=["location", "location-with-path", "mirror"],
)
def test_it_is_a_location_in_registries_conf(stored: StoredImage, template: str) -> None:
    with Upstream(by_path(image(stored)), host="::1") as registry:
        registries = configured(template.format(authority=registry.authority))
        with registry_client(registries=registries, tls_verify=None) as client:
            assert client.fetch_manifest(CONTEXT, parse_reference("example.com/some/image:latest")) is not None


@pytest.mark.parametrize(
    ("prefix", "location"),
    [
        ("[2001:db8::7]:5000", "[::1]:81"),
        ("[2001:db8::7]:5000/some/image", "[::1]:81/some/image"),
        ("[2001:db8::7]", "[::1]"),
    ],
)
def test_it_is_a_prefix_in_registries_conf(prefix: str, location: str) -> None:
    registries = configured(f'[[registry]]\nprefix = "{prefix}"\nlocation = "{location}"\n')
    (source,) = registries.pull_sources(parse_reference("[2001:db8::7]:5000/some/image:latest"))
    assert source.domain == ("[::1]:81" if ":81" in location else "[::1]:5000")
    assert source.reference.path == "some/image"
    other = parse_reference("[2001:db8::7a]:5000/some/image:latest")
    assert registries.find_registry(other) is None


def test_certs_d_knows_it_by_its_address(stored: StoredImage, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with Upstream(by_path(image(stored)), host="::1", tls=authority.issue("::1").server_context()) as registry:
        reference = parse_reference(f"{registry.authority}/some/image:latest")
        with registry_client(tls_verify=None) as client, pytest.raises(RegistryError, match="not trusted"):
            client.fetch_manifest(CONTEXT, reference)
        directory = tmp_path / "certs.d" / registry.authority
        directory.mkdir(parents=True)
        (directory / "ca.crt").write_bytes(authority.certificate.read_bytes())
        with registry_client(certificates=tmp_path / "certs.d", tls_verify=None) as client:
            assert client.fetch_manifest(CONTEXT, reference) is not None


def login_wanted(handler: Handler, challenge: str, login: str) -> Handler:
    def handle(request: ReceivedRequest, connection: Connection) -> None:
        if request.headers.get("authorization") == login:
            handler(request, connection)
        else:
            connection.answer(401, headers={"WWW-Authenticate": challenge})

    return handle


def test_its_tokens_and_storage_may_be_at_an_address_too(stored: StoredImage) -> None:
    layer = Descriptor("", parse_digest(stored.layer_digests[0]), len(stored.layers[0]))
    with (
        Upstream(answering(200, stored.layers[0]), host="::1") as storage,
        Upstream(answering(500), host="::1") as registry,
    ):
        token = f"http://[0:0:0:0:0:0:0:1]:{registry.port}/token"  # another spelling of the same
        blob = redirecting(f"http://{storage.authority}/blob")
        routes = by_path(image(stored) | {f"/blobs/{layer.digest}": blob})
        protected = login_wanted(routes, f'Bearer realm="{token}"', "Bearer good")
        registry.handler = by_path({"/token": answering(200, b'{"token":"good"}')}, default=protected)
        credentials = {registry.authority: Credentials("me", "hunter2")}
        with registry_client(credentials=credentials) as client:
            reference = parse_reference(f"{registry.authority}/some/image:latest")
            assert client.fetch_manifest(CONTEXT, reference) is not None
            assert read_all(client.open_blob(CONTEXT, reference, layer)) == stored.layers[0]
        (asked,) = (request for request in registry.requests if request.path == "/token")
        assert asked.headers["authorization"] == LOGIN
        assert "authorization" not in storage.requests[0].headers


@pytest.mark.parametrize("domain", ["[1:2]:5000", "[:::]", "registry.example:99999"])
def test_a_name_at_which_nothing_can_be_is_told(domain: str) -> None:
    reference = parse_reference(f"{domain}/some/image:latest")
    with registry_client() as client, pytest.raises(InvalidReferenceError, match="no connection can be made"):
        client.fetch_manifest(CONTEXT, reference)
