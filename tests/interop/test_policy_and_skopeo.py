"""The same policy.json and the same signed image: skopeo's verdict and ours."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from container_image_proxy.core.proxy import Proxy, ServedImage
from container_image_proxy.core.snapshot_store import SnapshotStore
from container_image_proxy.errors import PolicyRejectedError
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.platform import Platform
from container_image_proxy.policy.model import load_policy
from container_image_proxy.transports.table import parse_image_reference
from tests.support.contexts import ACCESS, CONTEXT
from tests.support.gpg import Signer
from tests.support.layouts import single_image
from tests.support.sigstore import encode, make_key, make_payload, public_pem, sign

NAME = "quay.io/example/os:1"
SIGSTORE_KEY = make_key()


@pytest.fixture
def keys(signer: Signer, stranger: Signer, tmp_path: Path) -> Path:
    for name, content in {
        "signer.gpg": signer.public_key,
        "stranger.gpg": stranger.gpg("--armor", "--export"),
        "sigstore.pub": public_pem(SIGSTORE_KEY),
        "other.pub": public_pem(make_key()),
    }.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o644)
    return tmp_path


def skopeo(*arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"GNUPGHOME": str(home)} if home else {})}
    return subprocess.run(["skopeo", *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def signed(signer: Signer, tmp_path: Path) -> Path:
    """A ``dir:`` image that skopeo copied and signed by OpenPGP, with a sigstore signature beside."""
    single_image(tmp_path / "layout")
    done = skopeo(
        *("copy", "--insecure-policy", "--sign-by", signer.fingerprint, "--sign-identity", NAME),
        *(f"oci:{tmp_path}/layout:latest", f"dir:{tmp_path}/signed"),
        home=signer.home,
    )
    assert done.returncode == 0, done.stderr
    return tmp_path / "signed"


def add_sigstore_signature(image: Path) -> None:
    payload = make_payload(NAME, str(digest_of((image / "manifest.json").read_bytes())))
    blob = {
        "mimeType": "application/vnd.dev.cosign.simplesigning.v1+json",
        "payload": encode(payload),
        "annotations": {"dev.cosignproject.cosign/signature": encode(sign(SIGSTORE_KEY, payload))},
    }
    (image / "signature-2").write_bytes(b"\0sigstore-json\n" + json.dumps(blob).encode())


def write_policy(directory: Path, *requirements: Any) -> Path:
    path = directory / "policy.json"
    path.write_text(json.dumps({"default": [{"type": "reject"}], "transports": {"dir": {"": requirements}}}))
    path.chmod(0o644)
    return path


def skopeo_allows(policy: Path, image: Path, elsewhere: Path) -> bool | None:
    """skopeo's verdict; None if it has none, because Debian 12 builds it without sigstore."""
    done = skopeo("copy", "--policy", str(policy), f"dir:{image}", f"dir:{elsewhere}")
    return None if "sigstore disabled" in done.stderr else done.returncode == 0


def we_allow(policy: Path, image: Path) -> bool:
    reference = parse_image_reference(f"dir:{image}")
    served = ServedImage("image", reference, Platform("linux", "amd64"), 0.0)
    proxy = Proxy(
        {"image": served},
        load_policy(str(policy), home=None),
        lambda reference, earlier, state: reference.open_source(ACCESS, earlier, state),
        SnapshotStore(None),
    )
    with contextlib.closing(proxy):
        try:
            proxy.resolve(CONTEXT, "image")
        except PolicyRejectedError:
            return False
        return True


EXACT = {"type": "exactReference", "dockerReference": NAME}
OTHER = {"type": "exactReference", "dockerReference": "quay.io/example/os:2"}
REPOSITORY = {"type": "exactRepository", "dockerRepository": "quay.io/example/os"}


def signed_by(key: str, identity: object) -> dict[str, object]:
    return {"type": "signedBy", "keyType": "GPGKeys", "keyPath": key, "signedIdentity": identity}


def sigstore_signed(key: str, identity: object) -> dict[str, object]:
    return {"type": "sigstoreSigned", "keyPath": key, "signedIdentity": identity}


@pytest.mark.parametrize(
    ("requirements", "allowed"),
    [
        ([{"type": "insecureAcceptAnything"}], True),
        ([{"type": "insecureAcceptAnything"}, {"type": "reject"}], False),
        ([signed_by("signer.gpg", EXACT)], True),
        ([signed_by("signer.gpg", REPOSITORY)], True),
        ([signed_by("signer.gpg", OTHER)], False),
        ([signed_by("signer.gpg", {"type": "matchRepository"})], False),
        ([signed_by("stranger.gpg", EXACT)], False),
        ([sigstore_signed("sigstore.pub", EXACT)], True),
        ([sigstore_signed("sigstore.pub", OTHER)], False),
        ([sigstore_signed("other.pub", EXACT)], False),
        ([sigstore_signed("sigstore.pub", EXACT), signed_by("signer.gpg", EXACT)], True),
        ([sigstore_signed("sigstore.pub", EXACT), signed_by("stranger.gpg", EXACT)], False),
    ],
)
def test_both_come_to_the_same_verdict(
    signed: Path, keys: Path, tmp_path: Path, requirements: list[dict[str, object]], *, allowed: bool
) -> None:
    add_sigstore_signature(signed)
    here = [{k: str(keys / str(v)) if k == "keyPath" else v for k, v in one.items()} for one in requirements]
    policy = write_policy(tmp_path, *here)
    assert we_allow(policy, signed) is allowed
    assert skopeo_allows(policy, signed, tmp_path / "copy") in {allowed, None}


@pytest.mark.parametrize("part", ["manifest.json", "signature-1"])
def test_both_refuse_what_was_changed(signed: Path, keys: Path, tmp_path: Path, part: str) -> None:
    content = (signed / part).read_bytes()
    middle = len(content) // 2  # of the compressed message: its last bits mean nothing
    spoiled = content[:middle] + bytes(byte ^ 0xFF for byte in content[middle : middle + 8]) + content[middle + 8 :]
    (signed / part).write_bytes(spoiled if part == "signature-1" else content + b"\n")
    policy = write_policy(tmp_path, signed_by(str(keys / "signer.gpg"), EXACT))
    assert skopeo_allows(policy, signed, tmp_path / "copy") is False
    assert not we_allow(policy, signed)


def test_a_signature_that_skopeo_makes_by_itself_is_good(
    signer: Signer, signed: Path, keys: Path, tmp_path: Path
) -> None:
    (signed / "signature-1").unlink()
    policy = write_policy(tmp_path, signed_by(str(keys / "signer.gpg"), EXACT))
    assert not we_allow(policy, signed)
    output = ("--output", str(signed / "signature-1"))
    done = skopeo("standalone-sign", str(signed / "manifest.json"), NAME, signer.fingerprint, *output, home=signer.home)
    assert done.returncode == 0, done.stderr
    assert we_allow(policy, signed)


def test_a_signature_that_gpg_makes_here_is_good_for_skopeo(
    signer: Signer, signed: Path, keys: Path, tmp_path: Path
) -> None:
    critical = {
        "type": "atomic container signature",
        "image": {"docker-manifest-digest": str(digest_of((signed / "manifest.json").read_bytes()))},
        "identity": {"docker-reference": NAME},
    }
    (signed / "signature-1").write_bytes(signer.sign(json.dumps({"critical": critical, "optional": {}}).encode()))
    policy = write_policy(tmp_path, signed_by(str(keys / "signer.gpg"), EXACT))
    assert we_allow(policy, signed)
    assert skopeo_allows(policy, signed, tmp_path / "copy")
