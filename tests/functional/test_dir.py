"""What dir: alone has: signatures beside the manifest, of all kinds, for an index and for what it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from container_image_proxy.image.signature import MAX_SIGNATURE_SIZE, MAX_SIGNATURES
from tests.support.daemon import Reply, stand_alone, write_policy
from tests.support.gpg import Signer
from tests.support.layouts import StoredImage, multi_arch, single_image
from tests.support.makers.directory import write, write_list

NAME = "quay.io/example/os:1"


@pytest.fixture
def image(tmp_path: Path) -> StoredImage:
    """An image in ``tmp_path/image``, without signatures."""
    made = single_image(tmp_path / "layout")
    write(tmp_path / "image", made)
    return made


def ask(tmp_path: Path, signer: Signer, reference: str, target: str = "/manifest") -> Reply:
    """What the daemon answers where policy wants the signer's signature."""
    key = tmp_path / "key.gpg"
    key.write_bytes(signer.public_key)
    key.chmod(0o644)
    identity = {"type": "exactReference", "dockerReference": NAME}
    requirement = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(key), "signedIdentity": identity}
    policy = write_policy(tmp_path, {"default": [{"type": "reject"}], "transports": {"dir": {"": [requirement]}}})
    with stand_alone(tmp_path / "run", ["--policy", str(policy), reference]) as daemon:
        return daemon.get(target)


def test_a_signature_beside_the_manifest_counts(tmp_path: Path, image: StoredImage, signer: Signer) -> None:
    (tmp_path / "image/signature-1").write_bytes(signer.sign_image(NAME, image.digest))
    reply = ask(tmp_path, signer, f"dir:{tmp_path}/image")
    assert reply.status == 200, reply.body
    assert signer.fingerprint.lower() in reply.headers["signed-by"].lower()


def test_one_without_signatures_is_rejected(tmp_path: Path, image: StoredImage, signer: Signer) -> None:
    reply = ask(tmp_path, signer, f"dir:{tmp_path}/image")
    assert reply.status == 403
    assert "no simple signature was found" in reply.json["detail"]


def test_broken_ones_hide_no_good_one(tmp_path: Path, image: StoredImage, signer: Signer) -> None:
    (tmp_path / "image/signature-1").write_bytes(b"no signature of any kind")
    (tmp_path / "image/signature-2").symlink_to("/dev/zero")
    with (tmp_path / "image/signature-3").open("wb") as file:
        file.truncate(MAX_SIGNATURE_SIZE + 1)
    reference = f"dir:{tmp_path}/image"
    refused = ask(tmp_path, signer, reference)
    assert refused.status == 502
    for told in (
        "signature-1 holds no signature of a known format",
        "signature-2 is a symbolic link",
        "signature-3 is larger than",
    ):
        assert told in refused.json["detail"]
    (tmp_path / "image/signature-4").write_bytes(signer.sign_image(NAME, image.digest))
    assert ask(tmp_path, signer, reference).status == 200


def test_no_more_signatures_are_looked_at_than_the_limit(tmp_path: Path, image: StoredImage, signer: Signer) -> None:
    for number in range(1, MAX_SIGNATURES + 1):
        (tmp_path / f"image/signature-{number}").write_bytes(b"no signature of any kind")
    (tmp_path / f"image/signature-{MAX_SIGNATURES + 1}").write_bytes(signer.sign_image(NAME, image.digest))
    assert ask(tmp_path, signer, f"dir:{tmp_path}/image").status == 502
    (tmp_path / "image/signature-1").write_bytes(signer.sign_image(NAME, image.digest))
    assert ask(tmp_path, signer, f"dir:{tmp_path}/image").status == 200


def test_what_an_index_names_has_signatures_of_its_own(tmp_path: Path, signer: Signer) -> None:
    images = multi_arch(tmp_path / "layout")
    reference = write_list(tmp_path / "layout", tmp_path / "image")
    digest = images["linux/arm64/v8"].digest
    signature = signer.sign_image(NAME, digest)
    (tmp_path / f"image/{digest.partition(':')[2]}.signature-1").write_bytes(signature)
    assert ask(tmp_path, signer, reference, "/manifest?platform=linux/arm64/v8").status == 200
    assert ask(tmp_path, signer, reference, "/manifest?platform=linux/amd64").status == 403


def test_a_changed_manifest_is_not_served_by_its_old_signature(
    tmp_path: Path, image: StoredImage, signer: Signer
) -> None:
    (tmp_path / "image/signature-1").write_bytes(signer.sign_image(NAME, image.digest))
    changed = json.loads(image.manifest) | {"annotations": {"other": "image"}}
    (tmp_path / "image/manifest.json").write_text(json.dumps(changed))
    assert ask(tmp_path, signer, f"dir:{tmp_path}/image").status == 403


def test_an_index_that_names_a_manifest_which_is_not_there_is_told_so(tmp_path: Path, signer: Signer) -> None:
    images = multi_arch(tmp_path / "layout")
    reference = write_list(tmp_path / "layout", tmp_path / "image")
    digest = images["linux/arm64/v8"].digest
    (tmp_path / f"image/{digest.partition(':')[2]}.manifest.json").unlink()
    reply = ask(tmp_path, signer, reference, "/manifest?platform=linux/arm64/v8")
    assert reply.status == 404
    assert digest in reply.json["detail"]
