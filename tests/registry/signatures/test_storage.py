"""Which signatures are found, from whichever places they come: how many are taken, and what a failure costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from container_image_proxy.concurrency.context import Context
from container_image_proxy.config.lookaside import LookasideConfiguration, Section
from container_image_proxy.errors import (
    DigestMismatchError,
    Error,
    InvalidManifestError,
    RegistryAuthError,
    RegistryError,
    RegistryUnavailableError,
    UnknownBlobError,
    UnknownManifestError,
    UnreadableSignatureError,
)
from container_image_proxy.image.digest import Digest, digest_of
from container_image_proxy.image.manifest import Descriptor, IndexEntry, UntrustedManifest
from container_image_proxy.image.media_types import BUNDLE_MEDIA_TYPE, OCI_MANIFEST
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.image.signature import SIGNATURE_MEDIA_TYPE, Findings
from container_image_proxy.registry.client import RegistryClient
from container_image_proxy.registry.endpoints import Repository
from container_image_proxy.registry.signatures.storage import SignatureStorage
from tests.support.contexts import CONTEXT

MIRROR = Repository(domain="mirror.example", reference=parse_reference("mirror.example/some/os:1"))
DIGEST = digest_of(b"the manifest")
PAYLOAD = b"{}"
SIGNATURE = b"\0simple-signing\nx"
DOWN = RegistryUnavailableError("it is down", retryable=True)
FORBIDDEN = RegistryAuthError("it answered 403")
FORGED = DigestMismatchError("it sent other content")
GARBAGE = b"<html>"

Answer = bytes | Error | None


class Registry:
    """What a registry client has to say.

    Of an image with ``count`` attached signatures, each with such a note and as ``blobs`` have it; of ``referrers``, a
    failure or a bundle's answer each; of ``documents``, by their last component.
    """

    def __init__(
        self,
        count: int = 0,
        note: str = "",
        *,
        blobs: Mapping[int, Answer] | None = None,
        attachment: Error | None = None,
        referrers: list[Answer] | Error = [],  # noqa: B006 - never changed
        documents: Mapping[str, Answer] | None = None,
    ) -> None:
        self.count, self.note, self.blobs, self.attachment = count, note, blobs or {}, attachment
        self.referrers, self.documents = referrers, documents or {}
        self.asked: list[str] = []

    def fetch_manifest(self, _: Context, place: Repository) -> UntrustedManifest:
        if place.reference.digest is None:
            assert str(place.reference) == f"mirror.example/some/os:sha256-{DIGEST.hex}.sig"
            if self.attachment:
                raise self.attachment
            return self._manifest(SIGNATURE_MEDIA_TYPE, self.count)
        number = [str(digest_of(b"%d" % number)) for number in range(9)].index(str(place.reference.digest))
        answer = cast("list[Answer]", self.referrers)[number]
        if isinstance(answer, Error):
            raise answer
        return self._manifest(BUNDLE_MEDIA_TYPE, 1)

    def _manifest(self, media_type: str, count: int) -> UntrustedManifest:
        layer = {"mediaType": media_type, "digest": str(digest_of(PAYLOAD)), "size": len(PAYLOAD)}
        layers = [layer | {"annotations": {"note": self.note, "n": str(number)}} for number in range(count)]
        document: dict[str, Any] = {"schemaVersion": 2, "config": layer, "layers": layers}
        return UntrustedManifest(json.dumps(document).encode(), OCI_MANIFEST)

    def fetch_blob(self, _: Context, __: object, layer: Descriptor) -> bytes:
        answer = self.blobs.get(int(layer.annotations["n"]), PAYLOAD)
        if isinstance(answer, Error):
            raise answer
        return answer or PAYLOAD

    def fetch_referrers(self, *_: object) -> tuple[IndexEntry, ...]:
        if isinstance(self.referrers, Error):
            raise self.referrers
        digests = [str(digest_of(b"%d" % number)) for number in range(len(self.referrers))]
        return tuple(IndexEntry(f"manifests[{n}]", digest, OCI_MANIFEST) for n, digest in enumerate(digests))

    def fetch_document(self, _: Context, url: str, *, limit: int) -> bytes | None:
        assert limit == 4 << 20
        name = url.rpartition("/")[2]
        self.asked.append(name)
        answer = self.documents.get(name)
        if isinstance(answer, Error):
            raise answer
        return answer


def fetch(registry: Registry, digest: Digest = DIGEST, *, lookaside: str = "https://sigs.example/x") -> list[Findings]:
    """What each place gave: the lookaside storage, the attachments, the referrers."""
    for_all = Section(lookaside=lookaside, use_sigstore_attachments=True)
    storage = SignatureStorage(LookasideConfiguration("/none", for_all), cast("RegistryClient", registry))
    return list(storage.fetch(CONTEXT, MIRROR, digest, {"simple", "sigstore"}))


def counts(found: list[Findings]) -> list[int]:
    return [len(findings.signatures) for findings in found]


def failures(findings: Findings) -> list[str]:
    return [str(failure) for failure in findings.failures]


def in_lookaside(documents: Mapping[str, Answer]) -> tuple[int, list[Error], list[str]]:
    """How many signatures there were, what failed, and which names were asked for."""
    registry = Registry(documents=documents)
    lookaside = fetch(registry)[0]
    return len(lookaside.signatures), [failure.error for failure in lookaside.failures], registry.asked


def write_signatures(directory: Path, count: int, size: int = 1) -> str:
    """Files as lookaside storage has them; returns its URL."""
    place = directory / f"some/os@sha256={DIGEST.hex}"
    place.mkdir(parents=True)
    for number in range(1, count + 1):
        (place / f"signature-{number}").write_bytes(b"\0simple-signing\n" + b"x" * size)
    return directory.as_uri()


@pytest.mark.demand("LIM-signatures")
def test_the_places_share_one_bound_of_signatures(tmp_path: Path) -> None:
    lookaside = write_signatures(tmp_path, 100)
    assert counts(fetch(Registry(28), lookaside=lookaside)) == [100, 28, 0]
    found = fetch(Registry(29), lookaside=lookaside)
    assert counts(found) == [100, 28, 0]
    assert failures(found[1]) == [
        "there are more than 128 signatures or 8388608 bytes of them, and no more are looked at"
    ]


@pytest.mark.demand("LIM-signatures")
def test_signatures_that_cannot_be_had_count_as_well() -> None:
    registry = Registry(1000, blobs=dict.fromkeys(range(1000), FORBIDDEN))
    found = fetch(registry)
    assert (counts(found), len(found[1].failures)) == ([0, 0, 0], 130)


def test_a_digest_that_is_too_long_for_a_tag_has_no_attachment(tmp_path: Path) -> None:
    assert counts(fetch(Registry(1), digest_of(b"the manifest", "sha512"))) == [0, 0, 0]


@pytest.mark.demand("LIM-signatures")
def test_what_is_noted_beside_a_signature_counts_as_its_size(tmp_path: Path) -> None:
    lookaside = write_signatures(tmp_path, 2, size=3 << 20)
    assert counts(fetch(Registry(2, "x" * 1_000_000), lookaside=lookaside)) == [2, 2, 0]
    found = fetch(Registry(3, "x" * 1_000_000), lookaside=lookaside)
    assert (counts(found), len(found[1].failures)) == ([2, 2, 0], 1)


@pytest.mark.demand("SIG-lookaside-stop")
def test_a_lookaside_ends_with_the_first_that_is_missing() -> None:
    documents = {"signature-1": SIGNATURE, "signature-3": SIGNATURE}
    assert in_lookaside(documents) == (1, [], ["signature-1", "signature-2"])


@pytest.mark.demand("SIG-lookaside-stop")
@pytest.mark.parametrize("bad", [FORBIDDEN, RegistryError("it sent over 4194304 bytes"), FORGED], ids=str)
def test_one_that_cannot_be_had_takes_away_none_that_was_and_hides_none_that_follows(bad: Error) -> None:
    found, failed, _ = in_lookaside({"signature-1": SIGNATURE, "signature-2": bad})
    assert (found, failed) == (1, [bad])
    found, failed, _ = in_lookaside({"signature-1": bad, "signature-2": SIGNATURE})
    assert (found, failed) == (1, [bad])


def test_one_that_is_no_signature_is_a_failure_like_any_other() -> None:
    found, failed, _ = in_lookaside({"signature-1": GARBAGE, "signature-2": SIGNATURE})
    assert (found, [type(error) for error in failed]) == (1, [UnreadableSignatureError])
    assert str(failed[0]).endswith("/signature-1 holds no signature of a known format")


@pytest.mark.parametrize("answer", [FORBIDDEN, GARBAGE])
def test_storage_that_has_such_an_answer_for_everything_is_asked_twice_more_at_most(answer: Answer) -> None:
    documents = {f"signature-{number}": answer for number in range(2, 200)} | {"signature-1": SIGNATURE}
    found, failed, asked = in_lookaside(documents)
    assert (found, len(failed), asked) == (1, 2, ["signature-1", "signature-2", "signature-3"])


def test_storage_that_is_down_is_not_asked_for_more() -> None:
    found, failed, asked = in_lookaside({"signature-1": SIGNATURE, "signature-2": DOWN, "signature-3": SIGNATURE})
    assert (found, failed, asked) == (1, [DOWN], ["signature-1", "signature-2"])


def test_a_lookaside_that_fails_hides_no_attachment() -> None:
    found = fetch(Registry(1, documents={"signature-1": DOWN}))
    assert (counts(found), failures(found[0])) == ([0, 1, 0], ["it is down"])
    found = fetch(Registry(1), lookaside="ftp://sigs.example/x")
    assert counts(found) == [0, 1, 0]
    assert "an http, https or file URL" in failures(found[0])[0]


def test_failures_are_of_the_kinds_that_a_place_may_keep() -> None:
    found = fetch(Registry(documents={"signature-1": DOWN}, attachment=FORBIDDEN))
    assert found[0].failures[0].kinds == {"simple", "sigstore"}
    assert found[1].failures[0].kinds == {"sigstore"}


@pytest.mark.parametrize("bad", [FORBIDDEN, FORGED, UnknownBlobError("it has none")], ids=str)
def test_an_attached_signature_that_cannot_be_had_hides_no_other(bad: Error) -> None:
    found = fetch(Registry(3, blobs={1: bad}))[1]
    assert (len(found.signatures), len(found.failures)) == (2, 1)
    assert not isinstance(found.failures[0].error, UnknownBlobError)


def test_attachments_of_a_registry_that_is_down_are_not_asked_for_one_by_one() -> None:
    found = fetch(Registry(3, blobs={1: DOWN}))[1]
    assert (len(found.signatures), failures(found)) == (1, ["it is down"])


def test_an_attachment_that_is_too_large_is_a_failure_before_it_is_fetched() -> None:
    class Large(Registry):
        def _manifest(self, media_type: str, count: int) -> UntrustedManifest:
            document = json.loads(super()._manifest(media_type, count).raw)
            document["layers"][0]["size"] = 5 << 20
            return UntrustedManifest(json.dumps(document).encode(), OCI_MANIFEST)

    found = fetch(Large(2, blobs={0: DOWN}))[1]
    assert (len(found.signatures), len(found.failures)) == (1, 1)
    assert failures(found)[0].endswith(".sig names a signature of over 4194304 bytes")


@pytest.mark.parametrize("bad", [FORBIDDEN, InvalidManifestError("it is no manifest")], ids=str)
def test_a_bundle_that_cannot_be_had_hides_no_other(bad: Error) -> None:
    found = fetch(Registry(referrers=[bad, PAYLOAD, UnknownManifestError("gone")]))[2]
    assert (len(found.signatures), failures(found)) == (1, [str(bad)])


def test_a_list_of_referrers_that_cannot_be_had_is_a_failure() -> None:
    found = fetch(Registry(1, referrers=FORBIDDEN))
    assert (counts(found), failures(found[2])) == ([0, 1, 0], ["it answered 403"])
