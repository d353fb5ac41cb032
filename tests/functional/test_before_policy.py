"""What is asked of a registry for an image that policy rejects: nothing of its content, whatever a client asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import RunningDaemon, stand_alone, write_policy
from tests.support.layouts import OCI_INDEX, StoredImage, encode, single_image
from tests.support.upstream import Handler, Upstream, by_path, content, image

pytestmark = pytest.mark.demand("SIG-before-use")

SIGNED_BY_NOBODY = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/nonexistent.gpg"}
REQUIREMENTS = {"reject": {"type": "reject"}, "signed": SIGNED_BY_NOBODY}
TARGETS = ("manifest", "config", "verification")


@pytest.fixture
def stored(tmp_path: Path) -> StoredImage:
    return single_image(tmp_path / "layout")


@pytest.fixture(params=["image", "index"])
def routes(request: pytest.FixtureRequest, stored: StoredImage) -> dict[str, Handler]:
    """A registry that has the image, or an index that leads to it."""
    routes = image(stored)
    if request.param == "index":
        entry = stored.descriptor | {"platform": {"os": "linux", "architecture": "amd64"}}
        index = encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})
        routes["/manifests/latest"] = content(index, OCI_INDEX)
    return routes


@pytest.fixture(params=REQUIREMENTS.values(), ids=REQUIREMENTS)
def rejecting(
    request: pytest.FixtureRequest, routes: dict[str, Handler], tmp_path: Path
) -> Iterator[tuple[RunningDaemon, Upstream]]:
    requirement: dict[str, Any] = request.param
    (tmp_path / "registries.d").mkdir()
    with Upstream(by_path(routes)) as upstream:
        yaml = f"default-docker:\n  lookaside: {upstream.url}/lookaside\n  use-sigstore-attachments: true\n"
        (tmp_path / "registries.d/x.yaml").write_text(yaml)
        policy = write_policy(tmp_path, {"default": [requirement]})
        options = ["--tls-verify=false", "--policy", str(policy), "--registries.d", f"{tmp_path}/registries.d"]
        reference = f"docker://{upstream.authority}/os:latest"
        with stand_alone(tmp_path / "run", [*options, "--override-arch=amd64", reference]) as daemon:
            yield daemon, upstream


def test_no_blob_of_a_rejected_image_is_asked_for_and_none_is_answered(
    rejecting: tuple[RunningDaemon, Upstream], stored: StoredImage
) -> None:
    daemon, upstream = rejecting
    for target in (*TARGETS, *(f"blobs/{digest}" for digest in stored.blobs), *TARGETS):
        reply = daemon.get(f"/{target}")
        assert (reply.status, reply.json["code"]) == (403, "POLICY_REJECTED")
        assert not any(blob in reply.body for blob in stored.blobs.values())
    assert any("/manifests/" in path for path in upstream.paths())
    assert not [path for path in upstream.paths() if "/blobs/" in path]
