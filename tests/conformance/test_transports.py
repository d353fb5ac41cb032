"""``transport:reference`` as skopeo reads it: names, policy identities and namespaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from container_image_proxy.config.storage_conf import StoreLocation
from container_image_proxy.errors import Error
from container_image_proxy.image.image_reference import ImageReference
from container_image_proxy.transports.docker import DockerReference
from container_image_proxy.transports.table import parse_image_reference
from tests.support.conformance import deviation, rows


def parse(text: str) -> ImageReference:
    """As on a host without storage.conf."""
    return parse_image_reference(text, lambda: StoreLocation("overlay", Path("/var/lib/containers/storage")))


def columns(reference: ImageReference) -> dict[str, Any]:
    """A reference as the tables write it."""
    named = {"docker_reference": str(reference.docker_reference)} if reference.docker_reference else {}
    return {
        "transport": reference.transport,
        "within": str(reference).removeprefix(f"{reference.transport}:"),
        "name": str(reference),
        "policy_identity": reference.policy_identity,
        "policy_namespaces": list(reference.policy_namespaces),
        **named,
    }


@rows("reference/transports")
def test_an_image_name_as_on_skopeo_s_command_line(row: dict[str, Any]) -> None:
    differs = deviation("reference/transports", row)
    if differs and differs.expect == "ok":
        assert parse(row["input"])
    elif differs or "error" in row:
        with pytest.raises(Error):
            parse(row["input"])
    else:
        assert columns(parse(row["input"])) == row["result"]


@rows("reference/parse")
def test_what_the_docker_transport_makes_of_a_name(row: dict[str, Any]) -> None:
    differs = deviation("reference/parse", row) or deviation("reference/docker_transport", row)
    if differs and differs.expect == "ok":
        assert DockerReference.parse(f"//{row['input']}")
    elif differs or "error" in row["docker_transport"]:
        with pytest.raises(Error):
            DockerReference.parse(f"//{row['input']}")
    else:
        assert columns(DockerReference.parse(f"//{row['input']}")) == row["docker_transport"]
