"""The same registries.conf and auth.json for skopeo and for us: the hosts contacted in their order, the repositories
and logins there, and the outcome are the same. Where we differ, and mean it, the test says why.

The hosts are addresses of loopback, since skopeo is another process and knows no resolver map. They speak http.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

import pytest

from container_image_proxy.config.certificates import CertificateDirectories
from container_image_proxy.config.registries_conf import load_registries
from container_image_proxy.errors import Error, PolicyRejectedError, RegistryAuthError, UnknownManifestError
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.registry.auth.keychain import load_keychain
from container_image_proxy.registry.client import RegistryClient
from tests.support.contexts import CONTEXT
from tests.support.host import Host
from tests.support.layouts import StoredImage, single_image
from tests.support.registries import decode_basic
from tests.support.registry_client import LIMITS, FakeClock
from tests.support.requirements import needs_programs
from tests.support.upstream import Connection, Handler, ReceivedRequest, Upstream

pytestmark = needs_programs("skopeo")

HOSTS = {"a": "127.0.0.1", "b": "127.0.0.2", "c": "127.0.0.3"}
NOBODY = 1  # a port that nobody listens on
LOGIN = ("somebody", "secret")
OTHER = ("somebody-else", "other-secret")
EMPTY_LOGIN = "Basic Og=="  # what skopeo sends for a Basic challenge if it has no credentials; we send none
_MANIFEST = re.compile(r"/v2/(.+)/manifests/")
_MIRRORS = re.compile(r"\(Mirrors also failed: .*\]\): ", re.DOTALL)
_OUTCOMES = {
    "blocked": " is blocked in ",
    "login": "unauthorized|authentication required|invalid username",
    "not found": "manifest unknown",
}


@dataclass(frozen=True)
class Visit:
    """What a host saw: the repository asked for, and the login it came with."""

    host: str
    repository: str
    login: str


@dataclass(frozen=True)
class Report:
    """What came of a pull, and who was visited for it."""

    outcome: str
    visits: Sequence[Visit]


@dataclass(frozen=True)
class Case:
    """One configuration and one pull; ``$a`` to ``$c`` stand for hosts, ``$digest`` for the image's.

    ``hosts``: "has" or "lacks" the image, "private" (has it for ``LOGIN``), "broken" (500), "down" (nobody listens).
    """

    hosts: Mapping[str, str]
    registries: str = ""
    image: str = "$a/os:1"
    credentials: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    no_creds: bool = False


@dataclass
class World:
    """The registries and both clients."""

    host: Host
    stored: StoredImage
    authorities: dict[str, str] = field(default_factory=dict)
    visits: list[Visit] = field(default_factory=list)

    def fill_in(self, text: str) -> str:
        return Template(text).substitute(self.authorities, digest=self.stored.digest)

    @contextlib.contextmanager
    def arranged(self, case: Case) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for letter, address in HOSTS.items():
                self.authorities[letter] = f"{address}:{NOBODY}"
                behaviour = case.hosts.get(letter, "down")
                if behaviour != "down":
                    upstream = Upstream(self._registry(letter, behaviour), host=address)
                    self.authorities[letter] = stack.enter_context(upstream).authority
            self.host.write_registries(self.fill_in(case.registries))
            self.host.write_credentials({self.fill_in(key): login for key, login in case.credentials.items()})
            yield

    def _registry(self, letter: str, behaviour: str) -> Handler:
        def handle(request: ReceivedRequest, connection: Connection) -> None:
            login = decode_basic(request.headers.get("authorization", EMPTY_LOGIN)).strip(":")
            named = _MANIFEST.match(request.path)
            if named:
                self.visits.append(Visit(letter, named[1], login))
            if behaviour == "private" and login != ":".join(LOGIN):
                connection.answer(401, refusal("UNAUTHORIZED"), {"WWW-Authenticate": 'Basic realm="here"'})
            elif not named:
                connection.answer(200, b"{}")
            elif behaviour == "broken":
                connection.answer(500, refusal("UNKNOWN"))
            elif behaviour == "lacks":
                connection.answer(404, refusal("MANIFEST_UNKNOWN"))
            else:
                connection.answer(200, self.stored.manifest, {"Content-Type": self.stored.descriptor["mediaType"]})

        return handle

    def _report(self, outcome: str) -> Report:
        """Each repository of a host once, with its last login, in the order of the first visits."""
        last = {(visit.host, visit.repository): visit for visit in self.visits}
        self.visits.clear()
        return Report(outcome, list(last.values()))

    def ask_skopeo(self, case: Case) -> Report:
        options = ["--no-creds"] if case.no_creds else []
        done = self.host.skopeo("inspect", "--raw", *options, f"docker://{self.fill_in(case.image)}")
        return self._report("ok" if done.returncode == 0 else judge(done.stderr))

    def ask_us(self, case: Case) -> Report:
        files = self.host
        registries = load_registries(path=files.registries_conf, environ={}, home=files.directory, uid=0)
        keychain = load_keychain(
            authfile=files.authfile, environ={}, home=files.directory, uid=0, no_creds=case.no_creds
        )
        client = RegistryClient(
            registries=registries,
            keychain=keychain,
            certificates=CertificateDirectories((files.directory / "certs.d",)),
            limits=LIMITS,
            environ={},
            clock=FakeClock().clock,
        )
        with contextlib.closing(client):
            try:
                client.fetch_manifest(CONTEXT, parse_reference(self.fill_in(case.image)))
            except Error as error:
                return self._report(name_outcome(error))
        return self._report("ok")


def refusal(code: str) -> bytes:
    return f'{{"errors":[{{"code":"{code}","message":"x"}}]}}'.encode()


def judge(stderr: str) -> str:
    """What skopeo's last error, that of the location behind the mirrors, says."""
    error = _MIRRORS.split(stderr)[-1]
    return next((outcome for outcome, words in _OUTCOMES.items() if re.search(words, error)), "failed")


def name_outcome(error: Error) -> str:
    match error:
        case PolicyRejectedError():
            return "blocked"
        case RegistryAuthError():
            return "login"
        case UnknownManifestError():
            return "not found"
    return "failed"


def registry(place: str = "$a", *mirrors: str, prefix: str = "", more: str = "insecure = true") -> str:
    """A [[registry]] table; a mirror may be followed by more keys: ``$b pull-from-mirror = "all"``."""
    table = f'[[registry]]\nlocation = "{place}"\n{more}\n' if place else f"[[registry]]\n{more}\n"
    table += f'prefix = "{prefix}"\n' if prefix else ""
    for mirror in mirrors:
        name, _, keys = mirror.partition(" ")
        table += f'[[registry.mirror]]\nlocation = "{name}"\ninsecure = true\n{keys}\n'
    return table


AGREED = {
    "one-registry": Case({"a": "has"}, registry()),
    "no-such-image": Case({"a": "lacks"}, registry()),
    "http-is-not-spoken-unless-insecure": Case({"a": "has"}),
    "an-insecure-mirror-makes-no-insecure-registry": Case({"a": "has", "b": "lacks"}, registry("$a", "$b", more="")),
    "mirrors-in-their-order": Case({"a": "has", "b": "lacks", "c": "has"}, registry("$a", "$b", "$c")),
    "the-location-comes-last": Case({"a": "has", "b": "lacks", "c": "lacks"}, registry("$a", "$b", "$c")),
    "nobody-has-it": Case({"a": "lacks", "b": "lacks"}, registry("$a", "$b")),
    "a-mirror-is-down": Case({"a": "has", "b": "down"}, registry("$a", "$b")),
    "a-mirror-is-broken": Case({"a": "has", "b": "broken"}, registry("$a", "$b")),
    "a-mirror-in-a-subdirectory": Case({"a": "has", "b": "has"}, registry("$a", "$b/proxy/quay")),
    "a-tag-with-mirrors-for-digests": Case(
        {"a": "has", "b": "has"}, registry("$a", "$b", more="insecure = true\nmirror-by-digest-only = true")
    ),
    "a-digest-with-mirrors-for-digests": Case(
        {"a": "has", "b": "has"},
        registry("$a", "$b", more="insecure = true\nmirror-by-digest-only = true"),
        "$a/os@$digest",
    ),
    "a-tag-and-mirrors-by-use": Case(
        {"a": "has", "b": "has", "c": "has"},
        registry("$a", '$b pull-from-mirror = "digest-only"', '$c pull-from-mirror = "tag-only"'),
    ),
    "a-digest-and-mirrors-by-use": Case(
        {"a": "has", "b": "has", "c": "has"},
        registry("$a", '$b pull-from-mirror = "tag-only"', '$c pull-from-mirror = "digest-only"'),
        "$a/os@$digest",
    ),
    "a-location-in-place-of-a-prefix": Case(
        {"b": "has"}, registry("$b/here", prefix="registry.example.com/there"), "registry.example.com/there/os:1"
    ),
    "the-longest-prefix-counts": Case(
        {"a": "has", "b": "has"},
        registry("$a", prefix="example.com") + registry("$b/of", prefix="example.com/team"),
        "example.com/team/os:1",
    ),
    "a-prefix-ends-with-a-component": Case(
        {"a": "has", "b": "has"},
        registry("$a", prefix="example.com") + registry("$b/of", prefix="example.com/team"),
        "example.com/teamwork/os:1",
    ),
    "a-wildcard-covers-subdomains": Case({"b": "has"}, registry("$b", prefix="*.example.com"), "a.b.example.com/os:1"),
    "a-name-is-longer-than-a-wildcard": Case(
        {"a": "has", "b": "has"},
        registry("$b", prefix="*.example.com") + registry("$a", prefix="one.example.com"),
        "one.example.com/os:1",
    ),
    "blocked": Case({"a": "has"}, registry(more="insecure = true\nblocked = true")),
    "a-blocked-location-behind-a-mirror": Case(
        {"a": "has", "b": "has"}, registry("$a", "$b", more="insecure = true\nblocked = true")
    ),
    "a-login-for-the-host": Case({"a": "private"}, registry(), credentials={"$a": LOGIN, "$b": OTHER}),
    "a-login-for-the-repository": Case(
        {"a": "private"}, registry(), "$a/team/os:1", credentials={"$a": OTHER, "$a/team": OTHER, "$a/team/os": LOGIN}
    ),
    "a-login-for-the-namespace": Case(
        {"a": "private"}, registry(), "$a/team/os:1", credentials={"$a": OTHER, "$a/team": LOGIN, "$a/team/o": OTHER}
    ),
    "a-login-for-another-namespace": Case({"a": "private"}, registry(), credentials={"$a/team": LOGIN}),
    "a-wrong-login": Case({"a": "private"}, registry(), credentials={"$a": OTHER}),
    "no-login": Case({"a": "private"}, registry()),
    "no-login-wanted": Case({"a": "private"}, registry(), credentials={"$a": LOGIN}, no_creds=True),
    "the-login-of-a-registry-is-not-its-mirrors": Case(
        {"a": "private", "b": "private"}, registry("$a", "$b"), credentials={"$a": LOGIN}
    ),
    "a-mirror-has-a-login-of-its-own": Case(
        {"a": "private", "b": "private"}, registry("$a", "$b"), credentials={"$a": OTHER, "$b": LOGIN}
    ),
    "the-login-of-the-place-that-is-contacted": Case(
        {"b": "private"},
        registry("$b/here", prefix="example.com/there"),
        "example.com/there/os:1",
        credentials={"example.com/there": OTHER, "$b/here": LOGIN},
    ),
}

BLOCKED = "insecure = true\nblocked = true"
# containers/image looks for "blocked" where it contacts a host, by the host's own name. Its manual page says that the
# location of a blocked table is not contacted, whatever name led to it; and a mirror that answered "there is no such
# image" has said all there is to say about the image.
DIFFERENT = {
    "a-blocked-prefix-with-another-location": (
        Case({"b": "has"}, registry("$b", prefix="example.com", more=BLOCKED), "example.com/os:1"),
        Report("ok", [Visit("b", "os", "")]),
        Report("blocked", []),
    ),
    "the-mirror-of-a-blocked-location-lacks-it": (
        Case({"a": "has", "b": "lacks"}, registry("$a", "$b", more=BLOCKED)),
        Report("blocked", [Visit("b", "os", "")]),
        Report("not found", [Visit("b", "os", "")]),
    ),
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(Host(tmp_path / "host"), single_image(tmp_path / "layout"))


@pytest.mark.parametrize("case", AGREED.values(), ids=AGREED.keys())
def test_we_contact_whom_skopeo_contacts_and_come_to_its_conclusion(world: World, case: Case) -> None:
    with world.arranged(case):
        theirs = world.ask_skopeo(case)
        assert world.ask_us(case) == theirs


@pytest.mark.demand("BLOCK-semantics")
@pytest.mark.parametrize(("case", "theirs", "ours"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_where_we_differ_we_mean_it(world: World, case: Case, theirs: Report, ours: Report) -> None:
    with world.arranged(case):
        assert (world.ask_skopeo(case), world.ask_us(case)) == (theirs, ours)
