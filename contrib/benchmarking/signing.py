"""Signed copies of a small image, and policies that ask for the signatures: by GPG in lookaside storage, by a sigstore
key as an attachment.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarking.images import MANIFEST, make_image, write_json, write_layout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarking.registries import Registry

_PAYLOAD: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_SIGSTORE: Final = "sigstore"  # the repository
_SMALL: Final = 1024


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed image, the policy that asks for the signature, and where skopeo and we look for it.

    ``attachment`` are the URL paths of the signature in the registry, in the order in which they have to be fetched.
    """

    reference: str
    policy: Path
    registries_d: Path
    attachment: tuple[str, ...] = ()


@contextmanager
def signed_by_gpg(directory: Path, registry: Registry) -> Iterator[Signed]:
    """A copy that skopeo signs with a key of its own; the key's agent ends with the block."""
    reference, registries_d = _reference(registry, "gpg"), _write_registries_d(directory, registry)
    image = make_image(directory / "layout", _SMALL)
    with tempfile.TemporaryDirectory(prefix="gpg-") as home:  # short: the agent's socket lies in it
        gpg = ["gpg", "--homedir", home, "--batch", "--quiet"]
        subprocess.run([*gpg, "--passphrase", "", "--quick-generate-key", "benchmark", "ed25519", "sign"], check=True)
        exported = subprocess.run([*gpg, "--export"], check=True, capture_output=True).stdout
        (directory / "key.gpg").write_bytes(exported)
        copy = ["skopeo", "--insecure-policy", "--registries.d", str(registries_d), "copy", "--quiet"]
        target = [f"oci:{image.layout}:latest", reference]
        environ = os.environ | {"GNUPGHOME": home}
        subprocess.run([*copy, "--dest-tls-verify=false", "--sign-by", "benchmark", *target], check=True, env=environ)
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
    requirement = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(directory / "key.gpg")}
    yield Signed(reference, _write_policy(directory, requirement), registries_d)


@contextmanager
def signed_by_sigstore(directory: Path, registry: Registry) -> Iterator[Signed]:
    """A copy with the attachment that cosign would push for a key of its own."""
    reference, registries_d = _reference(registry, _SIGSTORE), _write_registries_d(directory, registry)
    image = make_image(directory / "layout", _SMALL)
    _copy(f"oci:{image.layout}:latest", reference)
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (directory / "key.pub").write_bytes(public)
    payload = {
        "critical": {
            "identity": {"docker-reference": reference.removeprefix("docker://").rpartition(":")[0]},
            "image": {"docker-manifest-digest": image.manifest_digest},
            "type": "cosign container image signature",
        },
        "optional": {},
    }
    attachment = directory / "attachment"
    layer = write_json(attachment, payload, _PAYLOAD)
    signature = key.sign(json.dumps(payload).encode(), ec.ECDSA(hashes.SHA256()))
    layer["annotations"] = {"dev.cosignproject.cosign/signature": base64.b64encode(signature).decode()}
    rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
    config = write_json(attachment, {"architecture": "", "os": "", "rootfs": rootfs}, _CONFIG)
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
    write_layout(attachment, write_json(attachment, manifest, MANIFEST))
    tag = f"{image.manifest_digest.replace(':', '-')}.sig"
    _copy(f"oci:{attachment}:latest", f"{reference.rpartition(':')[0]}:{tag}")
    paths = (f"/v2/{_SIGSTORE}/manifests/{tag}", f"/v2/{_SIGSTORE}/blobs/{layer['digest']}")
    requirement = {
        "type": "sigstoreSigned",
        "keyPath": str(directory / "key.pub"),
        "signedIdentity": {"type": "matchRepository"},
    }
    yield Signed(reference, _write_policy(directory, requirement), registries_d, paths)


def _reference(registry: Registry, name: str) -> str:
    return f"docker://localhost:{registry.port}/{name}:latest"


def _copy(source: str, target: str) -> None:
    copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
    subprocess.run([*copy, source, target], check=True)


def _write_registries_d(directory: Path, registry: Registry) -> Path:
    path = directory / "registries.d"
    path.mkdir(parents=True)
    settings = {"lookaside": f"file://{directory}/lookaside", "use-sigstore-attachments": True}
    document = {"docker": {f"localhost:{registry.port}": settings}}
    (path / "benchmark.yaml").write_text(json.dumps(document))  # YAML has JSON as a subset
    return path


def _write_policy(directory: Path, requirement: dict[str, Any]) -> Path:
    path = directory / "policy.json"
    path.write_text(json.dumps({"default": [requirement]}))
    path.chmod(0o600)
    return path
