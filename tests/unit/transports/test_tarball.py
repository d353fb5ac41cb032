"""The tarball: transport: references, what is made of the files, and what is kept of them."""

from __future__ import annotations

import gzip
import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from container_image_proxy.errors import InvalidReferenceError, SourceError, UnknownBlobError
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import Manifest, parse_manifest
from container_image_proxy.transports import tarball
from container_image_proxy.transports.source import ImageSource
from container_image_proxy.transports.tarball import TarballReference
from tests.support.contexts import ACCESS, CONTEXT
from tests.support.layouts import layer_tar, zstd_frame
from tests.support.readers import read_all

TAR = layer_tar({"a": b"content\n" * 1000})


def manifest_of(source: ImageSource) -> Manifest:
    untrusted = source.fetch_manifest(CONTEXT)
    assert untrusted is not None
    manifest = parse_manifest(untrusted)
    assert isinstance(manifest, Manifest)
    return manifest


def files(tmp_path: Path, *contents: bytes) -> TarballReference:
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.tar").write_bytes(content)
        os.utime(tmp_path / f"{number}.tar", ns=(0, 1_577_836_800_500_000_000 + number))
    return TarballReference.parse(":".join(f"{tmp_path}/{number}.tar" for number in range(len(contents))))


@pytest.mark.parametrize("within", ["", "/a.tar:", ":", "/a\0.tar", ":".join(["/a.tar"] * 129)])
def test_what_are_no_paths_is_refused(within: str) -> None:
    with pytest.raises(InvalidReferenceError):
        TarballReference.parse(within)


@pytest.mark.parametrize("within", ["-", "/a.tar:-"])
def test_standard_input_is_refused_with_the_reason(within: str) -> None:
    with pytest.raises(InvalidReferenceError, match="can be read only once: write it to a file"):
        TarballReference.parse(within)


def test_policy_cannot_tell_tarballs_apart() -> None:
    reference = TarballReference.parse("/a.tar:b.tar")
    assert (reference.policy_identity, reference.policy_namespaces, reference.docker_reference) == ("", (), None)
    assert str(reference) == "tarball:/a.tar:b.tar"
    assert reference.depends_on_directory
    assert not TarballReference.parse("/a.tar:/b.tar").depends_on_directory


def test_layers_and_configuration_are_what_the_files_are(tmp_path: Path) -> None:
    contents = [TAR, gzip.compress(TAR, mtime=0), zstd_frame(TAR)]
    with closing(files(tmp_path, *contents).open_source(ACCESS)) as source:
        manifest = manifest_of(source)
        types = ["tar", "tar+gzip", "tar+zstd"]
        assert [layer.media_type.rpartition("v1.")[2] for layer in manifest.layers] == types
        assert [read_all(source.open_blob(CONTEXT, layer)) for layer in manifest.layers] == contents
        assert read_all(source.open_blob(CONTEXT, manifest.layers[0], 1000)) == TAR[1000:]
        raw = read_all(source.open_blob(CONTEXT, manifest.config))
    config = json.loads(raw)
    diff_id = str(digest_of(TAR))
    assert digest_of(raw) == manifest.config.digest
    assert config["rootfs"] == {"type": "layers", "diff_ids": [diff_id] * 3}
    assert config["created"] == "2020-01-01T00:00:00.500000002Z"
    assert config["history"][0] == {
        "created": "2020-01-01T00:00:00.5Z",
        "created_by": f"/bin/sh -c #(nop) ADD file:{diff_id.partition(':')[2]} in /",
        "comment": "imported from tarball",
    }


def test_files_that_have_not_changed_are_read_once_and_their_manifest_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = files(tmp_path, TAR, gzip.compress(TAR, mtime=0))
    with closing(reference.open_source(ACCESS)) as first:
        digest = manifest_of(first).digest
        assert first.fetch_manifest(CONTEXT, unless=digest) is None
        assert reference.open_source(ACCESS, first) is first
        state = first.state

    def read_again(*_: object) -> None:
        raise AssertionError("what is known is not read")

    monkeypatch.setattr(tarball, "_examine", read_again)
    with closing(reference.open_source(ACCESS, state=state)) as later:
        assert manifest_of(later).digest == digest


@pytest.mark.parametrize(
    "state", [b"", b"x", b"[1]", b"[]", b'[{"identity": null}]', b'[{"digest": "\xff"}]', b"[" * 100_000]
)
def test_a_state_that_is_none_of_ours_is_passed_over(tmp_path: Path, state: bytes) -> None:
    with closing(files(tmp_path, TAR).open_source(ACCESS, state=state)) as source:
        assert manifest_of(source).layers[0].digest == digest_of(TAR)


@pytest.mark.parametrize(
    "change", [{"digest": "sha256:x"}, {"diff_id": "x"}, {"size": 5}, {"media_type": "text/plain"}, {"identity": {}}]
)
def test_a_state_that_does_not_fit_is_passed_over(tmp_path: Path, change: dict[str, object]) -> None:
    reference = files(tmp_path, TAR)
    with closing(reference.open_source(ACCESS)) as source:
        manifest_of(source)
        (layer,) = json.loads(source.state)
    with closing(reference.open_source(ACCESS, state=json.dumps([layer | change]).encode())) as source:
        assert manifest_of(source).layers[0].digest == digest_of(TAR)


def test_a_file_that_cannot_be_read_is_tried_again_and_the_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = files(tmp_path, TAR, TAR)
    examine, examined = tarball._examine, []

    def count(*arguments: Any) -> Any:
        examined.append(arguments[-1])
        return examine(*arguments)

    monkeypatch.setattr(tarball, "_examine", count)
    (tmp_path / "1.tar").rename(tmp_path / "elsewhere")
    with closing(reference.open_source(ACCESS)) as source:
        with pytest.raises(SourceError):
            source.fetch_manifest(CONTEXT)
        (tmp_path / "elsewhere").rename(tmp_path / "1.tar")
        assert len(manifest_of(source).layers) == 2
    assert examined == [f"{tmp_path}/0.tar", f"{tmp_path}/1.tar"]


def test_files_that_have_changed_are_another_image(tmp_path: Path) -> None:
    reference = files(tmp_path, TAR)
    with closing(reference.open_source(ACCESS)) as first:
        layer = manifest_of(first).layers[0]
        files(tmp_path, TAR + bytes(512))
        with pytest.raises(SourceError, match="has changed while it was read") as told:
            read_all(first.open_blob(CONTEXT, layer))
        assert told.value.retryable
        second = reference.open_source(ACCESS, first, first.state)
        assert second is not first
        with closing(second):
            assert manifest_of(second).layers[0].digest == digest_of(TAR + bytes(512))
            with pytest.raises(UnknownBlobError, match=r"is no layer of what is now in .*0\.tar"):
                second.open_blob(CONTEXT, layer)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: None, "No such file or directory"),
        (lambda path: path.mkdir(), "is not a regular file"),
        (os.mkfifo, "is not a regular file"),
    ],
)
def test_what_is_no_file_is_named(tmp_path: Path, make: object, reason: str) -> None:
    assert callable(make)
    make(tmp_path / "0.tar")
    reference = TarballReference.parse(f"{tmp_path}/0.tar")
    with closing(reference.open_source(ACCESS)) as source, pytest.raises(SourceError, match=reason) as told:
        source.fetch_manifest(CONTEXT)
    assert f"{tmp_path}/0.tar" in str(told.value)
    with pytest.raises(SourceError, match=reason):
        reference.verify_place()


def test_a_file_of_a_time_that_no_image_can_have_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = files(tmp_path, TAR)

    def fail(_: int) -> str:  # few file systems keep such a time
        raise ValueError("year 10000 is out of range")

    monkeypatch.setattr(tarball, "_time", fail)
    with closing(reference.open_source(ACCESS)) as source, pytest.raises(SourceError, match="modification time"):
        source.fetch_manifest(CONTEXT)


def test_a_damaged_file_is_named_with_the_place_in_it(tmp_path: Path) -> None:
    reference = files(tmp_path, gzip.compress(os.urandom(100_000))[:50_000])
    with closing(reference.open_source(ACCESS)) as source, pytest.raises(SourceError) as told:
        source.fetch_manifest(CONTEXT)
    assert f"{tmp_path}/0.tar: the gzip data is damaged before byte 50000" in str(told.value)
    assert not told.value.retryable
