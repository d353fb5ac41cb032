"""What one is given in confidence does not reach others: secrets no log and no answer, private blobs no other user."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path

import pytest

from tests.support.daemon import write_instance
from tests.support.host import Host, fetch_image
from tests.support.layouts import Layout, layer_tar
from tests.support.privilege import needs_root, status_for
from tests.support.registries import decode_basic
from tests.support.upstream import Connection, Handler, ReceivedRequest, Upstream, answering, by_path, image

LOGIN = ("somebody", "the-password")
TOKEN = "the-token"
SECRETS = {
    "password": LOGIN[1],
    "encoded login": b64encode(":".join(LOGIN).encode()).decode(),
    "token": TOKEN,
    "user information": "the-userinfo",
    "signature of a link": "the-signature",
    "body of an error": "the-error-body",
}
STRANGER = 54321


def registry(routes: dict[str, Handler], *, realm: str) -> Handler:
    """Wants a token from the realm for everything."""
    serve = by_path(routes)

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        if request.path == "/token":
            known = decode_basic(request.headers["authorization"]) == ":".join(LOGIN)
            body = {"token": TOKEN} if known else {"details": SECRETS["body of an error"]}
            connection.answer(200 if known else 401, json.dumps(body).encode())
        elif request.headers.get("authorization") == f"Bearer {TOKEN}":
            serve(request, connection)
        else:
            here = realm.replace("HERE", request.headers["host"])
            connection.answer(401, headers={"WWW-Authenticate": f'Bearer realm="{here}",service="test"'})

    return handle


def leaks(text: str) -> list[str]:
    return [name for name, secret in SECRETS.items() if secret in text]


@pytest.mark.demand("AUTH-logs")
@pytest.mark.demand("AUTH-userinfo-url")
def test_no_secret_reaches_the_log_or_an_answer(tmp_path: Path) -> None:
    """A login, a token, links with secrets, and whatever can go wrong with them; all that is ever logged is."""
    stored = Layout(tmp_path / "layout").image([layer_tar({str(number): b""}) for number in range(3)])
    refused, elsewhere, _ = stored.layer_digests
    error = SECRETS["body of an error"].encode()
    user = f"user:{SECRETS['user information']}"
    with Upstream(answering(200, error, {"Content-Encoding": "x"}), host="127.0.0.2") as storage:
        link = f"http://{user}@{storage.authority}/x?sig={SECRETS['signature of a link']}"
        routes = image(stored, tag="1") | {
            f"/blobs/{refused}": answering(400, error, {"Warning": f'199 - "{SECRETS["body of an error"]}"'}),
            f"/blobs/{elsewhere}": answering(307, headers={"Location": link}),
        }
        with Upstream(registry(routes, realm=f"http://{user}@HERE/token")) as upstream:
            host = Host(tmp_path / "host")
            host.write_registries(f'[[registry]]\nlocation = "{upstream.authority}"\ninsecure = true\n')
            host.write_credentials({upstream.authority: LOGIN, f"{upstream.authority}/wrong": ("x", LOGIN[1])})
            images = {name: f"docker://{upstream.authority}/{name}:1" for name in ("os", "wrong")}
            targets = ["/images/wrong/manifest", *(f"/images/os/blobs/{digest}" for digest in stored.layer_digests)]
            with host.daemon(images, "--log-level=debug") as daemon:
                replies = [daemon.get(target) for target in targets]
                log = daemon.log_text()
    assert [reply.status for reply in replies] == [502, 502, 502, 200]
    assert storage.requests
    assert str(host.authfile) in replies[0].json["detail"]
    assert leaks("".join(map(str, replies))) == []
    assert leaks(log) == []


@needs_root
@pytest.mark.demand("cache-cross-user")
def test_a_blob_that_one_user_fetched_is_not_anothers(tmp_path: Path) -> None:
    stored = {name: Layout(tmp_path / name).image([layer_tar({name: b""})]) for name in ("private", "public")}
    routes = {f"/{name}{end}": handler for name, one in stored.items() for end, handler in image(one, "1").items()}
    with Upstream(by_path(routes)) as upstream:
        host = Host(tmp_path / "host")
        host.write_registries(f'[[registry]]\nlocation = "{upstream.authority}"\ninsecure = true\n')
        access = f"[images.public.access]\nusers = [0, {STRANGER}]\n"
        write_instance(host.directory / "config" / "test.toml.d", "access", access)
        images = {name: f"docker://{upstream.authority}/{name}:1" for name in stored}
        with host.daemon(images) as daemon:
            assert {name: fetch_image(daemon, name) for name in stored} == {n: one.blobs for n, one in stored.items()}
            asked = len(upstream.requests)
            secret = stored["private"].layer_digests[0]
            for target, status in {
                "/images/private/manifest": "403",
                f"/images/private/blobs/{secret}": "403",
                f"/images/public/blobs/{secret}": "404",
                f"/images/public/blobs/{stored['public'].layer_digests[0]}": "200",
            }.items():
                assert status_for(STRANGER, daemon, target) == status, target
    assert [path for path in upstream.paths()[asked:] if "private" in path or secret in path] == []
