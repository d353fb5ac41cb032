"""Random challenges: both find their way to a token or a login, and ask for the same scope."""

from __future__ import annotations

import json
import random
from base64 import b64encode
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.generated import Bench, Result, answer_image, check, some
from tests.support.layouts import StoredImage, single_image
from tests.support.upstream import Connection, ReceivedRequest

LOGIN = "Basic " + b64encode(b"somebody:secret").decode()
TOKEN = "a-token"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredImage:
    return single_image(tmp_path_factory.mktemp("layout"))


def make_parameters(dice: random.Random) -> str:
    """Of a Bearer challenge, in any order and form."""
    made = [f'realm="http://$a/{dice.choice(["token", "service/token", "token?x=1"])}"']
    made += some(dice, (6, ['service="the registry"']), (1, ["service=registry"]), (1, ['service=""']), (1, []))
    made += some(
        dice,
        (6, []),
        (2, ['scope="repository:os:pull"']),
        (1, ['scope="repository:other:pull"']),
        (1, ['scope="repository:os:pull,push"']),
        (1, ['scope="repository:os:pull repository:more:pull"']),
    )
    made += some(dice, (8, []), (1, ['error="invalid_token"']), (1, ['error="insufficient_scope"']), (1, ["x=y"]))
    if dice.random() < 0.2:
        dice.shuffle(made)
    return str(some(dice, (8, ","), (2, ", "), (1, " , "))).join(made)


def make_challenge(dice: random.Random) -> str:
    return str(
        some(
            dice,
            (10, f"Bearer {make_parameters(dice)}"),
            (1, f"bearer {make_parameters(dice)}"),
            (1, f"BEARER  {make_parameters(dice)}"),
            (4, 'Basic realm="here"'),
            (1, "Basic realm=here"),
            (1, "basic"),
            (1, 'Basic realm="a \\"quoted\\" one", charset="UTF-8"'),
            (1, "Negotiate"),
            (1, 'Digest realm="x", nonce="y"'),
            (1, "Bearer"),
            (1, 'Bearer realm="'),
            (1, ""),
        )
    )


def test_the_same_way_in_is_found(bench: Bench, dice: random.Random, stored: StoredImage) -> None:
    challenges = [make_challenge(dice) for _ in range(some(dice, (8, 1), (2, 2), (1, 3)))]
    header = some(dice, (4, "lines"), (1, "one line"))
    accepts = some(dice, (3, "tokens"), (1, "logins"), (2, "both"))
    at_the_door = some(dice, (8, 401), (1, 200), (1, 403), (1, 404))
    has_login, gives = dice.random() < 0.5, some(dice, (8, "token"), (3, "access_token"), (1, "nothing"), (1, "401"))
    asked: list[str] = []
    documents = {digest: ("", content) for digest, content in stored.blobs.items()}
    documents["1"] = (stored.descriptor["mediaType"], stored.manifest)

    def give_token(request: ReceivedRequest, connection: Connection) -> None:
        query = parse_qs(urlsplit(request.target).query or request.body.decode())
        scope = ",".join(query.get("scope", []))
        login = "somebody" if request.headers.get("authorization") == LOGIN or "password" in query else "nobody"
        asked.append(f"token for {scope} at {','.join(query.get('service', []))} by {login}")
        if gives == "401" or (has_login and login == "nobody"):
            connection.answer(401, b"{}")
        else:
            connection.answer(200, json.dumps({gives: TOKEN, "expires_in": 300}).encode())

    def answer(_: str, request: ReceivedRequest, connection: Connection) -> None:
        authorization = request.headers.get("authorization", "")
        if request.path.endswith("/token"):
            give_token(request, connection)
            return
        is_in = (authorization == f"Bearer {TOKEN}" and accepts != "logins") or (
            authorization == LOGIN and accepts != "tokens"
        )
        if is_in:
            answer_image(request, connection, documents)
            return
        filled = [bench.fill_in(challenge) for challenge in challenges]
        values = filled if header == "lines" else [", ".join(filter(None, filled))]
        status = at_the_door if request.path == "/v2/" else 401
        lines = "".join(f"WWW-Authenticate: {value}\r\n" for value in values if status in {401, 403})
        connection.send(f"HTTP/1.1 {status} Some Status\r\n{lines}Content-Length: 2\r\n\r\n{{}}".encode())

    def report(result: Result) -> str:
        told = "; ".join([str(result), *dict.fromkeys(asked)])
        asked.clear()
        return told

    case: dict[str, Any] = {
        "challenges": "\n".join(challenges),
        "header": header,
        "door": at_the_door,
        "accepts": accepts,
    }
    case |= {"login": "has one" if has_login else "has none", "gives": gives}
    with bench.registries(answer):
        bench.write("registries.conf", '[[registry]]\nlocation = "$a"\ninsecure = true\n')
        auths = {"$a": {"auth": b64encode(b"somebody:secret").decode()}} if has_login else {}
        bench.write("auth.json", json.dumps({"auths": auths}))
        theirs = bench.ask_skopeo("$a/os:1")
        seen = report(theirs)
        ours = bench.ask_us("$a/os:1")
        check("challenges", bench, case, seen, report(ours), (theirs, ours))
