"""Random policies over an image with random signatures: both allow it, or neither does."""

from __future__ import annotations

import json
import random
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.generated import NOBODY, Bench, Result, answer_image, check, some
from tests.support.gpg import Signer
from tests.support.layouts import StoredImage, single_image
from tests.support.sigstore import encode, make_key, make_payload, public_pem, sign
from tests.support.upstream import Connection, ReceivedRequest

NAME = f"{NOBODY}/team/os"
_SIGNED_AS = (
    f"{NAME}:1",
    f"{NAME}:1",
    f"{NAME}:1",
    f"{NAME}:2",
    NAME,
    f"{NOBODY}/other:1",
    "signed.example/team/os:1",
    "os",
)
_SCOPES = (
    "",
    NOBODY,
    f"{NOBODY}/team",
    NAME,
    f"{NAME}:1",
    f"{NAME}:2",
    "*.0.0.5",
    "*.5",
    "other.example",
    "$a/team/os",
)
_IDENTITIES: tuple[Any, ...] = (
    *({"type": "matchExact"}, {"type": "matchRepository"}, {"type": "matchRepoDigestOrExact"}),
    {"type": "exactReference", "dockerReference": f"{NAME}:2"},
    {"type": "exactRepository", "dockerRepository": f"{NOBODY}/other"},
    {"type": "exactRepository", "dockerRepository": NAME},
    {"type": "remapIdentity", "prefix": NOBODY, "signedPrefix": "signed.example"},
    {"type": "remapIdentity", "prefix": "elsewhere.example", "signedPrefix": "signed.example"},
    {"type": "remapIdentity", "prefix": "", "signedPrefix": "signed.example"},
    {"type": "matchSomething"},
)


@dataclass(frozen=True)
class Pool:
    """An image, keys by name, and signatures of it and of another one, by what is said about them."""

    stored: StoredImage
    keys: Mapping[str, bytes]
    signatures: Mapping[str, bytes]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    stored = single_image(tmp_path_factory.mktemp("layout"))
    signatures = {"garbage": b"<html>", "empty": b"", "text": b"no signature\n"}
    keys = {"garbage": b"no key\n", "empty": b""}
    sigstore = {"sigstore-1": make_key(), "sigstore-2": make_key()}
    with ExitStack() as stack:
        openpgp = {name: stack.enter_context(Signer(f"{name}@example.com")) for name in ("openpgp-1", "openpgp-2")}
        for name in dict.fromkeys(_SIGNED_AS):
            for signer, made in openpgp.items():
                signatures[f"{signer} of {name}"] = made.sign_image(name, stored.digest)
            for signer, key in sigstore.items():
                payload = make_payload(name, stored.digest)
                signatures[f"{signer} of {name}"] = as_file(payload, encode(sign(key, payload)))
        other = "sha256:" + "0" * 64
        signatures["openpgp-1 of other content"] = openpgp["openpgp-1"].sign_image(f"{NAME}:1", other)
        payload = make_payload(f"{NAME}:1", other)
        signatures["sigstore-1 of other content"] = as_file(payload, encode(sign(sigstore["sigstore-1"], payload)))
        keys |= {name: signer.public_key for name, signer in openpgp.items()}
        keys["openpgp-1 armored"] = openpgp["openpgp-1"].gpg("--armor", "--export")
        keys["both"] = keys["openpgp-1"] + keys["openpgp-2"]
        keys |= {name: public_pem(key) for name, key in sigstore.items()}
        keys["sigstore-1 and 2"] = keys["sigstore-1"] + keys["sigstore-2"]
        yield Pool(stored, keys, signatures)


def as_file(payload: bytes, signature: str) -> bytes:
    """A sigstore signature as lookaside storage has it."""
    document = {
        "mimeType": "application/vnd.dev.cosign.simplesigning.v1+json",
        "payload": encode(payload),
        "annotations": {"dev.cosignproject.cosign/signature": signature},
    }
    return b"\0sigstore-json\n" + json.dumps(document).encode()


def make_requirement(dice: random.Random, pool: Pool, kinds: str) -> dict[str, Any]:
    kind = some(dice, (2, "insecureAcceptAnything"), (1, "reject"), (10, kinds), (1, "signedBaseLayer"))
    if kind == "signedBaseLayer":
        return {"type": kind, "baseLayerIdentity": {"type": "matchExact"}}
    if kind in {"insecureAcceptAnything", "reject"}:
        return {"type": kind} | some(dice, (20, {}), (1, {"x": 1}))
    right = "openpgp-1" if kind == "signedBy" else "sigstore-1"
    key = dice.choice(sorted(pool.keys)) if dice.random() < 0.2 else right
    data = b64encode(pool.keys[key]).decode()
    made: dict[str, Any] = {"type": kind}
    if kind == "signedBy":
        made["keyType"] = some(dice, (30, "GPGKeys"), (1, "X509Certificates"), (1, "none"))
    made |= some(
        dice,
        (10, {"keyPath": f"$place/{key}"}),
        (5, {"keyData": data}),
        (3, {"keyPaths": [f"$place/{key}"]}),
        (3, {"keyPaths": ["$place/openpgp-2" if kind == "signedBy" else "$place/sigstore-2", f"$place/{key}"]}),
        (1, {"keyPaths": []}),
        (1, {"keyPath": "$place/none"}),
        (1, {"keyPath": f"$place/{key}", "keyData": data}),
        (1, {}),
    )
    identity = dice.choice(_IDENTITIES) if dice.random() < 0.5 else None
    return made if identity is None else made | {"signedIdentity": identity}


def make_policy(dice: random.Random, pool: Pool, kinds: str) -> dict[str, Any]:
    def requirements() -> list[dict[str, Any]]:
        return [make_requirement(dice, pool, kinds) for _ in range(some(dice, (8, 1), (3, 2), (0.3, 0)))]

    scopes = {dice.choice(_SCOPES): requirements() for _ in range(some(dice, (2, 0), (3, 1), (2, 2), (1, 4)))}
    return {"default": requirements()} | ({"transports": {"docker": scopes}} if scopes or dice.random() < 0.5 else {})


def test_the_same_images_are_allowed(bench: Bench, dice: random.Random, pool: Pool) -> None:
    def answer(_: str, request: ReceivedRequest, connection: Connection) -> None:
        answer_image(request, connection, documents)

    kinds = some(dice, (2, "signedBy"), (1, "sigstoreSigned"))
    signer = "openpgp-1" if kinds == "signedBy" else "sigstore-1"
    names = [name for name in pool.signatures if name.startswith(signer)]
    found = [
        dice.choice(names if dice.random() < 0.8 else sorted(pool.signatures))
        if dice.random() < 0.4
        else f"{signer} of {NAME}:1"
        for _ in range(some(dice, (1, 0), (8, 1), (3, 2), (1, 3)))
    ]
    policy = json.dumps(make_policy(dice, pool, kinds))
    image = some(dice, (5, f"{NAME}:1"), (1, f"{NAME}@{pool.stored.digest}"))
    documents = {digest: ("", content) for digest, content in pool.stored.blobs.items()}
    documents |= dict.fromkeys(("1", pool.stored.digest), (pool.stored.descriptor["mediaType"], pool.stored.manifest))
    bench.authorities["place"] = str(bench.directory / "keys")
    for name, key in pool.keys.items():
        bench.write(f"keys/{name}", key)
    for number, name in enumerate(found, 1):
        algorithm, _, digits = pool.stored.digest.partition(":")
        bench.write(f"lookaside/team/os@{algorithm}={digits}/signature-{number}", pool.signatures[name])
    case = {"image": image, "policy": policy, "signatures": "; ".join(found)}
    with bench.registries(answer):
        table = f'[[registry]]\nprefix = "{NOBODY}"\nlocation = "$a"\ninsecure = true\n'
        bench.write("registries.conf", table)
        bench.write("policy.json", policy)
        theirs, ours = bench.ask_skopeo(image), bench.ask_us(image)
        if "sigstore disabled" in theirs.reason:  # Debian 12 builds it without, and it has no opinion
            theirs = Result(ours.ok)
        check("policies", bench, case, str(theirs), str(ours), (theirs, ours))
