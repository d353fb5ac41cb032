"""Random auth.json: both present the same logins to a registry that asks for one, in the same order."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import pytest

from tests.support.generated import Bench, Result, answer_image, check, some
from tests.support.layouts import StoredImage, single_image
from tests.support.registries import decode_basic
from tests.support.upstream import Connection, ReceivedRequest

LOGIN = "somebody:secret"
_KEYS = (
    "$a",
    "$a/team",
    "$a/team/os",
    "$a/tea",
    "$a/team/os:1",
    "$a/team/os/more",
    "$a/",
    "$b",
    "",
    "*.0.1",
    "docker.io",
)
# Of several URLs with one host skopeo takes any: it goes through them in no order.
_URLS = ("http://$a", "https://$a", "https://$a/v1/", "https://$a/v2/", "http://$a/team", "https://$a/team/os")
_HEAD = 'Basic realm="here"'


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredImage:
    return single_image(tmp_path_factory.mktemp("layout"))


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def make_entry(dice: random.Random, number: int) -> Any:
    """What an auth.json may hold for one registry; now and then the right login."""
    login = some(dice, (1, LOGIN), (2, f"user{number}:secret"))
    user, _, password = login.partition(":")
    return some(
        dice,
        (20, {"auth": encode(login)}),
        (2, {"auth": encode(login), "email": "x@example.com"}),
        (2, {"auth": encode(login + "\0\0")}),
        (1, {"auth": encode(f"{login}:more")}),
        (1, {"auth": encode(user)}),
        (1, {"auth": encode(f":{password}")}),
        (1, {"auth": encode(f"{user}:")}),
        (1, {"auth": ""}),
        (1, {"auth": None}),
        (1, {"auth": "!"}),
        (1, {"auth": f"{encode(login)}\n"}),
        (1, {"auth": encode(login).rstrip("=")}),
        (1, {"auth": 5}),
        (1, {}),
        (1, None),
        (1, []),
        (2, {"username": user, "password": password}),
        (2, {"auth": encode(login), "username": "other", "password": "other"}),
        (2, {"auth": encode(login), "identitytoken": "token"}),
        (1, {"identitytoken": "token"}),
        (1, {"AUTH": encode(login)}),
    )


def make_document(dice: random.Random) -> str:
    entries = {
        dice.choice(_KEYS): make_entry(dice, number) for number in range(some(dice, (1, 0), (4, 1), (4, 2), (3, 3)))
    }
    document: Any = {"auths": entries}
    more = some(
        dice,
        (20, {}),
        (1, {"credHelpers": {}}),
        (1, {"credHelpers": {"$b": "none-such"}}),
        (1, {"credHelpers": {"$a": "none-such"}}),
        (1, {"credHelpers": {"$a/team": "none-such"}}),
        (1, {"credsStore": ""}),
        (1, {"HttpHeaders": {"X": "y"}, "psFormat": "x"}),
        (1, {"auths": None}),
    )
    text = json.dumps(document | more)
    return str(some(dice, (30, text), (1, text[:-1]), (1, ""), (1, "[]"), (1, "null"), (1, "{}"), (1, f"{text}\n\n")))


def test_the_same_logins_are_presented(bench: Bench, dice: random.Random, stored: StoredImage) -> None:
    logins: list[str] = []
    documents = {digest: ("", content) for digest, content in stored.blobs.items()}
    documents["1"] = (stored.descriptor["mediaType"], stored.manifest)

    def answer(_: str, request: ReceivedRequest, connection: Connection) -> None:
        authorization = request.headers.get("authorization", "")
        login = decode_basic(authorization) if authorization.startswith("Basic ") else authorization
        if login not in {"", ":"}:  # skopeo answers with an empty login if it has none
            logins.append(login)
        if login != LOGIN:
            connection.answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', {"WWW-Authenticate": _HEAD})
        else:
            answer_image(request, connection, documents)

    def report(result: Result) -> str:
        told = " ".join([str(result), *dict.fromkeys(logins)])
        logins.clear()
        return told

    document, image = make_document(dice), dice.choice(["$a/team/os:1", "$a/os:1"])
    with bench.registries(answer):
        bench.write("registries.conf", '[[registry]]\nlocation = "$a"\ninsecure = true\n')
        bench.write("auth.json", document)
        theirs = bench.ask_skopeo(image)
        seen = report(theirs)
        ours = bench.ask_us(image)
        check("auth", bench, {"image": image, "auth": document}, seen, report(ours), (theirs, ours))
