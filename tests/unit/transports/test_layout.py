"""The oci: transport: references, and a tree that is not trusted."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from container_image_proxy.concurrency.memory import unmetered
from container_image_proxy.errors import (
    DigestMismatchError,
    InvalidManifestError,
    InvalidReferenceError,
    SourceError,
    UnknownManifestError,
)
from container_image_proxy.image.digest import digest_of, parse_digest
from container_image_proxy.image.manifest import MAX_MANIFEST_SIZE, Descriptor
from container_image_proxy.transports.layout import LayoutReference, LayoutSource
from tests.support.contexts import ACCESS, CONTEXT
from tests.support.layouts import Layout, StoredImage, layer_tar, single_image
from tests.support.privilege import ordinary_user, public_directory
from tests.support.readers import read_all


@pytest.fixture(autouse=True)
def closed_sources() -> Iterator[None]:
    """Close the sources that the test opens."""
    yield
    while _opened:
        _opened.pop().close()


_opened: list[LayoutSource] = []


def source(path: Path, image: str = "") -> LayoutSource:
    _opened.append(LayoutSource(LayoutReference.parse(f"{path}:{image}")))
    return _opened[-1]


def layer_of(image: StoredImage) -> Descriptor:
    return Descriptor("", parse_digest(image.layer_digests[0]), len(image.layers[0]))


def test_scopes_are_the_real_directory_and_its_parents(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    reference = LayoutReference.parse(f"{tmp_path}/link/image:1")
    assert str(reference) == f"oci:{tmp_path}/link/image:1"
    assert reference.policy_identity == f"{tmp_path}/real/image"
    assert reference.policy_namespaces[:3] == (f"{tmp_path}/real/image", f"{tmp_path}/real", str(tmp_path))
    assert "/" not in reference.policy_namespaces


@pytest.mark.parametrize("within", ["", ":x", "/\0", "/tmp:with space", "/tmp:@-1"])
def test_a_reference_that_cannot_be_is_refused(within: str) -> None:
    with pytest.raises(InvalidReferenceError):
        LayoutReference.parse(within)


@pytest.fixture
def public() -> Iterator[Path]:
    with public_directory() as directory:
        yield directory


def trouble(opened: LayoutSource) -> SourceError:
    """What an ordinary user is told who asks for the manifest."""
    with ordinary_user(), pytest.raises(SourceError) as caught:
        opened.fetch_manifest(CONTEXT)
    return caught.value


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: None, "No such file or directory"),
        (lambda place: place.parent.mkdir(), "No such file or directory"),
        (lambda place: (place.parent.mkdir(), place.write_text("")), "Not a directory"),
        (lambda place: place.parent.write_text(""), "Not a directory"),
        (lambda place: place.parent.symlink_to("gone"), "No such file or directory"),
        (lambda place: place.parent.symlink_to(place.parent.name), "Too many levels of symbolic links"),
    ],
    ids=["no-parent", "no-directory", "file", "below-a-file", "dangling-link", "loop"],
)
def test_a_layout_that_is_not_there_is_told_of_when_it_is_asked_for(
    tmp_path: Path, make: Callable[[Path], object], reason: str
) -> None:
    place = tmp_path / "images/os"
    make(place)
    opened = source(place)
    with pytest.raises(SourceError) as caught:
        opened.fetch_manifest(CONTEXT)
    assert str(caught.value).startswith(f"there is no layout to be read at {place}: {reason}")
    assert not caught.value.retryable


def test_a_layout_that_appears_is_served_without_a_reload(tmp_path: Path) -> None:
    opened = source(tmp_path / "images/os")
    with pytest.raises(SourceError):
        opened.fetch_manifest(CONTEXT)
    image = single_image(tmp_path / "images/os")
    assert opened.fetch_manifest(CONTEXT).raw == image.manifest


def test_a_layout_that_appears_as_a_link_is_not_served_under_a_policy_that_did_not_know_it(tmp_path: Path) -> None:
    opened = source(tmp_path / "os")
    single_image(tmp_path / "elsewhere")
    (tmp_path / "os").symlink_to("elsewhere")
    with pytest.raises(SourceError, match="reload"):
        opened.fetch_manifest(CONTEXT)


@pytest.mark.parametrize("closed", ["", "images", "images/os", "images/os/blobs/sha256"])
def test_the_directory_that_hides_a_layout_is_named(public: Path, closed: str) -> None:
    single_image(public / "images/os")
    opened = source(public / "images/os")
    (public / closed).chmod(0)
    for one in (opened, source(public / "images/os")):
        told = str(trouble(one))
        assert f"Permission denied: {public / closed} (mode 0000, of uid" in told
        assert f"+x {public / closed})" in told
    (public / closed).chmod(0o755)


@pytest.mark.parametrize("file", ["index.json", "blob"])
def test_a_file_of_a_layout_that_is_closed_is_named(public: Path, file: str) -> None:
    image = single_image(public / "os")
    place = public / "os" / (file if file == "index.json" else f"blobs/{image.digest.replace(':', '/')}")
    place.chmod(0)
    told = str(trouble(source(public / "os")))
    assert told.startswith(f"the layout cannot be read: {place}: Permission denied: {place} (mode 0000")


def test_a_layout_that_was_hidden_when_its_link_was_read_is_not_served_under_the_link_s_name(public: Path) -> None:
    (public / "closed").mkdir()
    single_image(public / "real")
    (public / "closed/os").symlink_to(public / "real")
    (public / "closed").chmod(0)
    with ordinary_user():
        opened = source(public / "closed/os")
    assert "Permission denied" in str(trouble(opened))
    (public / "closed").chmod(0o755)
    assert "reload" in str(trouble(opened))


def test_images_are_found_by_name_position_or_because_there_is_one(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    first = layout.image(name="a")
    assert source(tmp_path).fetch_manifest(CONTEXT).raw == first.manifest
    second = layout.image([layer_tar({"x": b"y"})], name="b")
    assert source(tmp_path, "b").fetch_manifest(CONTEXT).raw == second.manifest
    assert source(tmp_path, "@0").fetch_manifest(CONTEXT).raw == first.manifest
    with pytest.raises(UnknownManifestError, match="2 images: name one of them: a, b"):
        source(tmp_path).fetch_manifest(CONTEXT)
    with pytest.raises(UnknownManifestError, match="no image 'c'; it has a, b"):
        source(tmp_path, "c").fetch_manifest(CONTEXT)
    with pytest.raises(UnknownManifestError):
        source(tmp_path, "@2").fetch_manifest(CONTEXT)


def test_a_layout_that_still_names_the_same_image_says_so(tmp_path: Path) -> None:
    image = single_image(tmp_path)
    assert source(tmp_path).fetch_manifest(CONTEXT, unless=parse_digest(image.digest)) is None


def test_an_empty_layout_has_no_image(tmp_path: Path) -> None:
    Layout(tmp_path)
    with pytest.raises(UnknownManifestError, match=r": the layout has no images$"):
        source(tmp_path).fetch_manifest(CONTEXT)


@pytest.mark.parametrize("content", [b"", b"[]", b"not json", b'{"schemaVersion": 2}', b"{" * 100_000])
def test_a_broken_index_json_is_an_invalid_manifest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(InvalidManifestError, match=re.escape(f"index.json of {tmp_path}: ")):
        source(tmp_path).fetch_manifest(CONTEXT)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"index\.json: No such file"):
        source(tmp_path).fetch_manifest(CONTEXT)
    image = single_image(tmp_path)
    layer = layer_of(image)
    (tmp_path / "blobs/sha256" / layer.digest.hex).unlink()
    with pytest.raises(SourceError, match=layer.digest.hex):
        source(tmp_path).open_blob(CONTEXT, layer)


def test_a_manifest_with_other_content_than_its_name_is_refused(tmp_path: Path) -> None:
    image = single_image(tmp_path)
    (tmp_path / "blobs" / image.digest.replace(":", "/")).write_bytes(b"{}")
    with pytest.raises(DigestMismatchError):
        source(tmp_path).fetch_manifest(CONTEXT)


@pytest.mark.demand("LIM-manifest")
def test_no_more_than_the_limit_is_read_of_a_manifest(tmp_path: Path) -> None:
    with (tmp_path / "index.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InvalidManifestError):
        source(tmp_path).fetch_manifest(CONTEXT)
    assert len(source(tmp_path)._files.read(CONTEXT, ("index.json",), unmetered)) == MAX_MANIFEST_SIZE + 1


@pytest.mark.demand("DIR-symlink")
@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "device"])
def test_nothing_but_regular_files_is_opened(tmp_path: Path, kind: str) -> None:
    content = b"outside"
    digest = digest_of(content)
    place = tmp_path / "layout/blobs/sha256" / digest.hex
    place.parent.mkdir(parents=True)
    (tmp_path / "outside").write_bytes(content)
    make = {
        "link": lambda: place.symlink_to(tmp_path / "outside"),
        "fifo": lambda: os.mkfifo(place),
        "directory": place.mkdir,
        "device": lambda: place.symlink_to("/dev/zero"),
    }
    make[kind]()
    link = f"{place} is a symbolic link, which is not followed"
    reasons = {"link": link, "fifo": "is not a regular file", "directory": "is not a regular file", "device": link}
    with pytest.raises(SourceError, match=reasons[kind]):
        source(tmp_path / "layout").open_blob(CONTEXT, Descriptor("", digest, len(content)))


@pytest.mark.demand("DIR-symlink")
def test_a_linked_blobs_directory_is_not_followed(tmp_path: Path) -> None:
    image = single_image(tmp_path / "outside")
    (tmp_path / "layout").mkdir()
    (tmp_path / "layout/blobs").symlink_to(tmp_path / "outside/blobs")
    with pytest.raises(SourceError, match="layout/blobs is a symbolic link, which is not followed"):
        source(tmp_path / "layout").open_blob(CONTEXT, layer_of(image))


def test_a_link_that_was_turned_to_another_layout_is_not_followed_under_the_old_one_s_policy(tmp_path: Path) -> None:
    single_image(tmp_path / "v1")
    single_image(tmp_path / "v2")
    (tmp_path / "current").symlink_to("v1")
    opened, later = source(tmp_path / "current"), source(tmp_path / "current")
    opened.fetch_manifest(CONTEXT)
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("v2")
    assert not opened.is_current
    with pytest.raises(SourceError, match="reload"):
        later.fetch_manifest(CONTEXT)


def test_a_source_holds_its_directory_and_each_transfer_one_descriptor_more(tmp_path: Path) -> None:
    image = single_image(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    opened = source(tmp_path)
    transfers = [opened.open_blob(CONTEXT, layer_of(image)) for _ in range(3)]
    for transfer in transfers:
        assert transfer.readinto(memoryview(bytearray(1)))
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1 + 3
    for transfer in transfers:
        transfer.close()


def test_a_source_of_the_same_directory_goes_on_and_one_of_another_is_opened_anew(tmp_path: Path) -> None:
    image = single_image(tmp_path / "os")
    first = source(tmp_path / "os")
    first.fetch_manifest(CONTEXT)
    assert LayoutReference.parse(f"{tmp_path}/os:").open_source(ACCESS, first) is first
    (tmp_path / "os").rename(tmp_path / "old")
    single_image(tmp_path / "os")
    assert LayoutReference.parse(f"{tmp_path}/os:").open_source(ACCESS, first) is not first
    assert read_all(first.open_blob(CONTEXT, layer_of(image))) == image.layers[0], (
        "what it has open is served as long as it is"
    )


def test_a_directory_that_is_reached_by_a_link_now_is_not_what_policy_knew(tmp_path: Path) -> None:
    single_image(tmp_path / "os")
    first = source(tmp_path / "os")
    first.fetch_manifest(CONTEXT)
    assert first.is_current
    (tmp_path / "os").rename(tmp_path / "elsewhere")
    (tmp_path / "os").symlink_to("elsewhere")
    assert not first.is_current


def test_blobs_of_a_layout_that_was_replaced_come_from_the_new_one_where_that_has_them(tmp_path: Path) -> None:
    image = single_image(tmp_path / "os")
    opened = source(tmp_path / "os")
    opened.fetch_manifest(CONTEXT)
    shutil.rmtree(tmp_path / "os")
    single_image(tmp_path / "os")
    assert read_all(opened.open_blob(CONTEXT, layer_of(image))) == image.layers[0]


@pytest.mark.parametrize("offset", [0, 1, 511])
def test_a_blob_is_opened_at_an_offset(tmp_path: Path, offset: int) -> None:
    image = single_image(tmp_path)
    reader = source(tmp_path).open_blob(CONTEXT, layer_of(image), offset)
    assert reader.offset == offset
    assert read_all(reader) == image.layers[0][offset:]
    assert read_all(source(tmp_path).open_blob(CONTEXT, layer_of(image), len(image.layers[0]))) == b""


def test_waiting_too_long_for_memory_is_not_the_layout_s_fault(tmp_path: Path) -> None:
    single_image(tmp_path)

    def take(_size: int) -> None:
        raise TimeoutError("the time is over")

    with pytest.raises(TimeoutError, match="the time is over"):
        source(tmp_path).fetch_manifest(CONTEXT, take=take)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE])
def test_what_passes_is_not_the_layout_s_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    image = single_image(tmp_path)
    opened = source(tmp_path)

    def failing(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(SourceError, match=os.strerror(number)) as caught:
        opened.open_blob(CONTEXT, layer_of(image))
    assert caught.value.retryable
    assert "broken" not in str(caught.value)
