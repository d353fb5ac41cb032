"""``containers-storage:`` references: stores, names, digests and ids, and by which names policy knows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from container_image_proxy.config.storage_conf import StoreLocation
from container_image_proxy.errors import ConfigurationError, InvalidReferenceError, SourceError
from container_image_proxy.transports.storage.reference import StorageReference
from container_image_proxy.transports.table import parse_image_reference
from tests.support.stores import Store

ID = "ac279f4cfad24bd077c5c15ac3fa18ef79a6acdfb24023be08403339e774648b"
DIGEST = f"sha256:{'5a' * 32}"
DEFAULT = StoreLocation("vfs", Path("/default"), Path("/run/default"))


def parse(within: str) -> StorageReference:
    return StorageReference.parse(within, lambda: DEFAULT)


@pytest.mark.parametrize(
    ("within", "location"),
    [
        ("os", DEFAULT),
        ("[overlay@/srv/a+/run/a]os", StoreLocation("overlay", Path("/srv/a"), Path("/run/a"))),
        ("[vfs@/srv/a/../b/]os", StoreLocation("vfs", Path("/srv/b"))),
        ("[/srv/a]os", StoreLocation("overlay", Path("/srv/a"))),
        ("[vfs@+/run/a]os", StoreLocation("vfs", Path("/default"), Path("/run/a"))),
        (
            "[overlay@/srv/a:overlay.imagestore=/mnt/a,overlay.mount_program=/bin/f,.imagestore=/mnt/b]os",
            StoreLocation("overlay", Path("/srv/a"), None, None, (Path("/mnt/a"), Path("/mnt/b"))),
        ),
    ],
)
def test_the_store(within: str, location: StoreLocation) -> None:
    assert parse(within).location == location


@pytest.mark.parametrize(
    ("name", "named", "image_id"),
    [
        ("busybox", "docker.io/library/busybox:latest", ""),
        ("localhost/os:1", "localhost/os:1", ""),
        (f"quay.io/os@{DIGEST}", f"quay.io/os@{DIGEST}", ""),
        (f"quay.io/os:1@{DIGEST}", f"quay.io/os:1@{DIGEST}", ""),
        (f"@{ID}", None, ID),
        (ID, None, ID),
        (f"os:1@{ID}", "docker.io/library/os:1", ID),
        (f"os@{DIGEST}@{ID}", f"docker.io/library/os@{DIGEST}", ID),
        ("cafe", "docker.io/library/cafe:latest", ""),
    ],
)
def test_the_image(name: str, named: str | None, image_id: str) -> None:
    reference = parse(f"[vfs@/srv/none]{name}")
    assert (reference.named and str(reference.named), reference.image_id) == (named, image_id)
    assert parse_image_reference(str(reference)) == reference


@pytest.mark.parametrize(
    "within",
    [
        "",
        "[vfs@/srv/a]",
        "[vfs@/srv/a",
        "[]os",
        "[vfs@]os",
        "[@/srv/a]os",
        "[srv/a]os",
        "[vfs@srv]os",
        "[vfs@/srv+run]os",
        "[vfs@/srv/\0]os",
        "[vfs@/srv/a:vfs.imagestore=/b\0]os",
        "UPPER",
        "os@",
        "os@xyz",
        "os@ab",
        "@",
        "os@sha256:aaaa",
        f"os@sha256:{'a' * 32}",
        "a b",
    ],
)
def test_what_is_no_reference_is_refused(within: str) -> None:
    with pytest.raises(InvalidReferenceError):
        parse(within)


def test_who_names_no_store_needs_a_configuration() -> None:
    with pytest.raises(InvalidReferenceError, match="write which store is meant"):
        parse_image_reference("containers-storage:os")

    def broken() -> StoreLocation:
        raise ConfigurationError("storage.conf", "wrong")

    with pytest.raises(ConfigurationError):
        StorageReference.parse("os", broken)


def test_policy_knows_images_by_the_scopes_of_containers_image() -> None:
    reference = parse(f"[overlay@/srv/a+/run/a:overlay.imagestore=/mnt/a]quay.io/x/os:1@{DIGEST}@{ID}")
    store = "[overlay@/srv/a]"
    assert str(reference) == (
        f"containers-storage:[overlay@/srv/a+/run/a:overlay.imagestore=/mnt/a]quay.io/x/os:1@{DIGEST}@{ID}"
    )
    assert reference.policy_identity == f"{store}quay.io/x/os:1@{DIGEST}@{ID}"
    assert reference.policy_namespaces == (
        f"{store}quay.io/x/os:1@{DIGEST}",
        f"{store}quay.io/x/os:1",
        f"{store}quay.io/x/os",
        f"{store}quay.io/x",
        f"{store}quay.io",
        store,
        "[/srv/a]",
    )
    alone = parse(f"[overlay@/srv/a]@{ID}")
    assert (alone.policy_identity, alone.policy_namespaces) == (f"{store}@{ID}", (store, "[/srv/a]"))
    assert alone.docker_reference is None


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def add(store: Store, image_id: str, *names: str) -> None:
    store.record("images", [*store.records("images"), {"id": image_id, "names": names}])


def test_an_id_is_completed_by_the_store(store: Store) -> None:
    add(store, ID, "localhost/os:1")
    for name in ("@ac2", "ac2", "@" + ID[:12], ID[:63]):
        assert parse_image_reference(store.reference(name)) == parse_image_reference(store.reference(f"@{ID}"))
    reference = parse_image_reference(store.reference("localhost/os:1@ac27"))
    assert reference.policy_identity == f"[overlay@{store.root}]localhost/os:1@{ID}"


def test_an_id_that_the_store_cannot_complete_stays_as_it_is(store: Store) -> None:
    add(store, ID)
    add(store, f"ac2{'0' * 61}")
    for name in ("@ac2", "@beef"):
        reference = parse_image_reference(store.reference(name))
        assert isinstance(reference, StorageReference)
        assert reference.image_id == name[1:]


def test_a_name_is_a_name_though_an_image_has_that_name_and_another_id(store: Store) -> None:
    add(store, ID, "cafe")
    reference = parse_image_reference(store.reference("cafe"))
    assert isinstance(reference, StorageReference)
    assert str(reference.named) == "docker.io/library/cafe:latest"


def test_a_store_that_is_not_there_is_told_when_it_is_asked_for(store: Store, tmp_path: Path) -> None:
    parse(f"[vfs@{tmp_path}/gone]@abc")
    parse(store.reference("os").partition(":")[2]).verify_place()
    with pytest.raises(SourceError, match=f"there is no store to be read at {tmp_path}/gone"):
        parse(f"[vfs@{tmp_path}/gone]os").verify_place()
    with pytest.raises(SourceError, match=r"the driver 'zfs'.*overlay and vfs can.* skopeo"):
        parse("[zfs@/srv]os").verify_place()
