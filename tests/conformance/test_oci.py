"""oci/schema_cases and oci/schemas: what the OCI JSON schemas accept against what we read and what we write.

Image configurations are never parsed by the daemon, so their rows do not apply.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import referencing
import referencing.jsonschema

from container_image_proxy.errors import InvalidManifestError, MalformedDocumentError
from container_image_proxy.image.convert import to_oci
from container_image_proxy.image.descriptor import parse_descriptor
from container_image_proxy.image.manifest import UntrustedManifest, parse_manifest
from container_image_proxy.image.media_types import OCI_INDEX, OCI_LAYER_OF, OCI_MANIFEST
from tests.support.conformance import DIRECTORY, expects_error, rows
from tests.support.manifests import descriptor, docker_manifest, manifest_of

Row = dict[str, Any]

SCHEMAS = DIRECTORY / "oci" / "schemas"


def _read(kind: str, document: str) -> object:
    if kind == "descriptor":
        return parse_descriptor(json.loads(document), ("row",))
    return parse_manifest(UntrustedManifest(document.encode(), {"manifest": OCI_MANIFEST, "index": OCI_INDEX}[kind]))


@pytest.mark.demand("DIG-malformed")
@rows("oci/schema_cases", keep=lambda row: row["kind"] in {"manifest", "index", "descriptor"})
def test_schema_cases(row: Row) -> None:
    if expects_error("oci/schema_cases", row, recorded=not row["valid"]):
        with pytest.raises((InvalidManifestError, MalformedDocumentError)):
            _read(row["kind"], row["document"])
    else:
        _read(row["kind"], row["document"])


def _schema(uri: str) -> referencing.Resource[Any]:
    document = json.loads((SCHEMAS / uri.rpartition("/")[2]).read_text(encoding="utf-8"))
    return referencing.Resource.from_contents(document, default_specification=referencing.jsonschema.DRAFT4)


def test_a_converted_manifest_is_valid() -> None:
    details = {"urls": ["https://mirror.example/layer"], "annotations": {"org.example.key": "value"}}
    layers = [descriptor(media_type, **details) for media_type in OCI_LAYER_OF]
    converted = json.loads(to_oci(manifest_of(docker_manifest(layers=layers))).raw)
    schema = _schema("image-manifest-schema.json").contents
    registry: referencing.Registry[Any] = referencing.Registry(retrieve=_schema)
    validator = jsonschema.Draft4Validator(schema, registry=registry, format_checker=jsonschema.FormatChecker())
    validator.validate(converted)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(converted | {"config": {"size": -1}})
