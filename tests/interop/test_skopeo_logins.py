"""Logins that a generator makes up, for skopeo and for us: who is let in there is let in here, with the same login.

A case is a registry (where it challenges, and by which lines), its token service, and an entry of auth.json. What only
we understand is marked where it is made; without such a mark the outcomes have to be the same. A seed makes a case, and
a failure shows it.
"""

from __future__ import annotations

import base64
import json
import random
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from container_image_proxy.config.certificates import CertificateDirectories
from container_image_proxy.config.registries import Registries
from container_image_proxy.errors import Error
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.registry.auth.keychain import load_keychain
from container_image_proxy.registry.client import RegistryClient
from tests.support.contexts import CONTEXT
from tests.support.layouts import StoredImage, single_image
from tests.support.registry_client import LIMITS, FakeClock
from tests.support.requirements import needs_programs
from tests.support.upstream import Connection, ReceivedRequest, Upstream, answering, by_path, image

pytestmark = needs_programs("skopeo")

SEEDS = range(240)
USER, PASSWORD, IDENTITY = "somebody", "pass:word", "the-identity"


def packed(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


LOGIN = f"Basic {packed(USER, PASSWORD)}"
OTHERS = ["Negotiate", 'Digest realm="r", nonce="x", qop="auth"', "NTLM", 'OAuth2 realm="r"']
TOKENS = {"anonymous": "stranger", LOGIN: "user", IDENTITY: "identity"}


@dataclass
class Case:
    """``admits`` are the Authorizations that the registry takes; ``is_ours``, that skopeo need not understand it."""

    seed: int
    lines: list[str] = field(default_factory=list)
    denial: int = 401
    is_hidden: bool = False
    door: int = 401
    admits: set[str | None] = field(default_factory=set)
    issues: set[str] = field(default_factory=set)
    token: dict[str, object] = field(default_factory=dict)
    name: str = "token"
    key: str = "{host}"
    entry: dict[str, object] | None = None
    is_ours: bool = False


class Maker:
    """Makes the case of a seed."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)  # noqa: S311 - no secret
        self.case = Case(seed)

    def make(self) -> Case:
        self._make_registry()
        self._make_token()
        self._make_entry()
        return self.case

    def _sometimes(self, chance: float, *, ours: bool = True) -> bool:
        """Something unusual; ``ours`` if skopeo need not understand it."""
        hit = self.pick.random() < chance
        self.case.is_ours |= hit and ours
        return hit

    def _make_registry(self) -> None:
        case, pick = self.case, self.pick
        basic = self._challenge("Basic", realm=pick.choice(["r", "Sonatype Nexus Repository Manager"]))
        bearer = self._challenge("Bearer", **self._bearer_parameters())
        case.lines = pick.choice([[bearer], [basic], [bearer, basic]])
        if pick.random() < 0.3:
            case.lines.insert(0, pick.choice(OTHERS))
        if len(case.lines) > 1 and self._sometimes(0.3):
            case.lines = [", ".join(line.strip(" ,") for line in case.lines)]
        case.issues = set(pick.choice([["anonymous", LOGIN, IDENTITY], [LOGIN, IDENTITY], [LOGIN], [IDENTITY]]))
        offered = " ".join(case.lines).lower()
        if "basic" in offered:
            case.admits.add(LOGIN)
        if "bearer" in offered:
            case.admits |= {f"Bearer {TOKENS[who]}" for who in case.issues}
        if self._sometimes(0.1):  # skopeo logs in first, and fails where that does; we ask first
            case.admits.add(None)
        case.denial = pick.choice([401, 401, 403, 404])
        case.is_hidden = pick.random() < 0.5
        case.door = 200 if pick.random() < 0.1 else 401

    def _bearer_parameters(self) -> dict[str, str]:
        pick = self.pick
        parameters = {"realm": "/token" if self._sometimes(0.04) else "{url}/token"}
        if pick.random() < 0.7:
            parameters["service"] = pick.choice(["s", "registry.example", "SUSE Linux Docker Registry", "a,b"])
        if pick.random() < 0.5:
            parameters["scope"] = pick.choice(
                ["repository:some/image:pull", "aws", "*", "repository:some/image:pull,push"]
            )
        if self._sometimes(0.1):  # skopeo stops at a value that is empty
            parameters["scope"] = ""
        if pick.random() < 0.2:
            parameters["error"] = "invalid_token"
        return parameters

    def _challenge(self, scheme: str, **parameters: str) -> str:
        pick = self.pick
        equals = " = " if self._sometimes(0.05) else "="
        written = []
        for name, value in parameters.items():
            needs_quotes = not value.isalnum() and not ("/" in value and self._sometimes(0.05))
            text = f'"{value}"' if needs_quotes or pick.random() < 0.5 else value
            written.append(pick.choice([name, name, name.upper(), name.title()]) + equals + text)
        pick.shuffle(written)
        comma = ", , " if len(written) > 1 and self._sometimes(0.05) else pick.choice([",", ", ", " , "])
        scheme = pick.choice([scheme, scheme.lower(), scheme.upper()])
        return f"{scheme} {comma.join(written)}{pick.choice(['', '', ',', '  '])}"

    def _make_token(self) -> None:
        case, pick = self.case, self.pick
        case.name = pick.choice(["token", "access_token", "token", "Token"])
        case.token = pick.choice([{}, {"expires_in": 300}, {"issued_at": "2026-01-02T03:04:05Z", "expires_in": 60}])
        if self._sometimes(0.05):
            case.token = pick.choice([{"expires_in": "300"}, {"expires_in": 299.5}, {"issued_at": "yesterday"}])

    def _make_entry(self) -> None:
        case, pick = self.case, self.pick
        entries: list[dict[str, object] | None] = [
            None,
            {},
            {"auth": packed(USER, PASSWORD)},
            {"auth": packed(USER, PASSWORD), "email": "x", "serveraddress": "y"},
            {"auth": packed(USER, PASSWORD), "identitytoken": IDENTITY},
            {"auth": packed("00000000-0000-0000-0000-000000000000", ""), "identitytoken": IDENTITY},
            {"auth": packed(USER, "wrong")},
        ]
        case.entry = pick.choice(entries)
        if self._sometimes(0.1):
            case.entry = pick.choice([{"identitytoken": IDENTITY}, {"username": USER, "password": PASSWORD}])
        case.key = pick.choice(
            ["{host}", "{host}", "{host}/some", "https://{host}/v1/", "http://{host}", "127.0.0.9:1"]
        )


class World:
    """The registry of a case, and both clients before it."""

    def __init__(self, case: Case, stored: StoredImage, directory: Path) -> None:
        self.case = case
        self.directory = directory
        self.routes = by_path(image(stored))
        self.seen: list[str | None] = []
        self.upstream = Upstream(self._handle)

    def _handle(self, request: ReceivedRequest, connection: Connection) -> None:
        authorization = request.headers.get("authorization")
        if request.path == "/token":
            self._issue(request, connection)
        elif request.path == "/v2/":
            self._challenge(connection, self.case.door)
        elif authorization in self.case.admits:
            self.seen.append(authorization)
            self.routes(request, connection)
        elif self.case.is_hidden:
            connection.answer(self.case.denial)
        else:
            self._challenge(connection, 401)

    def _challenge(self, connection: Connection, status: int) -> None:
        lines = [f"WWW-Authenticate: {line.replace('{url}', self.upstream.url)}" for line in self.case.lines]
        connection.send("\r\n".join([f"HTTP/1.1 {status} X", "Content-Length: 0", *lines, "", ""]).encode())

    def _issue(self, request: ReceivedRequest, connection: Connection) -> None:
        form = parse_qs(request.body.decode())
        who = form.get("refresh_token", [request.headers.get("authorization") or "anonymous"])[0]
        if who in self.case.issues:
            document: dict[str, Any] = {self.case.name: TOKENS[who], **self.case.token}
            connection.answer(200, json.dumps(document).encode())
        else:
            answering(401)(request, connection)

    def _authfile(self) -> Path:
        key = self.case.key.format(host=self.upstream.authority)
        path = self.directory / "auth.json"
        path.write_text(json.dumps({"auths": {} if self.case.entry is None else {key: self.case.entry}}))
        path.chmod(0o600)
        return path

    def skopeo(self) -> tuple[bool, str]:
        options = ["--tls-verify=false", "--authfile", str(self._authfile())]
        command = ["skopeo", "inspect", "--raw", *options, f"docker://{self.upstream.authority}/some/image:latest"]
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(self.directory)}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        return done.returncode == 0, done.stderr.strip()[-300:]

    def ours(self) -> tuple[bool, str]:
        environ: dict[str, str] = {}
        client = RegistryClient(
            registries=Registries(),
            keychain=load_keychain(authfile=self._authfile(), environ=environ, home=self.directory, uid=0),
            certificates=CertificateDirectories((self.directory / "certs.d",)),
            limits=LIMITS,
            tls_verify=False,
            environ=environ,
            clock=FakeClock().clock,
        )
        try:
            client.fetch_manifest(CONTEXT, parse_reference(f"{self.upstream.authority}/some/image:latest"))
        except Error as error:
            return False, str(error)
        finally:
            client.close()
        return True, ""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredImage:
    return single_image(tmp_path_factory.mktemp("layout"))


@pytest.mark.parametrize("seed", SEEDS)
def test_whoever_lets_skopeo_in_lets_us_in(seed: int, stored: StoredImage, tmp_path: Path) -> None:
    case = Maker(seed).make()
    world = World(case, stored, tmp_path)
    with world.upstream:
        theirs, their_words = world.skopeo()
        their_logins, world.seen = world.seen, []
        ours, our_words = world.ours()
    told = f"{case}\nskopeo: {theirs} {their_logins} {their_words}\nours: {ours} {world.seen} {our_words}"
    if theirs:
        assert ours, told
    if not case.is_ours:
        assert ours is theirs, told
        assert world.seen[-1:] == their_logins[-1:], told
