"""platform/: which platforms are tried in which order, and which manifest of an index is chosen."""

from __future__ import annotations

from typing import Any

import pytest

from container_image_proxy.errors import InvalidDigestError, InvalidManifestError, UnknownManifestError
from container_image_proxy.image.digest import parse_digest
from container_image_proxy.image.manifest import Index, UntrustedManifest, choose_manifest, parse_manifest
from container_image_proxy.image.platform import Platform, wanted_platforms
from tests.support.conformance import deviation, rows

Row = dict[str, Any]


@rows("platform/wanted")
def test_wanted(row: Row) -> None:
    wanted = row["wanted"]
    platform = Platform(wanted["OSChoice"], wanted["ArchitectureChoice"], wanted.get("VariantChoice", ""))
    tried = [Platform(each["OS"], each["Architecture"], each.get("Variant", "")) for each in row["platforms"]]
    assert list(wanted_platforms(platform)) == tried


@rows("platform/lists")
def test_lists(row: Row) -> None:
    untrusted, rule = UntrustedManifest(row["manifest"].encode(), row["content_type"]), deviation("platform/lists", row)
    if row.get("parse_error"):
        with pytest.raises(InvalidManifestError):
            parse_manifest(untrusted)
        return
    index = parse_manifest(untrusted)
    assert isinstance(index, Index)
    recorded = {_platform(choice): choice["choose_instance"] for choice in row["choices"]}
    expected = {platform: answer if isinstance(answer, str) else None for platform, answer in recorded.items()}
    if rule:
        assert rule.expect == "no choice where the digest is malformed"
        expected = {platform: answer if _is_digest(answer) else None for platform, answer in expected.items()}
    assert {platform: _chosen(index, platform) for platform in recorded} == expected


def _platform(choice: dict[str, str]) -> Platform:
    return Platform(choice["os"], choice["architecture"], choice["variant"])


def _chosen(index: Index, platform: Platform) -> str | None:
    try:
        return str(choose_manifest(index, platform).digest)
    except (UnknownManifestError, InvalidManifestError):
        return None


def _is_digest(text: str | None) -> bool:
    try:
        return bool(parse_digest(text or ""))
    except InvalidDigestError:
        return False
