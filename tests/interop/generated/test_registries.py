"""Random registries.conf with drop-ins: both ask the same hosts for the same repositories, and get the image or not."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest

from tests.support.generated import NOBODY, Bench, Result, answer_image, check, some
from tests.support.layouts import StoredImage, single_image
from tests.support.upstream import Connection, ReceivedRequest

_MANIFEST = re.compile(r"/v2/(.+)/manifests/(.+)")
_IMAGES = (
    *("$a/team/os:1", "$b/os:1", f"{NOBODY}/team/os:1", f"{NOBODY}/os:1", f"{NOBODY}/team/os@$digest"),
    f"{NOBODY}:5000/os:1",
)
_WILDCARDS = ("*.0.0.5", "*.0.5", "*.5")
_PREFIXES = ("", NOBODY, f"{NOBODY}/te", f"{NOBODY}/os", f"{NOBODY}:5000", "$a", "$a/team", "$b", *_WILDCARDS)
_PLACES = ("$a", "$b", "$c", "$a/team", "$b/x/y", "$c/")
_ODD_PLACES = (f"{NOBODY}:1", NOBODY, "$a/os:2", "", "http://$a", "dotless")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredImage:
    return single_image(tmp_path_factory.mktemp("layout"))


def key(name: str, value: object) -> str:
    return f"{name} = {json.dumps(value)}\n"


def make_place(dice: random.Random) -> str:
    return str(dice.choice(_PLACES if dice.random() < 0.97 else _ODD_PLACES))


def make_mirror(dice: random.Random, tail: str) -> str:
    text = "[[registry.mirror]]\n" + key("location", make_place(dice) + tail)
    text += key("insecure", some(dice, (30, True), (1, False)))
    if dice.random() < 0.2:
        text += key(
            "pull-from-mirror", some(dice, (3, "all"), (3, "digest-only"), (3, "tag-only"), (1, ""), (1, "none"))
        )
    return text


def make_prefix(dice: random.Random, image: str) -> str:
    """Most often one that covers the image."""
    if dice.random() < 0.3:
        return str(dice.choice(_PREFIXES))
    name = image.partition("@")[0]
    name = name.rpartition(":")[0] if "/" not in name.rpartition(":")[2] else name
    parts = name.split("/")
    covering = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return str(some(dice, (12, dice.choice(covering)), (2, dice.choice(_WILDCARDS)), (1, image), (1, f"{parts[0]}/")))


def make_table(dice: random.Random, image: str) -> str:
    text = "[[registry]]\n"
    prefix = make_prefix(dice, image) if dice.random() < 0.9 else None
    text += key("prefix", prefix) if prefix is not None else ""
    tail = "/app" if prefix is not None and "/os" in prefix else ""  # a repository is needed in its place
    if dice.random() < 0.98:
        text += key("location", make_place(dice) + tail)
    text += key("insecure", some(dice, (30, True), (1, False)))
    text += key("blocked", some(dice, (2, True), (1, False))) if dice.random() < 0.15 else ""
    text += key("mirror-by-digest-only", dice.random() < 0.5) if dice.random() < 0.1 else ""
    text += some(dice, (60, ""), (1, key("Location", "$b")), (2, key("x", 1)), (1, key("insecure", "yes")))
    return text + "".join(make_mirror(dice, tail) for _ in range(some(dice, (4, 0), (3, 1), (2, 2), (1, 3))))


def make_file(dice: random.Random, image: str, tables: int) -> str:
    head = some(
        dice,
        (60, ""),
        (1, "unqualified-search-registries = []\n"),
        (1, 'unqualified-search-registries = ["x.example"]\n'),
        (1, 'short-name-mode = "permissive"\n'),
        (1, 'short-name-mode = "sometimes"\n'),
        (1, "credential-helpers = []\n"),
        (1, "unknown = 1\n"),
    )
    foot = some(
        dice,
        (70, ""),
        (1, '[registries.insecure]\nregistries = ["$a"]\n'),
        (1, "[registries.search]\nregistries = []\n"),
        (1, "[registries.search]\n"),
        (1, '[aliases]\n"x" = "x.example/x"\n'),
        (1, "[aliases]\n"),
    )
    return head + "".join(make_table(dice, image) for _ in range(tables)) + foot


def test_the_same_hosts_are_asked(bench: Bench, dice: random.Random, stored: StoredImage) -> None:
    visits: list[str] = []
    behaviours = {letter: some(dice, (6, "has"), (1, "lacks"), (1, "broken")) for letter in "abc"}

    def answer(letter: str, request: ReceivedRequest, connection: Connection) -> None:
        if named := _MANIFEST.match(request.path):
            visits.append(f"{letter}/{named[1]}" + (f":{named[2]}" if ":" not in named[2] else ""))
            if behaviours[letter] != "has":
                connection.answer(404 if behaviours[letter] == "lacks" else 500, b"{}")
                return
            connection.answer(200, stored.manifest, {"Content-Type": stored.descriptor["mediaType"]})
            return
        answer_image(request, connection, {digest: ("", content) for digest, content in stored.blobs.items()})

    def report(result: Result) -> str:
        told = " ".join([str(result), *dict.fromkeys(visits)])
        visits.clear()
        return told

    bench.authorities["digest"] = stored.digest
    image = dice.choice(_IMAGES)
    case: dict[str, Any] = {
        "image": image,
        "registries": make_file(dice, image, some(dice, (1, 0), (4, 1), (4, 2), (2, 3))),
        "drop-ins": [
            make_file(dice, image, some(dice, (1, 0), (3, 1), (1, 2)))
            for _ in range(some(dice, (6, 0), (3, 1), (1, 2)))
        ],
        "hosts": behaviours,
    }
    case["configuration"] = "\n".join([case["registries"], *case["drop-ins"]])
    with bench.registries(answer):
        bench.write("registries.conf", case["registries"])
        for number, text in enumerate(case["drop-ins"]):
            bench.write(str((bench.drop_ins / f"{number}.conf").relative_to(bench.directory)), text)
        theirs = bench.ask_skopeo(image)
        seen = report(theirs)
        ours = bench.ask_us(image)
        check("registries", bench, case, seen, report(ours), (theirs, ours))
