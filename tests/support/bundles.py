"""Sigstore bundles for tests, as cosign 3 makes them, and the artifacts in which a registry keeps them."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
from pathlib import Path
from typing import Any

from tests.support.layouts import OCI_EMPTY, OCI_INDEX, OCI_MANIFEST, Layout, StoredImage
from tests.support.layouts import encode as encode_json
from tests.support.sigstore import SIGNED_AT, Certificate, PrivateKey, encode, public_pem, sign

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PREDICATE = "https://sigstore.dev/cosign/sign/v1"
IN_TOTO = "application/vnd.in-toto+json"

JSON = dict[str, Any]


def statement(manifest: bytes, name: str | None = None, **more: Any) -> JSON:
    """What cosign says of an image; ``name`` as other signers add it."""
    subject: JSON = {"digest": {"sha256": hashlib.sha256(manifest).hexdigest()}}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [subject | ({"name": name} if name is not None else {})],
        "predicateType": PREDICATE,
        "predicate": {},
    } | more


def pae(payload: bytes, payload_type: str = IN_TOTO) -> bytes:
    return f"DSSEv1 {len(payload_type)} {payload_type} {len(payload)} ".encode() + payload


def envelope(key: PrivateKey, said: JSON | bytes, payload_type: str = IN_TOTO, **sign_options: Any) -> JSON:
    payload = said if isinstance(said, bytes) else json.dumps(said).encode()
    signature = sign(key, pae(payload, payload_type), **sign_options)
    return {"payload": encode(payload), "payloadType": payload_type, "signatures": [{"sig": encode(signature)}]}


def message(key: PrivateKey, manifest: bytes) -> JSON:
    digest = {"algorithm": "SHA2_256", "digest": encode(hashlib.sha256(manifest).digest())}
    return {"messageDigest": digest, "signature": encode(sign(key, manifest))}


def bundle(content: JSON, leaf: Certificate | None = None, entries: list[JSON] | None = None) -> JSON:
    """Around an envelope or a message signature; by a bare key unless ``leaf`` is given."""
    signer: JSON = {"publicKey": {"hint": "aGludA=="}}
    if leaf is not None:
        signer = {"certificate": {"rawBytes": encode(ssl.PEM_cert_to_DER_cert(leaf.pem.decode()))}}
    kind = "dsseEnvelope" if "payload" in content else "messageSignature"
    return {"mediaType": BUNDLE, "verificationMaterial": signer | {"tlogEntries": entries or []}, kind: content}


def log_entry(log: PrivateKey, content: JSON, signer: bytes, *, at: float = SIGNED_AT.timestamp(), **spec: Any) -> JSON:
    """A Rekor 1 entry with its promise; ``signer`` is PEM, ``spec`` replaces parts of what the entry says."""
    made: JSON
    if "payload" in content:
        kind = "dsse"
        made = {
            "envelopeHash": {"algorithm": "sha256", "value": "00"},
            "payloadHash": {
                "algorithm": "sha256",
                "value": hashlib.sha256(_decode(content["payload"])).hexdigest(),
            },
            "signatures": [{"signature": content["signatures"][0]["sig"], "verifier": encode(signer)}],
        }
    else:
        kind = "hashedrekord"
        digest = _decode(content["messageDigest"]["digest"]).hex()
        key = {"content": encode(signer)}
        made = {
            "data": {"hash": {"algorithm": "sha256", "value": digest}},
            "signature": {"content": content["signature"], "publicKey": key},
        }
    return promise(log, {"apiVersion": "0.0.1", "kind": kind, "spec": made | spec}, at=at)


def promise(log: PrivateKey, body: JSON, *, at: float = SIGNED_AT.timestamp()) -> JSON:
    """The log's promise about this very body."""
    raw = json.dumps(body).encode()
    log_id = hashlib.sha256(public_pem(log)).digest()
    signed = {"body": encode(raw), "integratedTime": int(at), "logID": log_id.hex(), "logIndex": 7}
    timestamp = sign(log, json.dumps(signed, separators=(",", ":"), sort_keys=True).encode())
    return {
        "logIndex": "7",
        "logId": {"keyId": encode(log_id)},
        "kindVersion": {"kind": body["kind"], "version": body["apiVersion"]},
        "integratedTime": str(int(at)),
        "inclusionPromise": {"signedEntryTimestamp": encode(timestamp)},
        "inclusionProof": {"logIndex": "7", "hashes": []},
        "canonicalizedBody": encode(raw),
    }


def _decode(text: str) -> bytes:
    return base64.b64decode(text)


def referrer(layout: Layout, subject: JSON, content: JSON, name: str | None = None) -> StoredImage:
    """The artifact in which cosign keeps a bundle, in a layout."""
    raw = json.dumps(content).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": BUNDLE,
        "config": layout.blob(b"{}", OCI_EMPTY),
        "layers": [layout.blob(raw, BUNDLE)],
        "subject": {key: subject[key] for key in ("mediaType", "digest", "size")},
    }
    return layout.manifest(manifest, b"{}", (raw,), name=name)


def listed(artifact: StoredImage, **more: Any) -> JSON:
    """The artifact's entry in a list of referrers."""
    return artifact.descriptor | {"artifactType": BUNDLE} | more


def list_of(*entries: JSON) -> bytes:
    """A list of referrers."""
    return encode_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)})


def fallback(path: Path, subject: JSON, content: JSON, **more: Any) -> Layout:
    """A layout with the index, named ``referrers``, that clients keep where a registry has no API."""
    layout = Layout(path)
    artifact = referrer(layout, subject, content)
    layout.index([listed(artifact, **more)], name="referrers")
    return layout
