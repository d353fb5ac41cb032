"""Images signed by sigstore bundles: from docker-registry, which has no referrers API, and from one that has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import bundle, envelope, fallback, list_of, listed, log_entry, referrer, statement
from tests.support.daemon import Reply, activated, write_instance, write_policy
from tests.support.layouts import OCI_EMPTY, OCI_INDEX, Layout, StoredImage, single_image
from tests.support.registries import docker_registry, needs_docker_registry
from tests.support.sigstore import (
    EMAIL,
    ISSUER,
    Certificate,
    attachment,
    attachment_tag,
    encode,
    make_key,
    make_leaf,
    public_pem,
)
from tests.support.upstream import Upstream, answering, by_path, content, image

KEY, LOG = make_key(), make_key()
PREDICATE_NOTE = "dev.sigstore.bundle.predicateType"


def by_key(identity: str = "matchRepository") -> dict[str, Any]:
    signed_identity = {"type": identity}
    return {"type": "sigstoreSigned", "keyData": encode(public_pem(KEY)), "signedIdentity": signed_identity}


def ask(
    place: Path, reference: str, requirement: dict[str, Any], *targets: str, accept_unnamed: bool = False
) -> tuple[Reply, ...]:
    """The daemon's answers about one image."""
    (place / "registries.d").mkdir(parents=True)
    (place / "registries.d/x.yaml").write_text("default-docker:\n  use-sigstore-attachments: true\n")
    policy = write_policy(place, {"default": [requirement]})
    trust = f'[trust]\npolicy = "{policy}"\nregistries-d = "{place}/registries.d"\n'
    trust += f"accept-unnamed-bundles = {str(accept_unnamed).lower()}\n"
    write_instance(
        place / "config",
        "test",
        f'[images.os]\nreference = "docker://{reference}"\n[registry]\ntls-verify = false\n{trust}',
    )
    with activated(place / "run", ["--instance", "test", "--config-dir", str(place / "config")]) as daemon:
        return tuple(daemon.get(target) for target in targets or ("/manifest",))


@needs_docker_registry
def test_a_registry_without_the_api_has_bundles_under_the_tag(tmp_path: Path) -> None:
    stored = single_image(tmp_path / "layout", name="x")
    with docker_registry(tmp_path / "registry") as registry:
        name = f"{registry.authority}/os:1"
        registry.push(f"{tmp_path}/layout:x", "os:1")
        signed = bundle(envelope(KEY, statement(stored.manifest, name)))
        layout = fallback(tmp_path / "bundles", stored.descriptor, signed, artifactType=OCI_EMPTY)
        registry.push(f"{layout.path}:referrers", f"os:{stored.digest.replace(':', '-')}")
        manifest, verification = ask(tmp_path / "good", name, by_key("matchExact"), "/manifest", "/verification")
        assert manifest.status == 200, manifest.body
        assert manifest.headers["signed-by"].startswith("sigstore-key:sha256:")
        (verdict,) = verification.json["verdicts"]
        assert verdict["signature_source"] == f"docker://{registry.authority}/os@{artifact_digest(layout)}"
        (moved,) = ask(tmp_path / "moved", f"{registry.authority}/os@{stored.digest}", by_key("matchExact"))
        assert moved.status == 403
        assert f", but for '{name}'" in moved.json["reasons"][0]


def artifact_digest(layout: Layout) -> str:
    (named,) = json.loads((layout.path / "index.json").read_bytes())["manifests"]
    return str(json.loads(layout.blob_path(named["digest"]).read_bytes())["manifests"][0]["digest"])


class ReferrersRegistry:
    """Routes of a registry with the API, whose image has these bundles as referrers."""

    def __init__(self, path: Path, *contents: Callable[[StoredImage], dict[str, Any]], **entry: Any) -> None:
        self.stored = single_image(path / "layout")
        layout = Layout(path / "artifacts")
        self.artifacts = [referrer(layout, self.stored.descriptor, make(self.stored)) for make in contents]
        index = list_of(*(listed(one, **entry) for one in self.artifacts))
        self.routes = image(self.stored, tag="1")
        for one in self.artifacts:
            self.routes |= image(one, tag="unused")
        self.routes[f"/referrers/{self.stored.digest}"] = answering(200, index, {"Content-Type": OCI_INDEX})


def nameless(stored: StoredImage) -> dict[str, Any]:
    return bundle(envelope(KEY, statement(stored.manifest)))


def by_stranger(stored: StoredImage) -> dict[str, Any]:
    return bundle(envelope(make_key(), statement(stored.manifest)))


@pytest.mark.demand("SIG-identity")
def test_a_nameless_bundle_counts_for_the_digest_if_that_is_configured(tmp_path: Path) -> None:
    made = ReferrersRegistry(tmp_path, by_stranger, nameless)
    with Upstream(by_path(made.routes)) as upstream:
        tagged, pinned = f"{upstream.authority}/os:1", f"{upstream.authority}/os@{made.stored.digest}"
        (refused,) = ask(tmp_path / "1", tagged, by_key())
        assert refused.status == 403
        assert "the bundle names no image" in refused.json["reasons"][0]
        assert not any(f"/blobs/{made.stored.layer_digests[0]}" in path for path in upstream.paths())
        for place, reference, identity, status in (
            ("2", tagged, "matchRepository", 200),
            ("3", pinned, "matchRepoDigestOrExact", 200),
            ("4", tagged, "matchRepoDigestOrExact", 403),
        ):
            (reply,) = ask(tmp_path / place, reference, by_key(identity), accept_unnamed=True)
            assert reply.status == status, reply.body


@pytest.mark.demand("SIG-fulcio")
def test_a_certificate_of_fulcio_and_a_log_entry_sign_an_image(tmp_path: Path) -> None:
    authority = Certificate()
    leaf = make_leaf(authority)

    def certified(stored: StoredImage) -> dict[str, Any]:
        said = envelope(leaf.key, statement(stored.manifest))
        return bundle(said, leaf, [log_entry(LOG, said, leaf.pem)])

    fulcio = {"caData": encode(authority.pem), "oidcIssuer": ISSUER, "subjectEmail": EMAIL}
    requirement = {
        "type": "sigstoreSigned",
        "fulcio": fulcio,
        "rekorPublicKeyData": encode(public_pem(LOG)),
        "signedIdentity": {"type": "matchRepository"},
    }
    made = ReferrersRegistry(tmp_path, certified)
    with Upstream(by_path(made.routes)) as upstream:
        manifest, verification = ask(
            tmp_path / "a", f"{upstream.authority}/os:1", requirement, "/manifest", "/verification", accept_unnamed=True
        )
        assert manifest.status == 200, manifest.body
        assert manifest.headers["signed-by"] == f"mailto:{EMAIL} by {ISSUER}"
        (verdict,) = verification.json["verdicts"]
        assert verdict["signature_source"] == f"docker://{upstream.authority}/os@{made.artifacts[0].digest}"


def test_what_says_that_it_is_no_signature_is_not_fetched(tmp_path: Path) -> None:
    note = {PREDICATE_NOTE: "https://slsa.dev/provenance/v1"}
    made = ReferrersRegistry(tmp_path, nameless, annotations=note)
    with Upstream(by_path(made.routes)) as upstream:
        (reply,) = ask(tmp_path / "a", f"{upstream.authority}/os:1", by_key(), accept_unnamed=True)
        assert reply.status == 403
        (reason,) = reply.json["reasons"]
        assert reason.startswith("sigstoreSigned: no sigstore signature was found; use-sigstore-attachments in ")
        assert not any(made.artifacts[0].digest in path for path in upstream.paths())


@pytest.mark.parametrize("signer", ["signer", "stranger"])
def test_bundles_are_searched_for_only_if_attachments_do_not_satisfy_the_policy(tmp_path: Path, signer: str) -> None:
    made = ReferrersRegistry(tmp_path, nameless)
    with Upstream(by_path(made.routes)) as upstream:
        key = KEY if signer == "signer" else make_key()
        reference = f"{upstream.authority}/os"
        attached = attachment(Layout(tmp_path / "attached"), key, reference, made.stored.digest)
        made.routes |= image(attached, tag=attachment_tag(made.stored.digest))
        (reply,) = ask(tmp_path / "a", f"{reference}:1", by_key(), accept_unnamed=True)
        assert reply.status == 200, reply.body
        assert any("/referrers/" in path for path in upstream.paths()) == (signer == "stranger")


@pytest.mark.parametrize("fault", ["listing", "artifact", "bundle", "substituted"])
def test_a_registry_that_fails_is_not_one_without_signatures(tmp_path: Path, fault: str) -> None:
    made = ReferrersRegistry(tmp_path, nameless)
    (artifact,) = made.artifacts
    blob = f"/blobs/{artifact.layer_digests[0]}"
    made.routes |= {
        "listing": {f"/referrers/{made.stored.digest}": answering(403)},
        "artifact": {f"/manifests/{artifact.digest}": content(b"{}", str(artifact.descriptor["mediaType"]))},
        "bundle": {blob: answering(404)},
        "substituted": {blob: content(b"x" * len(artifact.layers[0]))},
    }[fault]
    with Upstream(by_path(made.routes)) as upstream:
        (reply,) = ask(tmp_path / "a", f"{upstream.authority}/os:1", by_key(), accept_unnamed=True)
        assert reply.status == 502, reply.body


@pytest.mark.demand("LIM-signatures")
@pytest.mark.parametrize(("size", "count"), [((4 << 20) + 1, 1), ((4 << 20) - 1, 3)], ids=["one", "together"])
def test_bundles_are_bounded_in_size(tmp_path: Path, size: int, count: int) -> None:
    makers = [lambda _, i=i: {"padding": str(i) + "x" * (size - len('{"padding": ""}') - 1)} for i in range(count)]
    made = ReferrersRegistry(tmp_path, *makers)
    with Upstream(by_path(made.routes)) as upstream:
        (reply,) = ask(tmp_path / "a", f"{upstream.authority}/os:1", by_key())
        assert reply.status == 502
        assert "bytes" in reply.json["detail"]
        assert count > 1 or not any("/blobs/" in path for path in upstream.paths())
