"""What a registry's client may have, over a source that lies; the rest is tests/functional/test_distribution.py's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from container_image_proxy.core import distribution as module
from container_image_proxy.core.distribution import Distribution
from container_image_proxy.core.proxy import Proxy, ServedImage
from container_image_proxy.core.snapshot_store import SnapshotStore
from container_image_proxy.errors import DigestMismatchError, InvalidManifestError, UnknownBlobError
from container_image_proxy.image.digest import Digest, digest_of, parse_digest
from container_image_proxy.image.manifest import Index, UntrustedManifest, parse_manifest
from container_image_proxy.image.media_types import OCI_INDEX, OCI_MANIFEST
from container_image_proxy.image.platform import Platform
from container_image_proxy.policy.model import insecure_policy
from container_image_proxy.transports.table import parse_image_reference
from tests.support.contexts import ACCESS, CONTEXT
from tests.support.layouts import StoredImage, encode, single_image

NOTE = encode(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": str(digest_of(b"{}")), "size": 2},
        "layers": [{"mediaType": "text/plain", "digest": str(digest_of(b"note")), "size": 4}],
    }
)


class Attached:
    """The source of a layout, with referrers that it lists and sends as it likes."""

    def __init__(self, inner: Any, listed: list[Any], sent: bytes) -> None:
        self._inner = inner
        self._listed = listed
        self._sent = sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def fetch_manifest(self, context: Any, digest: Digest | None = None, **more: Any) -> UntrustedManifest | None:
        if digest == digest_of(NOTE):
            return UntrustedManifest(self._sent, OCI_MANIFEST)
        return cast("UntrustedManifest | None", self._inner.fetch_manifest(context, digest, **more))

    def fetch_tagged(self, *_: object) -> UntrustedManifest:
        return UntrustedManifest(self._sent, OCI_MANIFEST)

    def list_referrers(self, *_: object) -> tuple[Index, ...]:
        raw = encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self._listed})
        index = parse_manifest(UntrustedManifest(raw, OCI_INDEX))
        assert isinstance(index, Index)
        return (index,)


def entry(digest: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(NOTE), **more}


@contextmanager
def bench(path: Path, listed: list[Any], sent: bytes = NOTE) -> Iterator[tuple[Distribution, StoredImage]]:
    stored = single_image(path)
    image = ServedImage("os", parse_image_reference(f"oci:{path}:latest"), Platform("linux", "amd64"), 1.0)

    def open_source(reference: Any, earlier: Any, state: bytes) -> Any:
        return Attached(reference.open_source(ACCESS, None, state), listed, sent)

    proxy = Proxy({"os": image}, policy=insecure_policy(), open_source=open_source, store=SnapshotStore(None))
    with closing(proxy):
        yield Distribution(proxy), stored


@pytest.mark.demand("DIG-manifest-by-digest")
def test_a_referrer_is_held_against_its_digest_whoever_sent_it(tmp_path: Path) -> None:
    with bench(tmp_path, [entry(str(digest_of(NOTE)))], NOTE + b" ") as (distribution, stored):
        distribution.list_referrers(CONTEXT, "os", parse_digest(stored.digest))
        with pytest.raises(DigestMismatchError):
            distribution.find_manifest(CONTEXT, "os", digest_of(NOTE))


def test_a_referrers_blobs_are_known_once_it_was_asked_for(tmp_path: Path) -> None:
    with bench(tmp_path, [entry(str(digest_of(NOTE)))]) as (distribution, stored):
        distribution.list_referrers(CONTEXT, "os", parse_digest(stored.digest))
        with pytest.raises(UnknownBlobError):
            distribution.find_blob(CONTEXT, "os", digest_of(b"note"))
        assert distribution.find_manifest(CONTEXT, "os", digest_of(NOTE)).raw == NOTE
        assert distribution.find_blob(CONTEXT, "os", digest_of(b"note"))[1].size == 4


def test_referrers_are_bounded_in_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REFERRERS", 3)
    listed = [entry(f"sha256:{number:064x}") for number in range(4)]
    with (
        bench(tmp_path, listed) as (distribution, stored),
        pytest.raises(InvalidManifestError, match="more than 3 referrers"),
    ):
        distribution.list_referrers(CONTEXT, "os", parse_digest(stored.digest))


def test_what_is_listed_twice_or_odd_is_listed_once_or_not_at_all(tmp_path: Path) -> None:
    good = entry(str(digest_of(NOTE)), artifactType="a/b", annotations={"x": "y"})
    with bench(tmp_path, [good, good, {"digest": 7}, entry("sha256:1"), good | {"mediaType": 1}]) as (
        distribution,
        stored,
    ):
        document = distribution.list_referrers(CONTEXT, "os", parse_digest(stored.digest))
        assert json.loads(document.raw)["manifests"] == [good]


@pytest.mark.parametrize(("size", "kept"), [(1, 4), (1 << 20, 2)])
def test_what_is_remembered_is_bounded_in_number_and_size(
    monkeypatch: pytest.MonkeyPatch, size: int, kept: int
) -> None:
    monkeypatch.setattr(module, "_MAX_COUNT", 4)
    monkeypatch.setattr(module, "_MAX_SIZE", 2 << 20)
    recent: Any = module._Recent()
    for number in range(10):
        recent.add("os", f"sha256:{number:064x}", number, size)
        recent.get("os", parse_digest(f"sha256:{0:064x}"))
    found = recent.of("os")
    assert len(found) == kept
    assert {0, 9} <= set(found), "the newest, and what was used lately"
