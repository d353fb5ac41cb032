"""How docker:// references are read and what policy knows them by, over the recorded cases."""

from __future__ import annotations

from typing import Any

import pytest

from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.transports.docker import DockerReference
from container_image_proxy.transports.table import parse_image_reference
from tests.support.conformance import expects_error, rows

Row = dict[str, Any]


@rows("reference/transports", keep=lambda row: row["input"].startswith(f"{DockerReference.transport}:"))
def test_parse(row: Row) -> None:
    if expects_error("reference/transports", row, recorded="error" in row):
        with pytest.raises(InvalidReferenceError):
            parse_image_reference(row["input"])
        return
    reference = parse_image_reference(row["input"])
    if "result" not in row:
        return
    assert {
        "docker_reference": str(reference.docker_reference),
        "name": str(reference),
        "policy_identity": reference.policy_identity,
        "policy_namespaces": list(reference.policy_namespaces),
        "transport": reference.transport,
        "within": str(reference).removeprefix("docker:"),
    } == row["result"]
