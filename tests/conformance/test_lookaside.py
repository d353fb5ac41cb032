"""The docker tables about signature storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlunsplit

import pytest

from container_image_proxy.config.lookaside import load_lookaside, signature_url
from container_image_proxy.errors import ConfigurationError, Error
from container_image_proxy.image.digest import parse_digest
from container_image_proxy.image.reference import parse_reference
from tests.support.conformance import rows


@rows("docker/registries_d")
def test_registries_d(row: dict[str, Any], tmp_path: Path) -> None:
    for name, text in row["files"].items():
        (tmp_path / name).write_text(text)
    if row.get("config_error"):
        with pytest.raises(ConfigurationError):
            load_lookaside(directory=tmp_path, home=None, uid=0)
        return
    configuration = load_lookaside(directory=tmp_path, home=None, uid=0)
    for lookup in row["lookups"]:
        reference = parse_reference(lookup["reference"].removeprefix("//"))
        if lookup.get("error"):
            with pytest.raises(ConfigurationError):
                configuration.lookaside_base_url(reference)
        else:
            assert configuration.lookaside_base_url(reference) == lookup["lookaside_base_url"]
        assert configuration.use_sigstore_attachments(reference) is lookup["use_sigstore_attachments"]


def assemble(url: dict[str, str]) -> str:
    return urlunsplit((url["Scheme"], url.get("Host", ""), url["Path"], "", ""))


@rows("docker/lookaside_signature_url")
def test_lookaside_signature_url(row: dict[str, Any]) -> None:
    if row["error"] is not None:
        with pytest.raises(Error):
            signature_url(assemble(row["base"]), parse_digest(row["digest"]), row["index"])
        return
    assert signature_url(assemble(row["base"]), parse_digest(row["digest"]), row["index"]) == assemble(row["url"])
