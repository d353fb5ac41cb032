"""oci/schema_cases: documents that the OCI JSON schemas accept or refuse, against our reading of them.

Image configurations are never parsed by the daemon, so their rows do not apply.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from container_image_proxy.errors import InvalidManifestError
from container_image_proxy.image.descriptor import parse_descriptor
from container_image_proxy.image.manifest import UntrustedManifest, parse_manifest
from container_image_proxy.image.media_types import OCI_INDEX, OCI_MANIFEST
from tests.support.conformance import expects_error, rows

Row = dict[str, Any]


def _read(kind: str, document: str) -> object:
    if kind == "descriptor":
        return parse_descriptor(json.loads(document), "row")
    return parse_manifest(UntrustedManifest(document.encode(), {"manifest": OCI_MANIFEST, "index": OCI_INDEX}[kind]))


@pytest.mark.demand("DIG-malformed")
@rows("oci/schema_cases", keep=lambda row: row["kind"] in {"manifest", "index", "descriptor"})
def test_schema_cases(row: Row) -> None:
    if expects_error("oci/schema_cases", row, recorded=not row["valid"]):
        with pytest.raises(InvalidManifestError):
            _read(row["kind"], row["document"])
    else:
        _read(row["kind"], row["document"])
