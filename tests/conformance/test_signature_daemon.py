"""A sample of the matrix of decisions through the running daemon: registry, lookaside and attachments over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.media_types import OCI_CONFIG, OCI_MANIFEST
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.image.signature import UntrustedSignature, parse_signature_blob
from tests.support.conformance import DIRECTORY
from tests.support.daemon import RunningDaemon, activated, write_instance, write_policy
from tests.support.upstream import Handler, Upstream, answering, by_path, content

SIGNATURES = DIRECTORY / "signature"
MATRIX = json.loads((SIGNATURES / "eval_matrix.json").read_text())
CASES: list[dict[str, Any]] = MATRIX["cases"]


def decided_by_signatures() -> Iterator[int]:
    """The lists of requirements that let some image through because of its signature, at any time."""
    for position in sorted({case["requirements"] for case in CASES if case["allowed"]}):
        requirements = MATRIX["requirements"][position]
        kinds = {requirement["type"] for requirement in requirements}
        if kinds & {"signedBy", "sigstoreSigned"} and not any("pki" in requirement for requirement in requirements):
            yield position


def describe(content: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(digest_of(content)), "size": len(content)}


def attach(signatures: list[UntrustedSignature]) -> tuple[bytes, dict[str, Handler]]:
    """The manifest of cosign's image of signatures, and routes to its blobs."""
    layers = [{**describe(one.blob, one.media_type), "annotations": one.annotations} for one in signatures]
    document = {"schemaVersion": 2, "config": describe(b"{}", OCI_CONFIG), "layers": layers}
    blobs = {f"/blobs/{digest_of(one.blob)}": content(one.blob) for one in signatures}
    return json.dumps(document | {"mediaType": OCI_MANIFEST}).encode(), blobs


def is_image(case: dict[str, Any]) -> bool:
    """Whether a registry can have this as an image that is served here: no other reason to refuse it but policy."""
    path, digest = manifest_of(case), parse_reference(case["docker_reference"]).digest
    return path.exists() and b"fsLayers" not in path.read_bytes() and (not digest or digest.matches(path.read_bytes()))


def manifest_of(case: dict[str, Any]) -> Path:
    return SIGNATURES / "fixtures" / case["fixture"] / "manifest.json"


def serve(case: dict[str, Any]) -> Handler:
    """A registry with the case's image, and its signatures where their kind is kept."""
    path = manifest_of(case)
    manifest = path.read_bytes()
    blobs = [blob.read_bytes() for blob in sorted(path.parent.glob("signature-*"))]
    found = [parse_signature_blob(blob, "") for blob in blobs]
    simple = [blob for blob, one in zip(blobs, found, strict=True) if one.kind == "simple"]
    reference, digest = parse_reference(case["docker_reference"]), digest_of(manifest)
    routes = {
        f"/manifests/{reference.tag or reference.digest}": content(
            manifest, json.loads(manifest).get("mediaType", OCI_MANIFEST)
        )
    }
    routes |= {f"@sha256={digest.hex}/signature-{number}": content(blob) for number, blob in enumerate(simple, 1)}
    attached, layers = attach([one for one in found if one.kind == "sigstore"])
    if layers:
        routes |= {f"/manifests/sha256-{digest.hex}.sig": content(attached, OCI_MANIFEST), **layers}
    return by_path(routes | {"/v2/": answering(200)})


def configure(place: Path, upstream: Upstream, requirements: list[Any], cases: list[dict[str, Any]]) -> list[str]:
    """An instance with each case's reference, whose registries are all ``upstream``; the options for it."""
    domains = {parse_reference(case["docker_reference"]).domain for case in cases}
    location = f'location = "{upstream.authority}"\ninsecure = true\n'
    registries = (f'[[registry]]\nprefix = "{domain}"\n{location}' for domain in domains)
    (place / "registries.conf").write_text("".join(registries))
    (place / "registries.d").mkdir()
    lookaside = f"default-docker:\n  lookaside: {upstream.url}/lookaside\n  use-sigstore-attachments: true\n"
    (place / "registries.d/x.yaml").write_text(lookaside)
    absolute = json.loads(json.dumps(requirements).replace('"fixtures/', f'"{SIGNATURES}/fixtures/'))
    policy = write_policy(place, {"default": absolute})
    references = (case["docker_reference"] for case in cases)
    images = (f'[images.c{number}]\nreference = "docker://{name}"\n' for number, name in enumerate(references))
    registry = f'[registry]\nregistries-conf = "{place}/registries.conf"\n'
    trust = f'[trust]\npolicy = "{policy}"\nregistries-d = "{place}/registries.d"\n'
    write_instance(place / "config", "test", "".join(images) + registry + trust)
    return ["--instance", "test", "--config-dir", str(place / "config")]


def ask(daemon: RunningDaemon, upstream: Upstream, number: int, case: dict[str, Any]) -> int:
    upstream.handler = serve(case)
    return daemon.get(f"/images/c{number}/manifest").status


@pytest.mark.parametrize("position", [*decided_by_signatures()])
def test_the_daemon_decides_as_recorded(tmp_path: Path, position: int) -> None:
    cases = [case for case in CASES if case["requirements"] == position and is_image(case)]
    with Upstream(answering(404)) as upstream:
        options = configure(tmp_path, upstream, MATRIX["requirements"][position], cases)
        with activated(tmp_path / "run", options) as daemon:
            statuses = [ask(daemon, upstream, number, case) for number, case in enumerate(cases)]
    assert statuses == [200 if case["allowed"] else 403 for case in cases]
