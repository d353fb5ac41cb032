"""Stores that podman and skopeo wrote: served as they read them, without a trace of us, while they work on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import RunningDaemon, activated, stand_alone, write_instance, write_policy
from tests.support.gpg import Signer
from tests.support.layouts import Layout, layer_tar, multi_arch, single_image, skopeo_copy
from tests.support.privilege import needs_root
from tests.support.requirements import needs_programs
from tests.support.stores import Store, podman, podman_store, skopeo_store, unmount

pytestmark = [needs_root, needs_programs("podman", "skopeo")]

NAME = "localhost/os:1"
LARGE = 8 << 20


def odd_layer() -> bytes:
    """What tars can have that a directory does not say by itself."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive:

        def add(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", **more: Any) -> None:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, len(content), link
            for key, value in more.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))

        add("usr", kind=tarfile.DIRTYPE, mode=0o755)
        add("usr/lib", kind=tarfile.DIRTYPE, mode=0o755)
        add("lib", kind=tarfile.SYMTYPE, link="usr/lib")
        add("lib/through-a-link", b"a" * 1000)
        add("./etc/passwd", b"root", mode=0o600, uid=1234, gid=77, mtime=1.5)
        add("etc/hard", kind=tarfile.LNKTYPE, link="./etc/passwd")
        add("etc/empty")
        add("etc/secret", b"nobody may read this", mode=0)
        add("etc/labelled", b"x" * 5000, pax_headers={"SCHILY.xattr.user.note": "kept", "comment": "c"})
        add("n" * 120 + "/" + "m" * 150, b"long name")
        add("etc/caf\udce9", b"not UTF-8")
        add("etc/set-uid", b"s", mode=0o4755)
        add("dev/null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)
        add("dev/fifo", kind=tarfile.FIFOTYPE)
        add("large", os.urandom(LARGE))
    return raw.getvalue()


@dataclass(frozen=True)
class Pulled:
    """An image in a store, and what has to come out."""

    store: Store
    digest: str
    config: bytes
    tars: tuple[bytes, ...]


@pytest.fixture(scope="module", params=["overlay-podman", "vfs-podman", "overlay-skopeo", "vfs-skopeo"])
def pulled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pulled:
    place = tmp_path_factory.mktemp("pulled")
    whiteouts = layer_tar({"etc/.wh.empty": b"", "usr/.wh..wh..opq": b"", "etc/motd": b"hello"})
    tars = (odd_layer(), whiteouts, layer_tar({}))
    image = Layout(place / "layout").image(tars, name="latest")
    driver, _, program = request.param.partition("-")
    make = podman_store if program == "podman" else skopeo_store
    return Pulled(
        make(f"oci:{place}/layout:latest", place / "store", NAME, driver=driver), image.digest, image.config, tars
    )


def daemon_options(directory: Path) -> list[str]:
    return ["--policy", str(write_policy(directory)), "--override-os", "linux", "--override-arch", "amd64"]


def get_blobs(daemon: RunningDaemon) -> list[bytes]:
    """The image's layers."""
    manifest = daemon.get("/manifest").json
    return [daemon.get(f"/blobs/{layer['digest']}").body for layer in manifest["layers"]]


def state_of(root: Path) -> dict[str, tuple[object, ...]]:
    """All that a write would change."""
    found = {}
    for path in (root, *root.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found


def test_layers_come_out_as_the_tars_that_they_were_and_nothing_is_written(tmp_path: Path, pulled: Pulled) -> None:
    before = state_of(pulled.store.root)
    with stand_alone(tmp_path / "run", [*daemon_options(tmp_path), pulled.store.reference(NAME)]) as daemon:
        assert daemon.get("/manifest").headers["manifest-digest"] == pulled.digest
        assert daemon.get("/config").body == pulled.config
        assert tuple(get_blobs(daemon)) == pulled.tars
    assert state_of(pulled.store.root) == before


def test_skopeo_reads_the_same_layers(tmp_path: Path, pulled: Pulled) -> None:
    copy = ["skopeo", "--insecure-policy", "copy", "-q"]
    store, run_root = pulled.store, tmp_path / "run-root"
    source = f"containers-storage:[{store.driver}@{store.root}+{run_root}]{NAME}"
    subprocess.run([*copy, source, f"dir:{tmp_path}/copy"], check=True, capture_output=True)
    unmount(store.root)
    layers = json.loads((tmp_path / "copy/manifest.json").read_text())["layers"]
    with stand_alone(tmp_path / "run", [*daemon_options(tmp_path), store.reference(NAME)]) as daemon:
        ours = daemon.get("/manifest").json["layers"]
        assert [(one["digest"], one["size"]) for one in ours] == [(one["digest"], one["size"]) for one in layers]
        for one in layers:
            assert daemon.get(f"/blobs/{one['digest']}").body == (tmp_path / "copy" / one["digest"][7:]).read_bytes()


def test_every_way_to_name_an_image(tmp_path: Path, pulled: Pulled) -> None:
    image_id = hashlib.sha256(pulled.config).hexdigest()
    for number, name in enumerate(
        [f"@{image_id}", image_id[:12], f"localhost/os@{pulled.digest}", f"{NAME}@{image_id}"]
    ):
        with stand_alone(tmp_path / str(number), [*daemon_options(tmp_path), pulled.store.reference(name)]) as daemon:
            assert daemon.get("/manifest").headers["manifest-digest"] == pulled.digest, name


def test_a_part_of_a_layer_is_what_it_is_in_the_whole(tmp_path: Path, pulled: Pulled) -> None:
    with stand_alone(tmp_path / "run", [*daemon_options(tmp_path), pulled.store.reference(NAME)]) as daemon:
        digest = daemon.get("/manifest").json["layers"][0]["digest"]
        for first, last in ((0, 0), (512, 5000), (len(pulled.tars[0]) - 5_000_000, len(pulled.tars[0]) - 1)):
            reply = daemon.get(f"/blobs/{digest}", {"Range": f"bytes={first}-{last}"})
            assert (reply.status, reply.body) == (206, pulled.tars[0][first : last + 1])


def large_file(store: Store) -> Path:
    (path,) = store.root.glob("overlay/*/diff/large") if store.driver == "overlay" else ()
    return path


@pytest.fixture
def own(tmp_path: Path) -> tuple[Store, bytes]:
    """A store of the test's own, with one layer of one large file."""
    tar = layer_tar({"large": os.urandom(LARGE)})
    Layout(tmp_path / "layout").image([tar], name="latest")
    return podman_store(f"oci:{tmp_path}/layout:latest", tmp_path / "store", NAME), tar


@pytest.mark.parametrize("harm", ["other", "shorter", "gone"])
def test_a_layer_that_was_changed_in_the_store_never_arrives_whole(
    tmp_path: Path, own: tuple[Store, bytes], harm: str
) -> None:
    store, _ = own
    with stand_alone(tmp_path / "run", [*daemon_options(tmp_path), store.reference(NAME)]) as daemon:
        digest = daemon.get("/manifest").json["layers"][0]["digest"]
        fetch = ["--fail", "--output", "/dev/null", f"http://localhost/blobs/{digest}"]
        assert daemon.curl(*fetch).returncode == 0
        path = large_file(store)
        if harm == "gone":
            path.unlink()
        else:
            with path.open("r+b") as file:
                file.seek(LARGE // 2)
                file.write(b"other bytes") if harm == "other" else file.truncate()
        assert daemon.curl(*fetch).returncode in {18, 22}  # cut short, or refused before its first byte


def test_a_store_is_free_for_others_while_a_client_reads(tmp_path: Path, own: tuple[Store, bytes]) -> None:
    store, tar = own
    with stand_alone(tmp_path / "run", [*daemon_options(tmp_path), store.reference(NAME)]) as daemon:
        digest = daemon.get("/manifest").json["layers"][0]["digest"]
        with daemon.open(f"/blobs/{digest}") as reply:
            head = reply.read(1000)
            subprocess.run([*_flock(store, "images"), *_flock(store, "layers"), "true"], check=True, timeout=60)
            assert head + reply.read() == tar


def _flock(store: Store, kind: str) -> list[str]:
    """Run what follows while the store's lock is taken for writing, or fail at once."""
    program = "import fcntl,os,sys; fcntl.lockf(os.open(sys.argv[1], 2), 6); os.execvp(sys.argv[2], sys.argv[2:])"
    return ["python3", "-c", program, str(store.folder(kind) / f"{kind}.lock")]


def test_podman_s_changes_are_seen(tmp_path: Path, own: tuple[Store, bytes]) -> None:
    store, tar = own
    single_image(tmp_path / "second")
    with stand_alone(tmp_path / "run", [*daemon_options(tmp_path), store.reference(NAME)]) as daemon:
        first = daemon.get("/manifest")
        with podman_of(store, tmp_path) as run:
            image_id = run("pull", "-q", f"oci:{tmp_path}/second:latest").strip()
            run("tag", image_id, NAME)
        while (second := daemon.get("/manifest")).headers["etag"] == first.headers["etag"]:
            pass  # until the snapshot is no longer fresh
        assert len(get_blobs(daemon)) == 2
        assert daemon.get(f"/blobs/{first.json['layers'][0]['digest']}").body == tar, "what was served stays so"
        assert second.headers["manifest-digest"] != first.headers["manifest-digest"]


def podman_of(store: Store, directory: Path) -> Any:
    """podman keeps the run root that it began with in its database, which can go: it has no containers."""
    for database in store.root.rglob("*.db"):
        database.unlink()
    for database in store.root.rglob("db.sql*"):
        database.unlink()
    return podman(store.root, store.driver)


def names_in(tar: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return archive.getnames()


def test_what_podman_built_itself(tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context/file").write_bytes(b"built here")
    (tmp_path / "context/Containerfile").write_text("FROM scratch\nCOPY file /\nLABEL a=b\nCOPY file /again\n")
    with podman(tmp_path / "store", "overlay") as run:
        run("build", "-q", "--layers", "-t", NAME, str(tmp_path / "context"))
    store = Store(tmp_path / "store")
    with stand_alone(tmp_path / "run", [*daemon_options(tmp_path), store.reference(NAME)]) as daemon:
        assert daemon.get("/config").json["config"]["Labels"]["a"] == "b"
        names = [name for blob in get_blobs(daemon) for name in names_in(blob)]
        assert [name for name in names if name in {"file", "again"}] == ["file", "again"]


def test_an_index_with_the_platforms_that_were_pulled(tmp_path: Path) -> None:
    images = multi_arch(tmp_path / "layout")
    for architecture in ("amd64", "arm64"):
        options = ["--override-arch", architecture, *(["--override-variant", "v8"] if architecture == "arm64" else [])]
        name = f"localhost/many:{architecture}"
        store = skopeo_store(f"oci:{tmp_path}/layout:latest", tmp_path / "store", name, *options)
    digest = json.loads((tmp_path / "layout/index.json").read_text())["manifests"][0]["digest"]
    with stand_alone(
        tmp_path / "run", [*daemon_options(tmp_path), store.reference(f"localhost/many@{digest}")]
    ) as daemon:
        for platform in ("linux/amd64", "linux/arm64/v8"):
            reply = daemon.get(f"/manifest?platform={platform}")
            assert reply.headers["manifest-digest"] == images[platform].digest
            assert reply.headers["index-digest"] == digest
        missing = daemon.get("/manifest?platform=linux/arm/v7")
        assert (missing.status, "platforms that were pulled" in missing.json["detail"]) == (404, True)


def test_the_default_store_and_its_additional_ones(tmp_path: Path, own: tuple[Store, bytes]) -> None:
    store, tar = own
    Store(tmp_path / "empty")
    conf = tmp_path / "storage.conf"
    conf.write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{tmp_path}/empty"\nrunroot = "{tmp_path}/run-root"\n'
        f'[storage.options]\nadditionalimagestores = ["{store.root}"]\n'
    )
    environ = {"CONTAINERS_STORAGE_CONF": str(conf)}
    with stand_alone(
        tmp_path / "run", [*daemon_options(tmp_path), f"containers-storage:{NAME}"], environ=environ
    ) as daemon:
        assert get_blobs(daemon) == [tar]
    seen = subprocess.run(["podman", "images", "--format", "{{.Repository}}:{{.Tag}} {{.ReadOnly}}"],
                          env=os.environ | environ, capture_output=True, text=True, check=True)  # fmt: skip
    unmount(tmp_path / "empty")
    assert f"{NAME} true" in seen.stdout


def test_an_image_of_an_additional_store_that_podman_named_in_the_own(tmp_path: Path, own: tuple[Store, bytes]) -> None:
    store, tar = own
    location = f"overlay@{tmp_path}/named+{tmp_path}/run-root:overlay.imagestore={store.root}"
    with podman(tmp_path / "named", "overlay") as run:
        run("--storage-opt", f"overlay.imagestore={store.root}", "tag", NAME, "localhost/named:1")
    for name in ("localhost/named:1", NAME):
        reference = f"containers-storage:[{location}]{name}"
        with stand_alone(tmp_path / name.partition("/")[2], [*daemon_options(tmp_path), reference]) as daemon:
            assert get_blobs(daemon) == [tar]
            digest = daemon.get("/manifest").headers["manifest-digest"]
        seen = subprocess.run(
            ["skopeo", "inspect", "--format", "{{.Digest}}", reference], check=True, capture_output=True, text=True
        )
        unmount(tmp_path / "named")
        assert seen.stdout.strip() == digest


def test_the_manual_s_example(tmp_path: Path, own: tuple[Store, bytes]) -> None:
    store, tar = own
    name = "quay.io/cgwalters/exampleos:latest"
    reference = f"containers-storage:{name}"
    manual = (Path(__file__).parents[2] / "contrib/man/container-image-proxy-transports.5").read_text()
    assert f"podman pull {name}\ncontainer-image-proxy --socket /tmp/image.sock {reference} &\n" in manual
    store.record("images", [image | {"names": [name]} for image in store.records("images")])
    (tmp_path / "storage.conf").write_text(f'[storage]\ngraphroot = "{store.root}"\nrunroot = "{tmp_path}/run-root"\n')
    environ = {"CONTAINERS_STORAGE_CONF": str(tmp_path / "storage.conf")}
    with stand_alone(tmp_path / "run", [*daemon_options(tmp_path), reference], environ=environ) as daemon:
        assert get_blobs(daemon) == [tar]


def test_a_daemon_that_starts_again_serves_what_it_knew(tmp_path: Path, own: tuple[Store, bytes]) -> None:
    store, tar = own
    text = f'[images.os]\nreference = "{store.reference(NAME)}"\n[trust]\npolicy = "{write_policy(tmp_path)}"\n'
    write_instance(tmp_path / "conf", "os", text)
    (tmp_path / "runtime").mkdir()
    options = ["--instance", "os", "--config-dir", str(tmp_path / "conf")]
    environ = {"RUNTIME_DIRECTORY": str(tmp_path / "runtime")}
    with activated(tmp_path / "first", options, environ=environ) as daemon:
        manifest = daemon.get("/manifest")
    with activated(tmp_path / "second", options, environ=environ) as daemon:
        assert daemon.get(f"/blobs/{manifest.json['layers'][0]['digest']}").body == tar
        assert daemon.get(f"/blobs/{manifest.json['config']['digest']}").status == 200
        assert daemon.get("/manifest").body == manifest.body


@dataclass(frozen=True)
class Signed:
    """A store with an image that ``signer`` signed, and with one that nobody did."""

    store: Store
    signer: Signer


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    place = tmp_path_factory.mktemp("signed")
    single_image(place / "layout")
    Layout(place / "other").image([layer_tar({"x": b"x"})], name="latest")
    with Signer() as signer:
        os.environ["GNUPGHOME"] = str(signer.home)
        try:
            store = skopeo_store(f"oci:{place}/layout:latest", place / "store", NAME, "--sign-by", signer.fingerprint)
        finally:
            del os.environ["GNUPGHOME"]
        skopeo_store(f"oci:{place}/other:latest", place / "store", "localhost/unsigned:1")
        yield Signed(store, signer)


@pytest.mark.parametrize(("name", "key", "is_allowed"), [
    (NAME, "signer", True), (NAME, "stranger", False), ("localhost/unsigned:1", "signer", False),
])  # fmt: skip
def test_signatures_in_the_store_count_as_they_do_for_skopeo(
    tmp_path: Path,
    signed: Signed,
    stranger: Signer,
    name: str,
    key: str,
    is_allowed: bool,  # noqa: FBT001 - a table's column
) -> None:
    public = signed.signer.public_key if key == "signer" else stranger.public_key
    (tmp_path / "key.gpg").write_bytes(public)
    requirement = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": f"{tmp_path}/key.gpg"}
    scopes = {f"[overlay@{signed.store.root}]": [requirement]}
    policy = write_policy(tmp_path, {"default": [{"type": "reject"}], "transports": {"containers-storage": scopes}})
    with stand_alone(tmp_path / "run", ["--policy", str(policy), signed.store.reference(name)]) as daemon:
        reply = daemon.get("/manifest")
        assert (reply.status == 200) == is_allowed, reply.body
        if is_allowed:
            assert signed.signer.fingerprint in reply.headers["signed-by"]
    source = f"containers-storage:[overlay@{signed.store.root}+{tmp_path}/run-root]{name}"
    command = ["skopeo", "--policy", str(policy), "copy", "-q", "--remove-signatures", source, f"dir:{tmp_path}/copy"]
    theirs = subprocess.run(command, check=False, capture_output=True, text=True)
    unmount(signed.store.root)
    assert (theirs.returncode == 0) == is_allowed, theirs.stderr


def schema1_store(tmp_path: Path) -> Store:
    """A store with an image of two layers that was pulled as Docker schema 1."""
    history = [
        {"created": "2020-01-01T00:00:00Z", "created_by": "ADD a"},
        {"created": "2020-01-01T00:00:01Z", "created_by": "ENV b=c", "empty_layer": True},
        {"created": "2020-01-01T00:00:02Z", "created_by": "RUN d"},
    ]
    config = {"history": history, "config": {"Env": ["b=c"]}}
    Layout(tmp_path / "layout").image([odd_layer(), layer_tar({"d": b"d"})], name="latest", config=config)
    skopeo_copy(f"oci:{tmp_path}/layout:latest", f"dir:{tmp_path}/schema1", "--format", "v2s1")
    return skopeo_store(f"dir:{tmp_path}/schema1", tmp_path / "store", NAME)


def test_docker_schema_1_in_a_store_becomes_what_skopeo_makes_of_it(tmp_path: Path) -> None:
    store = schema1_store(tmp_path)
    source = f"containers-storage:[overlay@{store.root}+{tmp_path}/run-root]{NAME}"
    # Into a layout skopeo compresses layers unless it is told not to.
    skopeo_copy(source, f"dir:{tmp_path}/converted", "--format", "oci", "--dest-decompress")
    unmount(store.root)
    options = [*daemon_options(tmp_path), store.reference(NAME)]
    with stand_alone(tmp_path / "run", options) as daemon:
        reply = daemon.get("/manifest")
        # skopeo calls a tar a gzip here, because schema 1 has no name for it.
        assert reply.body == (tmp_path / "converted/manifest.json").read_bytes().replace(b".tar+gzip", b".tar")
        assert reply.headers["manifest-digest"] == store.records("images")[0]["digest"]
        for blob, descriptor in zip(get_blobs(daemon), reply.json["layers"], strict=True):
            assert f"sha256:{hashlib.sha256(blob).hexdigest()}" == descriptor["digest"]
        assert daemon.get("/v2/image/manifests/1").body == reply.body


def test_signatures_of_docker_schema_1_say_nothing_of_what_a_store_has(tmp_path: Path, stranger: Signer) -> None:
    store = schema1_store(tmp_path)
    (tmp_path / "key.gpg").write_bytes(stranger.public_key)
    requirement = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": f"{tmp_path}/key.gpg"}
    policy = write_policy(tmp_path, {"default": [requirement]})
    with stand_alone(tmp_path / "run", ["--policy", str(policy), store.reference(NAME)]) as daemon:
        reply = daemon.get("/manifest")
        assert reply.status >= 400
        assert "whose signatures say nothing of the unpacked layers" in reply.json["detail"]
