"""An image is carried to a site without internet and served there under the policy of contrib/examples, or refused."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Reply, activated
from tests.support.gpg import Signer
from tests.support.layouts import StoredImage, single_image
from tests.support.registries import DockerRegistry, docker_registry, needs_docker_registry

CONTRIB = Path(__file__).resolve().parents[2] / "contrib"

pytestmark = needs_docker_registry


class Online:
    """The side with internet: a registry with a signed image and an unsigned one, and whose signature is wanted."""

    def __init__(self, place: Path, registry: DockerRegistry, signer: Signer, image: StoredImage) -> None:
        self.place = place
        self.registry = registry
        self.signer = signer
        self.image = image
        self.home = place / "home"
        containers = self.home / ".config/containers"
        (containers / "registries.d").mkdir(parents=True)
        (containers / "registries.d/test.yaml").write_text(
            f"default-docker: {{lookaside: 'file://{place}/lookaside'}}\n"
        )
        (place / "signer.gpg").write_bytes(signer.public_key)
        self.want(signed=True)

    def want(self, *, signed: bool) -> None:
        """Write this side's own policy."""
        by_key = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": f"{self.place}/signer.gpg"}
        requirement = by_key if signed else {"type": "insecureAcceptAnything"}
        (self.home / ".config/containers/policy.json").write_text(json.dumps({"default": [requirement]}))

    def push(self, name: str, *options: str) -> None:
        command = ["skopeo", "--insecure-policy", "--registries.d", str(self.home / ".config/containers/registries.d")]
        command += ["copy", "--quiet", "--dest-tls-verify=false", *options]
        environ = {**os.environ, "GNUPGHOME": str(self.signer.home)}
        target = f"docker://{self.registry.authority}/{name}"
        subprocess.run(
            [*command, f"oci:{self.place}/layout:latest", target], env=environ, check=True, capture_output=True
        )

    def carry(self, name: str, directory: Path) -> subprocess.CompletedProcess[str]:
        command = [CONTRIB / "carry-image", f"docker://{self.registry.authority}/{name}", directory]
        command += ["--src-tls-verify=false", "--quiet"]
        environ = {**os.environ, "HOME": str(self.home)}
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory, signer: Signer) -> Iterator[Online]:
    place = tmp_path_factory.mktemp("online")
    image = single_image(place / "layout")
    with docker_registry(place / "registry") as registry:
        online = Online(place, registry, signer, image)
        for name in ("os:1", "other:1"):
            online.push(name, "--sign-by", signer.fingerprint)
        online.push("unsigned:1")
        yield online


@pytest.fixture
def site(tmp_path: Path, online: Online) -> Path:
    """The other side: nothing but the key, and the examples with this test's paths and name."""
    (tmp_path / "exampleos.gpg").write_bytes(online.signer.public_key)
    config = tmp_path / "config"
    config.mkdir()
    paths = {
        "/srv/mirror": f"{tmp_path}/mirror",
        "/etc/pki/containers": str(tmp_path),
        "/etc/container-image-proxy": str(config),
        "quay.io/cgwalters/exampleos": f"{online.registry.authority}/os",
    }
    for name in ("mirror.toml", "mirror-policy.json"):
        text = (CONTRIB / "examples" / name).read_text()
        for old, new in paths.items():
            text = text.replace(old, new)
        (config / name).write_text(text)
    (tmp_path / "mirror").mkdir()
    return tmp_path


def carried(online: Online, name: str, directory: Path) -> Path:
    done = online.carry(name, directory)
    assert done.returncode == 0, done.stderr
    return directory


def served(site: Path, *targets: str) -> list[Reply]:
    with activated(site / "run", ["--instance", "mirror", "--config-dir", str(site / "config")]) as daemon:
        return [daemon.get(target) for target in targets]


def test_what_was_carried_with_its_signature_is_served(online: Online, site: Path) -> None:
    carried(online, "os:1", site / "mirror/os")
    image = online.image
    manifest, *replies = served(site, "/manifest", *(f"/blobs/{digest}" for digest in image.blobs))
    assert (manifest.status, manifest.body) == (200, image.manifest), manifest.body
    assert manifest.headers["signed-by"] == f"openpgp:{online.signer.fingerprint}"
    assert [reply.body for reply in replies] == list(image.blobs.values())


def test_an_unsigned_image_is_refused(online: Online, site: Path) -> None:
    online.want(signed=False)
    carried(online, "unsigned:1", site / "mirror/os")
    online.want(signed=True)
    (manifest,) = served(site, "/manifest")
    assert manifest.status == 403
    assert "no simple signature was found" in manifest.json["detail"]


def test_an_image_that_was_signed_under_another_name_is_refused(online: Online, site: Path) -> None:
    carried(online, "other:1", site / "mirror/os")
    (manifest,) = served(site, "/manifest")
    assert manifest.status == 403
    assert f"{online.registry.authority}/other:1" in manifest.json["detail"]


@pytest.mark.parametrize(("tag", "status"), [("1", 200), ("2", 403)], ids=["its tag", "another tag"])
def test_a_policy_may_name_the_tag(online: Online, site: Path, tag: str, status: int) -> None:
    carried(online, "os:1", site / "mirror/os")
    policy = site / "config/mirror-policy.json"
    name = f"{online.registry.authority}/os"
    text = (
        policy.read_text().replace("exactRepository", "exactReference").replace("dockerRepository", "dockerReference")
    )
    policy.write_text(text.replace(f'"{name}"', f'"{name}:{tag}"'))
    assert served(site, "/manifest")[0].status == status


def test_a_changed_manifest_is_refused(online: Online, site: Path) -> None:
    path = carried(online, "os:1", site / "mirror/os") / "manifest.json"
    path.write_bytes(path.read_bytes() + b"\n")
    (manifest,) = served(site, "/manifest")
    assert manifest.status == 403


def test_a_changed_layer_is_never_whole(online: Online, site: Path) -> None:
    digest = online.image.layer_digests[0]
    path = carried(online, "os:1", site / "mirror/os") / digest.removeprefix("sha256:")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    manifest, blob = served(site, "/manifest", f"/blobs/{digest}")
    assert (manifest.status, blob.status, blob.json["code"]) == (200, 502, "DIGEST_MISMATCH")


def test_a_directory_that_the_policy_does_not_name_is_refused(online: Online, site: Path) -> None:
    carried(online, "os:1", site / "mirror/elsewhere")
    instance = site / "config/mirror.toml"
    instance.write_text(instance.read_text().replace("mirror/os", "mirror/elsewhere"))
    assert served(site, "/manifest")[0].status == 403


def test_nothing_is_carried_that_policy_rejects(online: Online, site: Path) -> None:
    done = online.carry("unsigned:1", site / "mirror/os")
    assert done.returncode != 0
    assert "signature was required" in done.stderr
    assert list((site / "mirror").iterdir()) == []


def test_a_newer_image_takes_the_place_of_the_one_that_was_carried_before(online: Online, site: Path) -> None:
    directory = carried(online, "os:1", site / "mirror/os")
    (directory / "left-over").touch()
    carried(online, "os:1", directory)
    assert [path.name for path in (site / "mirror").iterdir()] == ["os"]
    assert not (directory / "left-over").exists()
