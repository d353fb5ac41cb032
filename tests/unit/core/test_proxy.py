"""The use case over a real layout: what is resolved, when, what is kept, and that nothing unverified comes out."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from msgspec.structs import replace

from container_image_proxy.concurrency.cancellation import Cancellation
from container_image_proxy.concurrency.context import Context
from container_image_proxy.core.proxy import Proxy, ServedImage
from container_image_proxy.core.snapshot_store import KEPT, SnapshotStore
from container_image_proxy.errors import (
    AmbiguousDigestError,
    DigestMismatchError,
    Error,
    InvalidManifestError,
    PolicyRejectedError,
    RegistryAuthError,
    RegistryUnavailableError,
    SignatureRejectedError,
    SourceError,
    UnknownBlobError,
    UnknownImageError,
    UnknownManifestError,
    VerificationTimeoutError,
)
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import UntrustedManifest
from container_image_proxy.image.platform import Platform
from container_image_proxy.image.signature import Findings, SignatureFailure, UntrustedSignature
from container_image_proxy.policy.model import Policy, insecure_policy, parse_policy
from container_image_proxy.policy.sigstore import trust as sigstore
from container_image_proxy.transports.layout import LayoutReference, LayoutSource
from container_image_proxy.transports.source import ImageSource, SourceReference
from container_image_proxy.transports.table import parse_image_reference
from tests.support.contexts import ACCESS, CONTEXT
from tests.support.layouts import (
    OCI_MANIFEST,
    JSONObject,
    Layout,
    StoredImage,
    layer_tar,
    multi_arch,
    nested_index,
    single_image,
)
from tests.support.sigstore import make_key, make_payload, make_signature, public_pem

KEY = make_key()
AMD64 = Platform("linux", "amd64")
REJECT = parse_policy(b'{"default": [{"type": "reject"}]}', "policy.json")


@pytest.fixture(autouse=True)
def closed_proxies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the proxies that the test makes, and with them what their snapshots hold."""
    made: list[Proxy] = []
    make = Proxy.__init__

    def make_and_remember(proxy: Proxy, *arguments: Any, **named: Any) -> None:
        make(proxy, *arguments, **named)
        made.append(proxy)

    monkeypatch.setattr(Proxy, "__init__", make_and_remember)
    yield
    for proxy in made:
        proxy.close()


class Bench:
    """A proxy over one layout, with a clock to turn and a count of how often the source was opened."""

    def __init__(
        self, path: Path, *, image: str = "latest", policy: Policy | None = None, store: SnapshotStore | None = None
    ) -> None:
        self.now = 100.0
        self.opened = 0
        self.source: Callable[[LayoutReference], ImageSource] = LayoutSource
        served = ServedImage("os", parse_image_reference(f"oci:{path}:{image}"), AMD64, 1.0)
        self.store = store or SnapshotStore(None)
        self.proxy = Proxy({"os": served}, policy or insecure_policy(), self._open, self.store, clock=lambda: self.now)

    def _open(self, reference: SourceReference, *_: object) -> ImageSource:
        self.opened += 1
        assert isinstance(reference, LayoutReference)
        return self.source(reference)


def retag(path: Path, files: dict[str, bytes]) -> StoredImage:
    """Let ``latest`` be another image."""
    return Layout(path).image([layer_tar(files)], name="latest")


def blob_file(path: Path, digest: str) -> Path:
    return path / "blobs" / Path(*digest.split(":"))


def test_a_manifest_and_its_blobs_come_out_as_they_went_in(tmp_path: Path) -> None:
    image = single_image(tmp_path)
    bench = Bench(tmp_path)
    snapshot = bench.proxy.resolve(CONTEXT, "os")
    assert snapshot.manifest.raw == image.manifest
    assert (str(snapshot.manifest_digest), snapshot.index_digest) == (image.digest, None)
    assert bench.proxy.open_blob(CONTEXT, snapshot, snapshot.manifest.config).read_all() == image.config
    for digest, content in image.blobs.items():
        assert bench.proxy.open_blob(CONTEXT, *bench.proxy.find_blob(CONTEXT, "os", None, digest)).read_all() == content


@pytest.mark.demand("DIR-toctou")
def test_what_was_judged_is_what_is_served_though_the_layout_changes(tmp_path: Path) -> None:
    image = single_image(tmp_path)
    bench = Bench(tmp_path)
    judged = bench.proxy.resolve(CONTEXT, "os")
    blob_file(tmp_path, image.digest).write_bytes(image.manifest.replace(b"sha256", b"sha512"))
    blob_file(tmp_path, image.config_digest).write_bytes(image.config.replace(b"linux", b"other"))
    assert bench.proxy.resolve(CONTEXT, "os") is judged
    assert judged.manifest.raw == image.manifest
    with pytest.raises(DigestMismatchError):
        bench.proxy.open_blob(CONTEXT, judged, judged.manifest.config)
    bench.now += 2
    assert bench.proxy.resolve(CONTEXT, "os").manifest.raw == image.manifest


class Places(LayoutSource):
    """A source with places for signatures, each of which says what it has."""

    findings: ClassVar[list[Findings]] = []
    asked: ClassVar[list[int]] = []

    def fetch_signatures(self, *_: object, **__: object) -> Iterator[Findings]:
        for number, findings in enumerate(self.findings):
            self.asked.append(number)
            yield findings


def test_all_places_of_signatures_share_one_budget_in_which_fetching_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single_image(tmp_path)
    policy = parse_policy(b'{"default": [{"type": "sigstoreSigned", "keyData": "a2V5"}]}', "policy.json")
    bench = Bench(tmp_path, policy=policy)
    fetched = []

    class SlowPlaces(LayoutSource):
        def fetch_signatures(self, *_: object, **__: object) -> Iterator[Findings]:
            for number in range(10):
                bench.now += 1000
                fetched.append(number)
                yield Findings((UntrustedSignature("sigstore", b"", source=f"place {number}"),))

    def judge_for_ten_seconds(*_: object) -> tuple[bytes, ...]:
        bench.now += 10
        raise SignatureRejectedError("the key is none")

    bench.source = SlowPlaces
    monkeypatch.setattr(sigstore, "load_keys", judge_for_ten_seconds)
    with pytest.raises(VerificationTimeoutError, match="did not end within 30 s"):
        bench.proxy.resolve(CONTEXT, "os")
    assert fetched == [0, 1, 2, 3]


def failing(error: Error) -> Findings:
    return Findings(failures=(SignatureFailure(error, frozenset({"sigstore"})),))


def signed_bench(path: Path, *findings: Findings) -> Bench:
    single_image(path)
    key = base64.b64encode(public_pem(KEY)).decode()
    identity = {"type": "exactRepository", "dockerRepository": "example.com/os"}
    requirement = {"type": "sigstoreSigned", "keyData": key, "signedIdentity": identity}
    bench = Bench(path, policy=parse_policy(json.dumps({"default": [requirement]}).encode(), "policy.json"))
    Places.findings, Places.asked = list(findings), []
    bench.source = Places
    return bench


DOWN = RegistryUnavailableError("the storage is down", phase="signature", retryable=True)
FORBIDDEN = RegistryAuthError("the storage answered 403", phase="signature")


def test_a_good_signature_is_enough_though_a_place_before_it_fails(tmp_path: Path) -> None:
    digest = single_image(tmp_path).digest
    good = make_signature(KEY, make_payload("example.com/os", digest))
    bench = signed_bench(tmp_path, failing(DOWN), Findings((good,)), failing(FORBIDDEN))
    assert str(bench.proxy.resolve(CONTEXT, "os").manifest_digest) == digest
    assert Places.asked == [0, 1]


def test_a_failure_that_may_pass_is_the_one_that_decides_and_all_are_told(tmp_path: Path) -> None:
    bench = signed_bench(tmp_path, failing(FORBIDDEN), failing(DOWN))
    with pytest.raises(RegistryUnavailableError) as told:
        bench.proxy.resolve(CONTEXT, "os")
    assert told.value.retryable
    assert str(told.value).endswith(
        "sigstoreSigned: no sigstore signature could be fetched: the storage answered 403; the storage is down"
    )
    assert str(DOWN) == "the storage is down"


def test_a_permanent_failure_decides_where_there_is_no_other(tmp_path: Path) -> None:
    with pytest.raises(RegistryAuthError, match=r"no sigstore signature could be fetched: the storage answered 403$"):
        signed_bench(tmp_path, failing(FORBIDDEN)).proxy.resolve(CONTEXT, "os")


def test_places_that_have_no_signature_leave_it_at_the_policys_rejection(tmp_path: Path) -> None:
    with pytest.raises(PolicyRejectedError, match="no sigstore signature was found"):
        signed_bench(tmp_path, Findings(), Findings()).proxy.resolve(CONTEXT, "os")


def test_an_index_is_resolved_for_the_platform_asked_for(tmp_path: Path) -> None:
    images = multi_arch(tmp_path, "linux/amd64", "linux/arm64")
    proxy = Bench(tmp_path).proxy
    assert str(proxy.resolve(CONTEXT, "os").manifest_digest) == images["linux/amd64"].digest
    arm = proxy.resolve(CONTEXT, "os", Platform("linux", "arm64"))
    assert str(arm.manifest_digest) == images["linux/arm64"].digest
    assert arm.index_digest is not None
    with pytest.raises(UnknownManifestError, match="s390x"):
        proxy.resolve(CONTEXT, "os", Platform("linux", "s390x"))


def test_a_nested_index_is_followed(tmp_path: Path) -> None:
    images = nested_index(tmp_path, "linux/amd64")
    assert str(Bench(tmp_path).proxy.resolve(CONTEXT, "os").manifest_digest) == images["linux/amd64"].digest


def test_indexes_nested_without_end_are_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    inner = layout.image().descriptor
    for _ in range(5):
        inner = layout.index([{**inner, "platform": {"os": "linux", "architecture": "amd64"}}])
    layout.name(inner, "latest")
    with pytest.raises(InvalidManifestError, match="nested"):
        Bench(tmp_path).proxy.resolve(CONTEXT, "os")


def test_a_fresh_snapshot_is_not_resolved_again_and_a_stale_one_is(tmp_path: Path) -> None:
    first = single_image(tmp_path)
    bench = Bench(tmp_path)
    assert str(bench.proxy.resolve(CONTEXT, "os").manifest_digest) == first.digest
    second = retag(tmp_path, {"new": b"x"})
    bench.now += 0.9
    assert str(bench.proxy.resolve(CONTEXT, "os").manifest_digest) == first.digest
    assert bench.opened == 1
    bench.now += 0.2
    assert str(bench.proxy.resolve(CONTEXT, "os").manifest_digest) == second.digest
    assert str(bench.proxy.current(CONTEXT, "os").manifest_digest) == second.digest


def test_the_blobs_of_a_manifest_stay_servable_when_its_tag_has_moved(tmp_path: Path) -> None:
    old = single_image(tmp_path)
    bench = Bench(tmp_path)
    bench.proxy.resolve(CONTEXT, "os")
    for number in range(KEPT - 1):
        retag(tmp_path, {"n": str(number).encode()})
        bench.now += 2
        bench.proxy.resolve(CONTEXT, "os")
    snapshot, descriptor = bench.proxy.find_blob(CONTEXT, "os", None, old.layer_digests[0])
    assert bench.proxy.open_blob(CONTEXT, snapshot, descriptor).read_all() == old.layers[0]
    retag(tmp_path, {"n": b"one too many"})
    bench.now += 2
    bench.proxy.resolve(CONTEXT, "os")
    with pytest.raises(UnknownBlobError):
        bench.proxy.find_blob(CONTEXT, "os", None, old.layer_digests[0])


def test_only_the_image_s_own_blobs_are_found(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    image, other = layout.image(name="latest"), layout.image([layer_tar({"other": b"x"})], name="other")
    proxy = Bench(tmp_path).proxy
    with pytest.raises(UnknownBlobError):
        proxy.find_blob(CONTEXT, "os", None, other.layer_digests[0])
    with pytest.raises(UnknownBlobError):
        proxy.find_blob(CONTEXT, "os", None, image.digest)
    with pytest.raises(UnknownImageError):
        proxy.find_blob(CONTEXT, "other", None, other.layer_digests[0])


def test_blobs_of_another_platform_s_manifest_are_found_without_saying_the_platform_again(tmp_path: Path) -> None:
    images = multi_arch(tmp_path, "linux/arm64")
    bench = Bench(tmp_path)
    bench.proxy.resolve(CONTEXT, "os", Platform("linux", "arm64"))
    digest = images["linux/arm64"].config_digest
    assert str(bench.proxy.find_blob(CONTEXT, "os", None, digest)[1].digest) == digest
    assert bench.opened == 1


def test_an_abbreviated_digest_names_one_blob_or_lists_the_candidates(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    config = layout.blob(b"{}", "application/vnd.oci.image.config.v1+json")
    twins = _blobs_that_share_a_prefix(layout)
    layout.manifest(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": twins}, b"{}", (), name="latest"
    )
    proxy = Bench(tmp_path).proxy
    assert str(proxy.find_blob(CONTEXT, "os", None, twins[0]["digest"][:30])[1].digest) == twins[0]["digest"]
    with pytest.raises(AmbiguousDigestError) as caught:
        proxy.find_blob(CONTEXT, "os", None, twins[0]["digest"][: len("sha256:") + 7])
    assert caught.value.candidates == tuple(sorted(twin["digest"] for twin in twins))


def _blobs_that_share_a_prefix(layout: Layout) -> list[JSONObject]:
    """Two blobs whose digests begin with the same 7 digits: found by search, written down here."""
    seen: dict[str, bytes] = {}
    for number in range(200_000):
        content = f"twin {number}".encode()
        prefix = digest_of(content).hex[:7]
        if prefix in seen:
            return [layout.blob(one, "application/vnd.oci.image.layer.v1.tar") for one in (seen[prefix], content)]
        seen[prefix] = content
    raise AssertionError("no twins among 200,000: the hash has changed")


@pytest.mark.demand("DIG-instance-mismatch")
def test_a_manifest_other_than_its_index_entry_says_is_refused(tmp_path: Path) -> None:
    images = multi_arch(tmp_path, "linux/amd64")
    target = blob_file(tmp_path, images["linux/amd64"].digest)
    target.write_bytes(target.read_bytes().replace(b'"schemaVersion"', b'"schemaVersioN"'))
    with pytest.raises(DigestMismatchError):
        Bench(tmp_path).proxy.resolve(CONTEXT, "os")


@pytest.mark.parametrize("size", [3, -1, 2**63, None])
def test_the_digest_of_an_index_entry_decides_and_not_its_size(tmp_path: Path, size: int | None) -> None:
    layout = Layout(tmp_path)
    image = layout.image()
    entry = {**image.descriptor, "platform": {"os": "linux", "architecture": "amd64"}, "size": size}
    layout.name(layout.index([entry]), "latest")
    assert str(Bench(tmp_path).proxy.resolve(CONTEXT, "os").manifest_digest) == image.digest


def test_what_is_wrong_with_a_document_is_told_with_the_image_and_the_documents_digest(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    broken = layout.blob(b'{"schemaVersion": 2, "mediaType": "' + OCI_MANIFEST.encode() + b'"}', OCI_MANIFEST)
    index = layout.index([broken | {"platform": {"os": "linux", "architecture": "amd64"}}])
    layout.name(index, "latest")
    reference = f"oci:{tmp_path}:latest"
    with pytest.raises(InvalidManifestError) as told:
        Bench(tmp_path).proxy.resolve(CONTEXT, "os")
    assert str(told.value) == f"{reference}, manifest {broken['digest']}: the manifest has no config"
    with pytest.raises(UnknownManifestError) as absent:
        Bench(tmp_path).proxy.resolve(CONTEXT, "os", Platform("linux", "s390x"))
    assert str(absent.value) == f"{reference}: the index has no image for linux/s390x, only for linux/amd64"


@pytest.mark.demand("DIG-config-mismatch")
def test_a_substituted_configuration_is_never_returned(tmp_path: Path) -> None:
    image = single_image(tmp_path)
    proxy = Bench(tmp_path).proxy
    snapshot = proxy.resolve(CONTEXT, "os")
    blob_file(tmp_path, image.config_digest).write_bytes(image.config.replace(b"linux", b"macos"))
    with pytest.raises(DigestMismatchError):
        proxy.open_blob(CONTEXT, snapshot, snapshot.manifest.config)


@pytest.mark.demand("DIG-size-lie")
def test_a_manifest_whose_configuration_is_over_the_limit_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    config = {**layout.blob(b"{}", "application/vnd.oci.image.config.v1+json"), "size": 5 << 20}
    layout.manifest(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []}, b"{}", (), name="latest"
    )
    with pytest.raises(InvalidManifestError, match="size"):
        Bench(tmp_path).proxy.resolve(CONTEXT, "os")


@pytest.mark.demand("SIG-before-use")
def test_a_rejected_image_gives_nothing(tmp_path: Path) -> None:
    image = single_image(tmp_path)
    proxy = Bench(tmp_path, policy=REJECT).proxy
    with pytest.raises(PolicyRejectedError):
        proxy.resolve(CONTEXT, "os")
    with pytest.raises(PolicyRejectedError):
        proxy.find_blob(CONTEXT, "os", None, image.layer_digests[0])


def test_a_source_is_opened_once_for_the_manifest_and_all_blobs(tmp_path: Path) -> None:
    image = single_image(tmp_path)
    bench = Bench(tmp_path)
    snapshot = bench.proxy.resolve(CONTEXT, "os")
    streams = [bench.proxy.open_blob(CONTEXT, snapshot, blob) for blob in snapshot.manifest.blobs]
    assert [stream.read_all() for stream in streams] == [image.config, *image.layers]
    assert bench.opened == 1


def test_snapshots_of_one_directory_share_its_lease_and_one_of_another_has_its_own(tmp_path: Path) -> None:
    single_image(tmp_path / "layout")
    bench = Bench(tmp_path / "layout")
    bench.proxy._open_source = lambda reference, earlier, state: reference.open_source(ACCESS, earlier, state)
    first = bench.proxy.resolve(CONTEXT, "os")
    bench.now += 2
    assert bench.proxy.resolve(CONTEXT, "os").lease is first.lease
    retag(tmp_path / "layout", {"new": b"x"})
    bench.now += 2
    second = bench.proxy.resolve(CONTEXT, "os")
    assert second.manifest.raw != first.manifest.raw
    assert second.lease is first.lease
    (tmp_path / "layout").rename(tmp_path / "old")
    image = single_image(tmp_path / "layout")
    bench.now += 2
    third = bench.proxy.resolve(CONTEXT, "os")
    assert third.lease is not first.lease
    assert bench.proxy.open_blob(CONTEXT, third, third.manifest.config).read_all() == image.config
    assert bench.proxy.open_blob(CONTEXT, second, second.manifest.config).read_all()


def test_a_restored_snapshot_opens_its_source_with_the_first_blob_and_keeps_it(tmp_path: Path) -> None:
    image = single_image(tmp_path / "layout")
    Bench(tmp_path / "layout", store=SnapshotStore(tmp_path / "kept")).proxy.resolve(CONTEXT, "os")
    again = Bench(tmp_path / "layout", store=SnapshotStore(tmp_path / "kept"))
    snapshot = again.proxy.current(CONTEXT, "os")
    assert again.opened == 0
    for blob in snapshot.manifest.layers:
        again.proxy.open_blob(CONTEXT, snapshot, blob).read_all()
    assert again.opened == 1
    assert snapshot.manifest.raw == image.manifest


def test_what_is_being_read_is_read_to_its_end_though_the_configuration_goes(tmp_path: Path) -> None:
    image = single_image(tmp_path)
    bench = Bench(tmp_path)
    snapshot = bench.proxy.resolve(CONTEXT, "os")
    stream = bench.proxy.open_blob(CONTEXT, snapshot, snapshot.manifest.layers[1])
    bench.proxy.close()
    shutil.rmtree(tmp_path / "blobs")
    assert stream.read_all() == image.layers[1]


def test_snapshots_outlive_the_process(tmp_path: Path) -> None:
    old = single_image(tmp_path / "layout")
    Bench(tmp_path / "layout", store=SnapshotStore(tmp_path / "kept")).proxy.resolve(CONTEXT, "os")
    retag(tmp_path / "layout", {"new": b"x"})
    again = Bench(tmp_path / "layout", store=SnapshotStore(tmp_path / "kept"))
    assert str(again.proxy.current(CONTEXT, "os").manifest_digest) == old.digest
    assert again.opened == 0
    assert str(again.proxy.resolve(CONTEXT, "os").manifest_digest) != old.digest, (
        "a manifest is resolved anew after a restart"
    )


def test_a_kept_snapshot_is_judged_by_the_policy_in_force(tmp_path: Path) -> None:
    single_image(tmp_path / "layout")
    store = SnapshotStore(tmp_path / "kept")
    Bench(tmp_path / "layout", store=store).proxy.resolve(CONTEXT, "os")
    with pytest.raises(PolicyRejectedError):
        Bench(tmp_path / "layout", store=SnapshotStore(tmp_path / "kept"), policy=REJECT).proxy.current(CONTEXT, "os")
    with pytest.raises(PolicyRejectedError):
        Bench(tmp_path / "layout", store=store, policy=REJECT).proxy.current(CONTEXT, "os")


def test_a_kept_snapshot_of_another_reference_is_not_used(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    first, second = layout.image(name="a"), layout.image([layer_tar({"x": b"y"})], name="b")
    store = SnapshotStore(tmp_path / "kept")
    assert (
        str(Bench(tmp_path / "layout", image="a", store=store).proxy.resolve(CONTEXT, "os").manifest_digest)
        == first.digest
    )
    assert (
        str(Bench(tmp_path / "layout", image="b", store=store).proxy.current(CONTEXT, "os").manifest_digest)
        == second.digest
    )


def test_a_nested_choice_outlives_the_process(tmp_path: Path) -> None:
    images = nested_index(tmp_path / "layout", "linux/amd64")
    Bench(tmp_path / "layout", store=SnapshotStore(tmp_path / "kept")).proxy.resolve(CONTEXT, "os")
    again = Bench(tmp_path / "layout", store=SnapshotStore(tmp_path / "kept"))
    assert str(again.proxy.current(CONTEXT, "os").manifest_digest) == images["linux/amd64"].digest
    assert again.opened == 0


def test_names_in_a_kept_file_do_not_decide_which_policy_applies(tmp_path: Path) -> None:
    single_image(tmp_path / "layout")
    kept = tmp_path / "kept"
    Bench(tmp_path / "layout", store=SnapshotStore(kept)).proxy.resolve(CONTEXT, "os")
    (file,) = (kept / "os").glob("*.snapshot")
    header, _, content = file.read_bytes().partition(b"\n")
    record = json.loads(header)
    record |= {
        "transport": "docker",
        "policy-namespaces": [],
        "policy-identity": "",
        "docker-reference": "quay.io/x/y:1",
    }
    file.write_bytes(json.dumps(record).encode() + b"\n" + content)
    scoped = {
        "default": [{"type": "insecureAcceptAnything"}],
        "transports": {"oci": {str(tmp_path): [{"type": "reject"}]}},
    }
    policy = parse_policy(json.dumps(scoped).encode(), "policy.json")
    with pytest.raises(PolicyRejectedError):
        Bench(tmp_path / "layout", store=SnapshotStore(kept), policy=policy).proxy.current(CONTEXT, "os")


def test_the_newest_on_disk_is_the_one_that_was_kept_last_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path / "layout")
    bench = Bench(tmp_path / "layout", store=SnapshotStore(tmp_path / "kept"))
    for number in range(KEPT + 2):
        newest = layout.image([layer_tar({"n": str(number).encode()})], name="latest")
        monkeypatch.setattr("time.time_ns", lambda number=number: 10**18 - number)
        bench.now += 2
        bench.proxy.resolve(CONTEXT, "os")
    again = Bench(tmp_path / "layout", store=SnapshotStore(tmp_path / "kept"))
    assert str(again.proxy.current(CONTEXT, "os").manifest_digest) == newest.digest


def test_asking_for_other_platforms_pushes_no_snapshot_off_the_shelf(tmp_path: Path) -> None:
    old = single_image(tmp_path)
    bench = Bench(tmp_path)
    bench.proxy.resolve(CONTEXT, "os")
    retag(tmp_path, {"new": b"x"})
    bench.now += 2
    bench.proxy.resolve(CONTEXT, "os")
    for number in range(3 * KEPT):
        bench.proxy.resolve(CONTEXT, "os", Platform("linux", "amd64", f"v{number}"))
    assert bench.proxy.find_blob(CONTEXT, "os", None, old.layer_digests[0])


def test_concurrent_requests_share_one_look_at_the_source_and_its_failure(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    looking, go_on = threading.Event(), threading.Event()

    class Slow(LayoutSource):
        def fetch_manifest(self, *arguments: Any, **named: Any) -> UntrustedManifest | None:
            looking.set()
            assert go_on.wait(20)
            return super().fetch_manifest(*arguments, **named)

    class Waiting(Cancellation):
        """Tells when somebody who has it waits."""

        def calling(self, callback: Callable[[], object]) -> Any:
            waiting.release()
            return super().calling(callback)

    waiting = threading.Semaphore(0)
    bench.source = Slow
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(bench.proxy.resolve, CONTEXT, "os")
        assert looking.wait(20)
        others = [pool.submit(bench.proxy.resolve, Context(Waiting()), "os") for _ in range(3)]
        for _ in others:
            assert waiting.acquire(timeout=20)
        go_on.set()
        assert {type(one.exception(20)) for one in (first, *others)} == {SourceError}
    assert bench.opened == 1


def test_a_slow_look_for_one_platform_does_not_hold_up_another(tmp_path: Path) -> None:
    image = single_image(tmp_path)
    bench = Bench(tmp_path)
    bench.proxy.resolve(CONTEXT, "os")
    looking, go_on = threading.Event(), threading.Event()

    def open_slowly(reference: LayoutReference) -> ImageSource:
        looking.set()
        assert go_on.wait(20)
        return LayoutSource(reference)

    bench.source = open_slowly
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(bench.proxy.resolve, CONTEXT, "os", Platform("linux", "made-up"))
        assert looking.wait(20)
        assert str(bench.proxy.resolve(CONTEXT, "os").manifest_digest) == image.digest
        go_on.set()
        slow.result(20)


def test_a_kept_manifest_that_its_index_does_not_name_is_not_used(tmp_path: Path) -> None:
    images = multi_arch(tmp_path / "layout", "linux/amd64")
    stranger = single_image(tmp_path / "other")
    kept = tmp_path / "kept"
    Bench(tmp_path / "layout", store=SnapshotStore(kept)).proxy.resolve(CONTEXT, "os")
    (file,) = (kept / "os").glob("*.snapshot")
    header, _, content = file.read_bytes().partition(b"\n")
    record = json.loads(header)
    index, manifest = record["documents"]
    changed = content[: index["size"]] + stranger.manifest + content[index["size"] + manifest["size"] :]
    manifest["size"] = len(stranger.manifest)
    file.write_bytes(json.dumps(record).encode() + b"\n" + changed)
    bench = Bench(tmp_path / "layout", store=SnapshotStore(kept))
    assert str(bench.proxy.current(CONTEXT, "os").manifest_digest) == images["linux/amd64"].digest
    assert bench.opened == 1


@pytest.mark.parametrize("damage", [b"", b"{}", b"null", b"[" * 100_000, b'{"name": "os"}', b"\xff"])
def test_a_damaged_kept_file_costs_a_resolution_and_nothing_else(tmp_path: Path, damage: bytes) -> None:
    image = single_image(tmp_path / "layout")
    (tmp_path / "kept/os").mkdir(parents=True)
    (tmp_path / "kept/os/00000000000000000001.snapshot").write_bytes(damage)
    bench = Bench(tmp_path / "layout", store=SnapshotStore(tmp_path / "kept"))
    assert str(bench.proxy.current(CONTEXT, "os").manifest_digest) == image.digest


@pytest.mark.demand("disk-full")
def test_a_directory_that_cannot_be_written_does_not_fail_a_request(tmp_path: Path) -> None:
    image = single_image(tmp_path / "layout")
    (tmp_path / "kept").write_text("not a directory")
    bench = Bench(tmp_path / "layout", store=SnapshotStore(tmp_path / "kept"))
    assert str(bench.proxy.resolve(CONTEXT, "os").manifest_digest) == image.digest


def test_no_more_than_the_kept_snapshots_lie_on_disk(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    bench = Bench(tmp_path / "layout", store=SnapshotStore(tmp_path / "kept"))
    for number in range(KEPT + 3):
        layout.image([layer_tar({"n": str(number).encode()})], name="latest")
        bench.now += 2
        bench.proxy.resolve(CONTEXT, "os")
    assert len(list((tmp_path / "kept/os").iterdir())) == KEPT


def test_a_pinned_digest_is_resolved_once(tmp_path: Path) -> None:
    image = single_image(tmp_path)
    bench = Bench(tmp_path)
    reference = parse_image_reference(f"docker://example.com/os@{image.digest}")
    served = ServedImage("os", reference, AMD64, 0.0)
    layout = parse_image_reference(f"oci:{tmp_path}")
    proxy = Proxy(
        {"os": served}, insecure_policy(), lambda *_: bench._open(layout), SnapshotStore(None), clock=lambda: bench.now
    )
    proxy.resolve(CONTEXT, "os")
    bench.now += 1000
    proxy.resolve(CONTEXT, "os")
    assert bench.opened == 1
    wrong = replace(served, reference=parse_image_reference("docker://example.com/os@" + "sha256:" + "0" * 64))
    with pytest.raises(SourceError):
        Proxy({"os": wrong}, insecure_policy(), lambda *_: bench._open(layout), SnapshotStore(None)).resolve(
            CONTEXT, "os"
        )
