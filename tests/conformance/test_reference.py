"""reference/parse and reference/with_tag: the grammar and normalisation of Docker references."""

from __future__ import annotations

from typing import Any

import pytest

from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.image.reference import Reference, parse_reference, policy_identity, policy_namespaces
from tests.support.conformance import expects_error, rows

Row = dict[str, Any]


@rows("reference/parse")
def test_parse(row: Row) -> None:
    recorded = row["parse_normalized_named"]
    if expects_error("reference/parse", row, recorded="error" in recorded):
        with pytest.raises(InvalidReferenceError):
            parse_reference(row["input"])
        return
    reference = parse_reference(row["input"])
    if "error" in recorded:  # and yet it is read
        return
    assert _columns(reference) == recorded
    tagged = reference.with_default_tag()
    assert str(tagged) == row["tag_name_only"]
    assert list(policy_namespaces(tagged)) == row["policy_namespaces"]
    if isinstance(row["policy_identity"], str):
        assert policy_identity(tagged) == row["policy_identity"]
    else:
        with pytest.raises(InvalidReferenceError):
            policy_identity(tagged)


def _columns(reference: Reference) -> dict[str, str]:
    optional = {"tag": reference.tag, "digest": reference.digest}
    return {
        "string": str(reference),
        "familiar": reference.familiar,
        "name": reference.name,
        "domain": reference.domain,
        "path": reference.path,
        **{column: str(value) for column, value in optional.items() if value is not None},
    }


@rows("reference/with_tag")
def test_with_tag(row: Row) -> None:
    if expects_error("reference/with_tag", row, recorded=bool(row["error"])):
        with pytest.raises(InvalidReferenceError):
            parse_reference(row["name"]).with_tag(row["tag"])
    else:
        assert str(parse_reference(row["name"]).with_tag(row["tag"])) == row["result"]
