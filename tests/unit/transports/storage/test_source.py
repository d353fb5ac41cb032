"""An image of a store: which one is meant, its manifests, what is served for them, its blobs and its signatures."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from container_image_proxy.config.storage_conf import StoreLocation
from container_image_proxy.errors import (
    Error,
    IntegrityError,
    InvalidManifestError,
    SourceError,
    UnknownBlobError,
    UnknownManifestError,
    UpstreamTimeoutError,
)
from container_image_proxy.image.digest import digest_of, parse_digest
from container_image_proxy.image.manifest import Descriptor, Manifest, UntrustedManifest, parse_manifest
from container_image_proxy.image.schema1 import Schema1Manifest
from container_image_proxy.image.signature import Findings
from container_image_proxy.transports.storage import records
from container_image_proxy.transports.storage.reference import StorageReference
from container_image_proxy.transports.storage.source import StorageSource
from container_image_proxy.transports.storage.store import Store as OpenStore
from container_image_proxy.transports.storage.tar_layers import decode_state
from container_image_proxy.transports.table import parse_image_reference
from tests.support.contexts import CONTEXT
from tests.support.layouts import Layout, StoredImage, layer_tar, multi_arch, single_image
from tests.support.privilege import needs_root, ordinary_user, public_directory
from tests.support.schema1 import schema1
from tests.support.stores import Store, held_by_another, pack

NAME = "localhost/os:1"


@pytest.fixture
def image(tmp_path: Path) -> StoredImage:
    return single_image(tmp_path / "layout")


@pytest.fixture(params=["overlay", "vfs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(tmp_path / "store", request.param)


def source(store: Store, name: str = NAME, state: bytes = b"", options: str = "") -> StorageSource:
    text = store.reference(name).replace("]", f"{options}]", 1)
    opened = parse_image_reference(text).open_source(None, state=state)  # type: ignore[arg-type] # it needs nothing
    assert isinstance(opened, StorageSource)
    return opened


def fetch(opened: StorageSource, digest: str | None = None) -> Manifest:
    untrusted = opened.fetch_manifest(CONTEXT, parse_digest(digest) if digest else None)
    assert untrusted is not None
    manifest = parse_manifest(untrusted)
    assert isinstance(manifest, Manifest)
    return manifest


def served(store: Store, name: str = NAME) -> tuple[StorageSource, Manifest]:
    opened = source(store, name)
    manifest = fetch(opened)
    return opened, parse_image_reference(store.reference(name)).to_oci(manifest, opened.state)


def read(opened: StorageSource, blob: Descriptor) -> bytes:
    reader = opened.open_blob(CONTEXT, blob)
    buffer = memoryview(bytearray(blob.size + 1))
    try:
        filled = 0
        while count := reader.readinto(buffer[filled:]):
            filled += count
        return bytes(buffer[:filled])
    finally:
        reader.close()


def test_the_manifest_is_the_original_and_what_is_served_names_the_tars(store: Store, image: StoredImage) -> None:
    store.image(image, [NAME])
    opened, oci = served(store)
    assert fetch(source(store)).raw == image.manifest
    config, *layers = oci.blobs
    assert read(opened, config) == image.config
    assert [str(layer.digest) for layer in layers] == json.loads(image.config)["rootfs"]["diff_ids"]
    assert all(layer.digest.matches(read(opened, layer)) for layer in layers)
    assert {layer.media_type for layer in layers} == {"application/vnd.oci.image.layer.v1.tar"}


def test_a_later_source_serves_what_an_earlier_one_found(store: Store, image: StoredImage) -> None:
    store.image(image, [NAME])
    earlier, oci = served(store)
    later = source(store, state=earlier.state)
    assert parse_image_reference(store.reference(NAME)).to_oci(fetch(source(store)), later.state) == oci
    for blob in oci.blobs:
        assert blob.digest.matches(read(later, blob))


@pytest.mark.parametrize("state", [b"", b"x", b"x\x9c", zlib.compress(b"\x81\xa1\xff\x80")])
def test_a_state_that_is_none_is_told(store: Store, image: StoredImage, state: bytes) -> None:
    store.image(image, [NAME])
    with pytest.raises(InvalidManifestError, match="not known which tars"):
        parse_image_reference(store.reference(NAME)).to_oci(fetch(source(store)), state)


def test_a_state_of_another_image_is_told(store: Store, image: StoredImage, tmp_path: Path) -> None:
    store.image(image, [NAME])
    other = Layout(tmp_path / "other").image([layer_tar({"x": b"x"})])
    store.image(other, ["localhost/other:1"])
    with pytest.raises(InvalidManifestError, match="not known which tars"):
        parse_image_reference(store.reference(NAME)).to_oci(
            fetch(source(store)), served(store, "localhost/other:1")[0].state
        )


def test_what_is_known_is_bounded(store: Store, tmp_path: Path) -> None:
    opened = source(store)
    for number in range(12):
        store.image(Layout(tmp_path / "layout").image([], config={"author": f"{number}" * 1000}), [NAME])
        opened = source(store, state=opened.state)
        newest = fetch(opened)
    reference = parse_image_reference(store.reference(NAME))
    assert reference.to_oci(newest, opened.state).config == newest.config
    assert len(opened.state) < 12_000
    known = decode_state(opened.state)
    assert (len(known), list(known)[-1]) == (8, str(newest.config.digest))


def test_a_configuration_that_cannot_be_kept_is_told(store: Store, tmp_path: Path) -> None:
    noise = os.urandom(1_500_000).hex()
    store.image(Layout(tmp_path / "layout").image([], config={"author": noise}), [NAME])
    with pytest.raises(SourceError, match="its configuration is too large to be kept"):
        served(store)


def test_docker_s_manifests_are_served_as_oci(store: Store, tmp_path: Path) -> None:
    store.image(Layout(tmp_path / "layout").image(docker=True), [NAME])
    assert json.loads(served(store)[1].raw)["mediaType"] == "application/vnd.oci.image.manifest.v1+json"


def test_an_image_by_every_name_it_has(store: Store, image: StoredImage) -> None:
    image_id = store.image(image, ["localhost/else:2", NAME])
    digest = digest_of(image.manifest)
    for name in (
        NAME,
        "localhost/else:2",
        f"@{image_id}",
        image_id[:12],
        f"{NAME}@{image_id}",
        f"localhost/os@{digest}",
        f"localhost/os:gone@{digest}",
        f"localhost/os:gone@{image_id[:5]}",
    ):
        assert fetch(source(store, name)).digest == digest, name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("localhost/os", "the store has no such image"),
        ("localhost/os:0", "the store has no such image: [0-9a-f]{64} had that name before"),
        (f"@{'0' * 64}", "the store has no such image"),
        ("@beef", "the store had no image, or several, whose id begins so .* reload, or write the whole id"),
        (f"localhost/os@sha256:{'0' * 64}", "the store has no such image"),
    ],
)
def test_an_image_that_is_not_there(store: Store, image: StoredImage, name: str, reason: str) -> None:
    store.image(image, [NAME], **{"names-history": [NAME, "localhost/os:0"]})
    with pytest.raises(UnknownManifestError, match=reason):
        source(store, name).fetch_manifest(CONTEXT)


def test_a_name_in_another_repository_is_no_name_of_an_image(store: Store, image: StoredImage) -> None:
    image_id = store.image(image, [NAME, "no reference at all"])
    for name in (f"localhost/else@{digest_of(image.manifest)}", f"localhost/else:1@{image_id}"):
        with pytest.raises(UnknownManifestError):
            source(store, name).fetch_manifest(CONTEXT)


def test_what_is_known_already_is_not_told_again(store: Store, image: StoredImage) -> None:
    store.image(image, [NAME])
    opened = source(store)
    assert opened.fetch_manifest(CONTEXT, unless=digest_of(image.manifest)) is None
    assert opened.state == b""
    assert opened.fetch_manifest(CONTEXT, unless=digest_of(b"else")) is not None


def test_instances_of_an_index(store: Store, tmp_path: Path) -> None:
    images = multi_arch(tmp_path / "layout", "linux/amd64", "linux/arm64/v8", "linux/arm/v7")
    index_digest = parse_digest(json.loads((tmp_path / "layout/index.json").read_text())["manifests"][0]["digest"])
    index = (tmp_path / f"layout/blobs/sha256/{index_digest.hex}").read_bytes()
    pulled = [images["linux/amd64"], images["linux/arm64/v8"]]
    for one in pulled:
        store.image(one, ["localhost/many:1"] if one is pulled[-1] else ["localhost/many:old"], index=index)
    assert fetch(source(store, "localhost/many:1")).raw == pulled[-1].manifest
    opened = source(store, f"localhost/many@{index_digest}")
    assert opened.fetch_manifest(CONTEXT) == UntrustedManifest(index, "")
    manifests = [fetch(opened, one.digest) for one in pulled]
    for manifest in manifests:  # whichever was asked for last
        oci = parse_image_reference(store.reference(f"localhost/many@{index_digest}")).to_oci(manifest, opened.state)
        assert all(blob.digest.matches(read(opened, blob)) for blob in oci.blobs)
    with pytest.raises(UnknownManifestError, match="stored for the platforms that were pulled"):
        fetch(opened, images["linux/arm/v7"].digest)


def test_an_image_without_layers(store: Store, tmp_path: Path) -> None:
    store.image(Layout(tmp_path / "layout").image([]), [NAME])
    assert served(store)[1].layers == ()


def test_an_image_with_one_layer_twice(store: Store, tmp_path: Path) -> None:
    store.image(Layout(tmp_path / "layout").image([layer_tar({"x": b"x"})] * 2), [NAME])
    opened, oci = served(store)
    assert len(oci.layers) == 2
    assert all(layer.digest.matches(read(opened, layer)) for layer in oci.layers)


def change(store: Store, kind: str, **members: object) -> None:
    store.record(kind, [record | members for record in store.records(kind)])


def test_a_size_that_was_not_recorded_is_found(store: Store, image: StoredImage) -> None:
    store.image(image, [NAME])
    _, before = served(store)
    change(store, "layers", **{"diff-size": None})
    assert served(store)[1] == before


def test_layers_that_are_not_kept_beyond_a_boot(store: Store, image: StoredImage) -> None:
    store.image(image, [NAME])
    layers = store.folder("layers")
    (layers / "layers.json").rename(layers / "volatile-layers.json")
    opened, oci = served(store)
    assert all(layer.digest.matches(read(opened, layer)) for layer in oci.layers)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda store: change(store, "layers", flags={"incomplete": True}), "was not unpacked to its end: pull"),
        (
            lambda store: change(store, "layers", **{"diff-digest": None, "toc-digest": "sha256:x"}),
            "is stored as zstd:chunked, .* enable_partial_images .* docker://",
        ),
        (lambda store: store.record("layers", []), "is not in the store"),
        (lambda store: change(store, "layers", **{"diff-digest": f"sha256:{'0' * 64}"}), "are not the 2 that"),
        (lambda store: store.record("layers", store.records("layers")[1:]), "is not in the store"),
        (lambda store: change(store, "layers", parent=store.records("images")[0]["layer"]), "too many below it"),
        (lambda store: (store.folder("layers") / "layers.json").write_text("[{]"), "layers.json: "),
        (lambda store: change(store, "images", names=1), "images.json: Expected `array"),
        (lambda store: [_cut(one) for one in store.folder("images").glob("*/=*") if b"rootfs" in one.read_bytes()],
         "configuration"),
        (lambda store: [one.unlink() for one in store.folder("layers").glob("*.gz")], "has no tar-split"),
    ],
    ids=["incomplete", "zstd-chunked", "no-layers", "other-layers", "no-parent", "circle", "no-json", "no-names",
         "cut-config", "no-tar-split"],
)  # fmt: skip
def test_a_store_that_cannot_give_the_image_says_why(
    store: Store, image: StoredImage, harm: Callable[[Store], object], reason: str
) -> None:
    store.image(image, [NAME])
    harm(store)
    with pytest.raises(Error, match=reason):
        served(store)


def as_schema1(store: Store, layers: int) -> Schema1Manifest:
    """Make the store's image one that was pulled as Docker schema 1, with so many layers."""
    payload = json.dumps(schema1([bytes([number]) for number in range(layers)])).encode()
    record = store.records("images")[0]
    store.data_path(record["id"], "manifest").write_bytes(payload)
    store.record("images", [record | {"big-data-digests": {"manifest": str(digest_of(payload))}}])
    manifest = parse_manifest(UntrustedManifest(payload, ""))
    assert isinstance(manifest, Schema1Manifest)
    return manifest


def test_the_layers_of_docker_schema_1_are_the_store_s_tars(store: Store, image: StoredImage) -> None:
    store.image(image, [NAME])
    manifest = as_schema1(store, len(image.layers))
    opened = source(store)
    assert opened.fetch_manifest(CONTEXT) == UntrustedManifest(manifest.raw, "")
    for found in opened.find_tars(CONTEXT, manifest).values():
        tar = read(opened, Descriptor(found.media_type, found.digest, found.size))
        assert digest_of(tar) == found.digest == found.diff_id


def test_docker_schema_1_with_other_layers_than_the_store_has_is_told(store: Store, image: StoredImage) -> None:
    store.image(image, [NAME])
    manifest = as_schema1(store, 3)
    with pytest.raises(SourceError, match="the 2 layers that the store has for the image are not the 3 that its man"):
        source(store).find_tars(CONTEXT, manifest)


def test_no_signature_of_docker_schema_1_counts(store: Store, image: StoredImage) -> None:
    store.image(image, [NAME])
    manifest = as_schema1(store, len(image.layers))
    signatures = {str(manifest.digest): [4]}
    (record,) = store.records("images")
    store.record("images", [record | {"metadata": json.dumps({"signatures-sizes": signatures})}])
    store.data_path(record["id"], f"signature-{manifest.digest.hex}").write_bytes(b"\x89abc")
    opened = source(store)
    opened.fetch_manifest(CONTEXT)
    (findings,) = opened.fetch_signatures(CONTEXT, manifest.digest, {"simple"})
    assert findings.signatures == ()
    assert "say nothing of the unpacked layers" in str(findings.failures[0])


def test_composefs_is_refused_with_what_to_do(image: StoredImage, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.image(image, [NAME])
    (store.files_of(store.records("images")[0]["layer"]).parent / "composefs-data").mkdir()
    with pytest.raises(SourceError, match=r"stored as composefs, .* use_composefs off .* docker://"):
        served(store)


def test_a_layer_that_is_gone_meanwhile_is_unknown(store: Store, image: StoredImage) -> None:
    store.image(image, [NAME])
    opened, oci = served(store)
    for layer in store.records("layers"):
        shutil.rmtree(store.files_of(layer["id"]))
    with pytest.raises(UnknownBlobError, match="is not there any more"):
        opened.open_blob(CONTEXT, oci.layers[0])
    store.record("layers", [])
    with pytest.raises(UnknownBlobError, match=r"no layer with the digest .* any more"):
        source(store).open_blob(CONTEXT, oci.layers[0])


def test_a_damaged_tar_split_ends_the_transfer(store: Store, image: StoredImage) -> None:
    store.image(image, [NAME])
    opened, oci = served(store)
    for layer in store.records("layers"):
        _cut(store.tar_split_of(layer["id"]))
    with pytest.raises(IntegrityError, match=f"{store.root}: layer [0-9a-f]{{64}}: the tar-split"):
        read(opened, oci.layers[0])


def test_names_of_a_tar_split_do_not_lead_out_of_the_layer(store: Store, image: StoredImage, tmp_path: Path) -> None:
    store.image(image, [NAME])
    opened, oci = served(store)
    (tmp_path / "secret").write_text("secret")
    up = "/".join([".."] * 8)
    for layer in store.records("layers"):
        entry = {"type": 1, "name": f"{up}{tmp_path}/secret", "size": 6}
        store.tar_split_of(layer["id"]).write_bytes(pack([entry]))
    with pytest.raises(SourceError, match="No such file or directory"):
        read(opened, oci.layers[0])


@pytest.mark.parametrize(
    "place", ["images", "layers", "images/images.json", "layers/layers.json", "layers/layers.lock"]
)
def test_links_below_the_store_are_not_followed(store: Store, image: StoredImage, place: str) -> None:
    store.image(image, [NAME])
    kind, _, name = place.partition("/")
    path = store.folder(kind) / name
    path.rename(store.root / "elsewhere")
    path.symlink_to(store.root / "elsewhere")
    with pytest.raises(SourceError, match=f"{path} is a symbolic link, which is not followed"):
        served(store)


def test_a_store_may_be_reached_by_a_link(store: Store, image: StoredImage, tmp_path: Path) -> None:
    store.image(image, [NAME])
    (tmp_path / "link").symlink_to(store.root)
    opened, oci = served(Store(tmp_path / "link", store.driver))
    assert all(layer.digest.matches(read(opened, layer)) for layer in oci.layers)


def test_a_list_has_a_limit(store: Store, image: StoredImage, monkeypatch: pytest.MonkeyPatch) -> None:
    store.image(image, [NAME])
    monkeypatch.setattr("container_image_proxy.transports.storage.store.MAX_LIST_SIZE", 100)
    with pytest.raises(SourceError, match=r"images.json is larger than 100 bytes"):
        served(store)
    assert records.MAX_LIST_SIZE >= 1 << 20


@pytest.mark.parametrize("kind", ["images", "layers"])
def test_what_is_no_file_is_not_waited_for(store: Store, image: StoredImage, kind: str) -> None:
    store.image(image, [NAME])
    path = store.folder(kind) / f"{kind}.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SourceError, match="not a regular file"):
        served(store)


@pytest.mark.demand("containers-storage-lock")
@pytest.mark.parametrize("kind", ["images", "layers"])
def test_a_list_that_stays_locked_is_told_and_the_store_is_not_touched(
    store: Store, image: StoredImage, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    store.image(image, [NAME])
    before = _state(store.root)
    monkeypatch.setattr("container_image_proxy.transports.storage.lock.PATIENCE", 0.0)
    lock = store.folder(kind) / f"{kind}.lock"
    with held_by_another(lock), pytest.raises(UpstreamTimeoutError, match=f"{lock} stays locked") as caught:
        served(store)
    assert caught.value.retryable
    assert _state(store.root) == before
    assert served(store)


def test_blobs_of_an_image_that_was_resolved_need_no_list(
    store: Store, image: StoredImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.image(image, [NAME])
    reference = parse_image_reference(store.reference(NAME))
    earlier, oci = served(store)
    later = reference.open_source(None, earlier, earlier.state)  # type: ignore[arg-type] # it needs nothing
    assert isinstance(later, StorageSource)
    assert later.fetch_manifest(CONTEXT, unless=digest_of(image.manifest)) is None
    monkeypatch.setattr("container_image_proxy.transports.storage.lock.PATIENCE", 0.0)
    with held_by_another(store.folder("layers") / "layers.lock"):
        assert all(blob.digest.matches(read(later, blob)) for blob in oci.blobs)


def test_a_layer_that_was_pulled_again_is_found(store: Store, image: StoredImage) -> None:
    store.image(image, [NAME])
    opened, oci = served(store)
    new = hashlib.sha256(b"another id").hexdigest()
    top = store.records("layers")[-1]
    store.files_of(new).parent.mkdir(exist_ok=True)
    store.files_of(top["id"]).rename(store.files_of(new))
    store.tar_split_of(top["id"]).rename(store.tar_split_of(new))
    store.record("layers", [*store.records("layers")[:-1], top | {"id": new}])
    assert oci.layers[-1].digest.matches(read(opened, oci.layers[-1]))


def test_other_locks_of_podman_s_keep_nobody_waiting(store: Store, image: StoredImage) -> None:
    store.image(image, [NAME])
    (store.root / "storage.lock").touch()
    with held_by_another(store.root / "storage.lock"):
        assert served(store)


def test_layers_of_a_transient_store_are_listed_in_its_run_root(
    store: Store, image: StoredImage, tmp_path: Path
) -> None:
    store.image(image, [NAME])
    run = tmp_path / "run" / f"{store.driver}-layers"
    run.mkdir(parents=True)
    (store.folder("layers") / "layers.json").rename(run / "volatile-layers.json")
    location = StoreLocation(store.driver, store.root, tmp_path / "run", is_transient=True)
    reference = StorageReference.parse(NAME, lambda: location)
    opened = reference.open_source(None)  # type: ignore[arg-type] # it needs nothing
    assert isinstance(opened, StorageSource)
    oci = reference.to_oci(fetch(opened), opened.state)
    assert all(blob.digest.matches(read(opened, blob)) for blob in oci.blobs)


def test_an_image_store_of_its_own_has_images_and_layers(store: Store, image: StoredImage, tmp_path: Path) -> None:
    images = Store(tmp_path / "images", store.driver)
    images.image(image, [NAME])
    for layer in images.records("layers"):  # tar-splits lie with the graph root, whatever lists the layer
        images.tar_split_of(layer["id"]).rename(store.tar_split_of(layer["id"]))
    reference = StorageReference.parse(NAME, lambda: StoreLocation(store.driver, store.root, image_store=images.root))
    opened = reference.open_source(None)  # type: ignore[arg-type] # it needs nothing
    assert isinstance(opened, StorageSource)
    oci = reference.to_oci(fetch(opened), opened.state)
    assert all(blob.digest.matches(read(opened, blob)) for blob in oci.blobs)


def test_records_that_are_none_of_ours_are_passed_over(store: Store, image: StoredImage) -> None:
    store.image(image, [NAME])
    for kind in ("images", "layers"):
        store.record(kind, [{"id": "../../etc", "names": [NAME], "new": [{}]}, *store.records(kind)])
    assert fetch(source(store)).raw == image.manifest


def test_an_image_of_an_additional_store(store: Store, image: StoredImage, tmp_path: Path) -> None:
    other = Store(tmp_path / "other", store.driver)
    other.image(image, [NAME])
    options = f":{store.driver}.imagestore={other.root}"
    opened = source(store, NAME, options=options)
    reference = parse_image_reference(store.reference(NAME).replace("]", f"{options}]"))
    oci = reference.to_oci(fetch(opened), opened.state)
    assert all(blob.digest.matches(read(opened, blob)) for blob in oci.blobs)
    with pytest.raises(UnknownManifestError):
        source(store).fetch_manifest(CONTEXT)


def test_an_image_of_an_additional_store_though_nothing_was_pulled_into_the_own(
    image: StoredImage, tmp_path: Path
) -> None:
    other = Store(tmp_path / "other")
    other.image(image, [NAME])
    reference = parse_image_reference(
        f"containers-storage:[overlay@{tmp_path}/none:overlay.imagestore={other.root}]{NAME}"
    )
    reference.verify_place()
    opened = reference.open_source(None)  # type: ignore[arg-type] # it needs nothing
    assert isinstance(opened, StorageSource)
    oci = reference.to_oci(fetch(opened), opened.state)
    assert all(blob.digest.matches(read(opened, blob)) for blob in oci.blobs)
    assert not (tmp_path / "none").exists()


def test_an_image_of_an_additional_store_that_was_named_in_the_own(
    store: Store, image: StoredImage, tmp_path: Path
) -> None:
    """podman tag writes a record into the own store, and nothing else."""
    other = Store(tmp_path / "other", store.driver)
    other.image(image, ["localhost/theirs:1"])
    store.record("images", [other.records("images")[0] | {"names": [NAME]}])
    options = f":{store.driver}.imagestore={other.root}"
    opened = source(store, NAME, options=options)
    reference = parse_image_reference(store.reference(NAME).replace("]", f"{options}]"))
    oci = reference.to_oci(fetch(opened), opened.state)
    assert all(blob.digest.matches(read(opened, blob)) for blob in oci.blobs)


def test_the_store_s_own_images_count_before_those_of_others(store: Store, image: StoredImage, tmp_path: Path) -> None:
    other = Store(tmp_path / "other", store.driver)
    options = f":{store.driver}.imagestore={other.root}"
    theirs = Layout(tmp_path / "theirs").image([layer_tar({"x": b"x"})])
    other.image(theirs, [NAME])
    assert fetch(source(store, options=options)).raw == theirs.manifest
    store.image(image, [NAME])
    assert fetch(source(store, options=options)).raw == image.manifest
    # A name that the store's own record of the same image has lost is no name any more.
    store.record("images", [])
    store.image(theirs, ["localhost/renamed:1"])
    with pytest.raises(UnknownManifestError):
        source(store, options=options).fetch_manifest(CONTEXT)


@needs_root
def test_another_store_that_cannot_be_read_harms_no_image_of_the_own(image: StoredImage) -> None:
    with public_directory() as public:
        store, other = Store(public / "store"), Store(public / "other")
        store.image(image, [NAME])
        other.root.chmod(0o700)
        options = f":overlay.imagestore={other.root}"
        with ordinary_user():
            opened = source(store, options=options)
            reference = parse_image_reference(store.reference(NAME))
            oci = reference.to_oci(fetch(opened), opened.state)
            assert all(blob.digest.matches(read(opened, blob)) for blob in oci.blobs)
            with pytest.raises(SourceError, match=str(other.root)):
                source(store, "localhost/else:1", options=options).fetch_manifest(CONTEXT)


def signatures_of(store: Store, digest: str, *kinds: Any) -> Findings:
    (findings,) = source(store).fetch_signatures(CONTEXT, parse_digest(digest), kinds)
    return findings


SIMPLE = b"\x89simple"
SIGSTORE = b'\0sigstore-json\n{"mimeType": "a", "payload": "eA==", "annotations": {"b": "c"}}'


def test_signatures_that_were_pulled_with_the_image(store: Store, image: StoredImage) -> None:
    store.image(image, [NAME], signatures={image.digest: [SIMPLE, SIGSTORE]})
    found = signatures_of(store, image.digest, "simple", "sigstore").signatures
    assert [(one.kind, one.blob) for one in found] == [("simple", SIMPLE), ("sigstore", b"x")]
    assert [one.source for one in found] == ["signature 1 in the store", "signature 2 in the store"]
    assert [one.kind for one in signatures_of(store, image.digest, "sigstore").signatures] == ["sigstore"]
    assert not signatures_of(store, f"sha256:{'0' * 64}", "simple")


def test_signatures_as_older_programs_wrote_them(store: Store, image: StoredImage) -> None:
    image_id = store.image(image, [NAME])
    store.data_path(image_id, "signatures").write_bytes(SIMPLE)
    change(store, "images", metadata=json.dumps({"signature-sizes": [len(SIMPLE)]}))
    assert [one.blob for one in signatures_of(store, image.digest, "simple").signatures] == [SIMPLE]
    assert not signatures_of(store, f"sha256:{hashlib.sha256(b'else').hexdigest()}", "simple")


@pytest.mark.parametrize(
    "metadata", ["{", '{"signatures-sizes": {"DIGEST": [1]}}', '{"signatures-sizes": {"DIGEST": [-1]}}']
)
def test_signatures_that_cannot_be_read_are_told(store: Store, image: StoredImage, metadata: str) -> None:
    store.image(image, [NAME], metadata=metadata.replace("DIGEST", image.digest))
    (failure,) = signatures_of(store, image.digest, "simple").failures
    assert failure.kinds == {"simple", "sigstore"}


@needs_root
def test_a_store_that_is_closed_to_us_is_told_with_the_remedy(image: StoredImage) -> None:
    with public_directory() as public:
        store = Store(public / "store")
        store.image(image, [NAME])
        store.folder("images").chmod(0o700)
        opened = source(store)
        with ordinary_user(), pytest.raises(SourceError, match=r"the store cannot be read: .*CAP_DAC_READ_SEARCH"):
            opened.fetch_manifest(CONTEXT)


def _state(root: Path) -> dict[str, tuple[int, int, int]]:
    """All that a write would change of the files below ``root``."""
    paths = [root, *root.rglob("*")]
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_ctime_ns, path.lstat().st_size) for path in paths}


def test_nothing_is_written_to_a_store(store: Store, image: StoredImage, tmp_path: Path) -> None:
    store.image(image, [NAME], signatures={image.digest: [SIMPLE]})
    before = _state(tmp_path)
    opened, oci = served(store)
    for blob in oci.blobs:
        read(opened, blob)
    signatures_of(store, image.digest, "simple")
    OpenStore(parse_image_reference(store.reference(NAME)).location).verify()  # type: ignore[attr-defined] # a storage one
    assert _state(tmp_path) == before
