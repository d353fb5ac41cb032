"""Signatures by holders of certificates of an ordinary PKI with several authorities, through the running daemon."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.daemon import Reply, stand_alone, write_policy
from tests.support.layouts import Layout, single_image
from tests.support.sigstore import EMAIL, Certificate, attachment, attachment_tag, make_leaf
from tests.support.upstream import Upstream, answering, by_path, image

NOW = datetime.now(UTC)
VALID = {"valid_from": NOW - timedelta(days=1), "valid_until": NOW + timedelta(days=1)}
FIRST, SECOND, STRANGER = (Certificate(name, **VALID) for name in ("first", "second", "stranger"))
BELOW = Certificate("below", SECOND, **VALID)


def ask(place: Path, issuer: Certificate, *chain: Certificate, **fields: datetime) -> Reply:
    """The daemon's answer about an image that a certificate's holder signed, where two roots are trusted."""
    stored = single_image(place / "layout")
    (place / "roots.pem").write_bytes(FIRST.pem + SECOND.pem)
    pki = {"caRootsPath": f"{place}/roots.pem", "subjectEmail": EMAIL}
    requirement = {"type": "sigstoreSigned", "pki": pki, "signedIdentity": {"type": "matchRepository"}}
    policy = write_policy(place, {"default": [requirement]})
    (place / "registries.d").mkdir()
    (place / "registries.d/x.yaml").write_text("default-docker:\n  use-sigstore-attachments: true\n")
    leaf = make_leaf(issuer, **(VALID | fields))
    links = b"".join(link.pem for link in chain)
    with Upstream(answering(404)) as upstream:
        name = f"{upstream.authority}/os"
        signature = attachment(
            Layout(place / "signature"), leaf.key, name, stored.digest, certificate=leaf.pem, chain=links
        )
        routes = image(stored, tag="1") | image(signature, tag=attachment_tag(stored.digest))
        upstream.handler = by_path(routes | {"/v2/": answering(200)})
        options = ["--tls-verify=false", "--policy", str(policy), "--registries.d", str(place / "registries.d")]
        with stand_alone(place / "run", [*options, f"docker://{name}:1"]) as daemon:
            return daemon.get("/manifest")


@pytest.mark.parametrize(
    ("issuer", "chain", "root"),
    [
        pytest.param(FIRST, (), "first", id="the first"),
        pytest.param(SECOND, (), "second", id="the second"),
        pytest.param(BELOW, (BELOW,), "second", id="one below the second"),
    ],
)
def test_the_client_sees_which_of_two_authorities_vouches(
    tmp_path: Path, issuer: Certificate, chain: tuple[Certificate, ...], root: str
) -> None:
    reply = ask(tmp_path, issuer, *chain)
    assert reply.status == 200, reply.body
    assert reply.headers["signed-by"] == f"mailto:{EMAIL} by CN={root}"


def test_a_certificate_of_another_authority_does_not_count(tmp_path: Path) -> None:
    reply = ask(tmp_path, STRANGER, STRANGER)
    assert reply.status == 403
    assert "leads to no trusted authority" in reply.json["reasons"][0]


def test_a_certificate_that_is_not_valid_now_does_not_count(tmp_path: Path) -> None:
    reply = ask(tmp_path, FIRST, valid_until=NOW - timedelta(hours=1))
    assert reply.status == 403
    assert "was not valid at" in reply.json["reasons"][0]
