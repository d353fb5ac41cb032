"""Signatures that are attached to a manifest, as cosign does it: a manifest under a tag, whose layers are payloads.

They become what containers/image writes for them in a directory or lookaside storage. The daemon hands attachments out
as they are. Nobody has verified them, so that whoever uses them has to.
Spec: cosign, SIGNATURE_SPEC.md; containers-signature(5).
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Final

from container_image_client.documents import parse_manifest
from container_image_client.errors import NotFoundError, UnexpectedAnswerError
from container_image_client.transport import MAX_DOCUMENT

if TYPE_CHECKING:
    from container_image_client.client import Client

_MOST: Final = 128  # signatures of a manifest, as many as the daemon would look at
_SIGSTORE_JSON: Final = b"\0sigstore-json\n"


def fetch_signatures(client: Client, digest: str) -> tuple[bytes, ...]:
    """The signatures that are attached to the manifest with this digest, each as the content of a file."""
    try:
        raw = client.original_manifest(f"{digest.replace(':', '-')}.sig")
    except NotFoundError:
        return ()
    _, layers, _ = parse_manifest(raw)
    if len(layers) > _MOST:
        raise UnexpectedAnswerError(f"{len(layers)} signatures are attached to {digest}; {_MOST} are allowed")
    signatures = []
    for layer in layers:
        if layer.size > MAX_DOCUMENT:
            raise UnexpectedAnswerError(f"a signature that is attached to {digest} has {layer.size} bytes")
        with client.open_attached(layer.digest) as blob:
            payload = base64.b64encode(blob.read()).decode()
        members = {"mimeType": layer.media_type, "payload": payload, "annotations": dict(layer.annotations)}
        signatures.append(_SIGSTORE_JSON + json.dumps(members, separators=(",", ":")).encode())
    return tuple(signatures)
