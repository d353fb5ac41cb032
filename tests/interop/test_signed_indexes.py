"""Images for several platforms in a real registry: the index signed, or the platform's own manifest, or neither."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Reply, activated, write_instance, write_policy
from tests.support.gpg import Signer
from tests.support.layouts import Layout, multi_arch
from tests.support.registries import DockerRegistry, docker_registry, needs_docker_registry
from tests.support.sigstore import attachment, attachment_tag, make_key, public_pem

pytestmark = [needs_docker_registry, pytest.mark.demand("SIG-list-vs-instance")]

PLATFORM, OTHER_PLATFORM = "linux/arm64/v8", "linux/amd64"
SIGNED_BY_INDEX = ("index", "attached-index")
SIGNED_BY_INSTANCE = ("instance", "attached-instance")
NOT_SIGNED = ("stranger", "elsewhere", "other-instance")
IMAGES = SIGNED_BY_INDEX + SIGNED_BY_INSTANCE + NOT_SIGNED
KEY = make_key()


@dataclass(frozen=True)
class Bench:
    """The digests of index and instance, and the daemon's answers: as it is by default, and as the setting makes it."""

    index: str
    instance: str
    fingerprint: str
    default: dict[str, Reply]
    required: dict[str, Reply]
    receipts: dict[str, Any]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, signer: Signer, stranger: Signer) -> Iterator[Bench]:
    place = tmp_path_factory.mktemp("indexes")
    images = multi_arch(place / "layout", PLATFORM, OTHER_PLATFORM, name="x")
    index = json.loads((place / "layout/index.json").read_text())["manifests"][0]["digest"]
    instance, other = images[PLATFORM].digest, images[OTHER_PLATFORM].digest
    with docker_registry(place / "registry") as registry:
        for name in IMAGES:
            registry.push(f"{place}/layout:x", f"{name}:1")
        keep = Lookaside(place, registry)
        keep.signature(signer, "index", index)
        keep.signature(signer, "instance", instance)
        keep.signature(stranger, "stranger", index)
        keep.signature(signer, "elsewhere", index, claimed="index")
        keep.signature(signer, "other-instance", other)
        attach(place, registry, "attached-index", index)
        attach(place, registry, "attached-instance", instance)
        (place / "signer.gpg").write_bytes(signer.public_key)
        (place / "sigstore.pub").write_bytes(public_pem(KEY))
        default, receipts = ask(place, registry, required=False)
        required, _ = ask(place, registry, required=True)
        yield Bench(index, instance, signer.fingerprint, default, required, receipts)


@dataclass(frozen=True)
class Lookaside:
    """Simple signatures of the registry's images, in files."""

    place: Path
    registry: DockerRegistry

    def signature(self, signer: Signer, name: str, digest: str, *, claimed: str = "") -> None:
        directory = self.place / f"lookaside/{name}@{digest.replace(':', '=')}"
        directory.mkdir(parents=True)
        signature = signer.sign_image(f"{self.registry.authority}/{claimed or name}:1", digest)
        (directory / "signature-1").write_bytes(signature)


def attach(place: Path, registry: DockerRegistry, name: str, digest: str) -> None:
    layout = Layout(place / f"attachment-{name}")
    attachment(layout, KEY, f"{registry.authority}/{name}", digest)
    registry.push(f"{layout.path}:x", f"{name}:{attachment_tag(digest)}")


def configure(place: Path, registry: DockerRegistry, *, required: bool) -> Path:
    """The directory of an instance with all images, each for the same platform."""
    directory = place / f"required-{required}"
    (directory / "registries.d").mkdir(parents=True)
    (directory / "registries.d/x.yaml").write_text(
        f"default-docker:\n  lookaside: file://{place}/lookaside\n  use-sigstore-attachments: true\n"
    )
    identity = {"type": "matchRepository"}
    simple = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": f"{place}/signer.gpg"}
    sigstore = {"type": "sigstoreSigned", "keyPath": f"{place}/sigstore.pub", "signedIdentity": identity}
    attached = {f"{registry.authority}/{name}": [sigstore] for name in IMAGES if name.startswith("attached-")}
    policy = write_policy(directory, {"default": [simple], "transports": {"docker": attached}})
    tables = (
        f'[images.{name}]\nreference = "docker://{registry.authority}/{name}:1"\nplatform = "{PLATFORM}"\n'
        for name in IMAGES
    )
    trust = f'[trust]\npolicy = "{policy}"\nregistries-d = "{directory}/registries.d"\n'
    setting = f"require-instance-signature = {str(required).lower()}\n"
    write_instance(directory / "config", "test", "".join(tables) + "[registry]\ntls-verify = false\n" + trust + setting)
    return directory


def ask(place: Path, registry: DockerRegistry, *, required: bool) -> tuple[dict[str, Reply], dict[str, Any]]:
    """What is answered for each image's manifest and for its verification."""
    directory = configure(place, registry, required=required)
    with activated(directory / "run", ["--instance", "test", "--config-dir", str(directory / "config")]) as daemon:
        manifests = {name: daemon.get(f"/images/{name}/manifest") for name in IMAGES}
        receipts = {name: daemon.get(f"/images/{name}/verification").json for name in IMAGES}
    return manifests, receipts


def test_a_signed_index_or_a_signed_manifest_is_enough(bench: Bench) -> None:
    statuses = {name: reply.status for name, reply in bench.default.items()}
    accepted = SIGNED_BY_INDEX + SIGNED_BY_INSTANCE
    assert statuses == {name: 200 if name in accepted else 403 for name in IMAGES}


def test_the_setting_makes_a_signed_index_too_little(bench: Bench) -> None:
    statuses = {name: reply.status for name, reply in bench.required.items()}
    assert statuses == {name: 200 if name in SIGNED_BY_INSTANCE else 403 for name in IMAGES}


def test_the_receipt_says_which_of_the_two_was_signed(bench: Bench) -> None:
    for names, signed in ((SIGNED_BY_INDEX, bench.index), (SIGNED_BY_INSTANCE, bench.instance)):
        for name in names:
            receipt = bench.receipts[name]
            assert (receipt["index_digest"], receipt["manifest_digest"]) == (bench.index, bench.instance)
            assert receipt["signed_digest"] == signed
    assert bench.default["index"].headers["signed-by"] == f"openpgp:{bench.fingerprint}"


@pytest.mark.parametrize(("name", "complaint"), [("stranger", "is not trusted"), ("elsewhere", "but for '")])
def test_a_rejection_says_what_is_wrong_with_the_indexs_signature(bench: Bench, name: str, complaint: str) -> None:
    (reason,) = bench.default[name].json["reasons"]
    of_manifest, separator, of_index = reason.partition("; of the index: ")
    assert (separator, complaint in of_index) == ("; of the index: ", True)
    assert "no simple signature was found" in of_manifest
    (reason,) = bench.required[name].json["reasons"]
    assert reason == of_manifest.replace(" of the manifest:", "", 1)
