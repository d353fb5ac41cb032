"""cip pull dir: makes a directory as skopeo does, with the signatures that are attached to the image."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.functional.test_cip import run_cip
from tests.support.daemon import RunningDaemon, stand_alone, write_policy
from tests.support.gpg import Signer
from tests.support.host import Host
from tests.support.layouts import Layout, StoredImage, layer_tar, single_image
from tests.support.makers.directory import write
from tests.support.registries import DockerRegistry, docker_registry, needs_docker_registry
from tests.support.requirements import needs_programs
from tests.support.sigstore import attachment, attachment_tag, make_key, public_pem

KEY = make_key()


@contextmanager
def serving(place: Path, reference: str, policy: object = None) -> Iterator[RunningDaemon]:
    place.mkdir(exist_ok=True)
    path = write_policy(place, policy) if policy else write_policy(place)
    with stand_alone(place / "run", ["--policy", str(path), reference]) as daemon:
        yield daemon


def pulled(daemon: RunningDaemon, directory: Path) -> dict[str, object]:
    done = run_cip("--socket", daemon.socket, "--json", "pull", f"dir:{directory}")
    assert done.returncode == 0, done.stderr
    document: dict[str, object] = json.loads(done.stdout)
    return document


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# --- the directory ----------------------------------------------------------------------------------------------------


@needs_programs("skopeo")
@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_it_is_the_one_that_skopeo_makes(tmp_path: Path, *, docker: bool) -> None:
    image = Layout(tmp_path / "layout").image(name="1", docker=docker)
    write(tmp_path / "origin", image)
    with serving(tmp_path / "daemon", f"dir:{tmp_path}/origin") as daemon:
        assert pulled(daemon, tmp_path / "ours")["digest"] == image.digest
    command = ["skopeo", "--insecure-policy", "copy", "--quiet", f"dir:{tmp_path}/origin", f"dir:{tmp_path}/theirs"]
    subprocess.run(command, check=True)
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    assert (tmp_path / "ours").stat().st_mode & 0o777 == 0o755


def test_a_newer_image_takes_its_place_and_what_both_have_is_linked(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    common = layer_tar({"common": b"c"})
    first = layout.image([common, layer_tar({"old": b"o"})], name="1")
    with serving(tmp_path / "daemon", f"oci:{layout.path}:1") as daemon:
        pulled(daemon, tmp_path / "image")
        kept = (tmp_path / "image" / first.layer_digests[0].removeprefix("sha256:")).stat().st_ino
        second = layout.image([common, layer_tar({"new": b"n"})], name="1")
        while daemon.get("/manifest").headers["manifest-digest"] != second.digest:
            pass
        document = pulled(daemon, tmp_path / "image")
    assert [blob["digest"] for blob in document["kept"]] == [first.layer_digests[0]]  # type: ignore[attr-defined]
    names = {digest.removeprefix("sha256:") for digest in second.blobs}
    assert set(files(tmp_path / "image")) == names | {"manifest.json", "version"}
    assert (tmp_path / "image" / first.layer_digests[0].removeprefix("sha256:")).stat().st_ino == kept


def test_a_directory_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    single_image(tmp_path / "layout")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    with serving(tmp_path / "daemon", f"oci:{tmp_path}/layout:latest") as daemon:
        done = run_cip("--socket", daemon.socket, "pull", f"dir:{tmp_path}/mine")
    assert (done.returncode, "it is no image" in done.stderr) == (1, True)
    assert files(tmp_path / "mine") == {"file": b"x"}


@pytest.mark.demand("DIG-blob-mismatch")
def test_a_pull_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    image = layout.image([layer_tar({"a": bytes(2 << 20)})], name="1", compression="")
    place = tmp_path / "to"
    place.mkdir()
    with serving(tmp_path / "daemon", f"oci:{layout.path}:1") as daemon:
        pulled(daemon, place / "image")
        before = files(place / "image")
        newer = layout.image([layer_tar({"b": bytes(2 << 20)})], name="1", compression="")
        while daemon.get("/manifest").headers["manifest-digest"] != newer.digest:
            pass
        layout.blob_path(newer.layer_digests[0]).write_bytes(bytes(len(newer.layers[0])))
        done = run_cip("--socket", daemon.socket, "pull", f"dir:{place}/image")
    assert done.returncode in (7, 8), done.stderr
    assert files(place / "image") == before
    assert image.digest != newer.digest
    assert [path.name for path in place.iterdir()] == ["image"]


# --- signatures -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


def by_key(key: Path, identity: dict[str, str]) -> dict[str, object]:
    return {"type": "sigstoreSigned", "keyPath": str(key), "signedIdentity": identity}


@contextmanager
def in_front_of(
    host: Host, registry: DockerRegistry, name: str, policy: object, *options: str
) -> Iterator[RunningDaemon]:
    write_policy(host.directory, policy)
    host.write_registries(f'[[registry]]\nlocation = "{registry.authority}"\ninsecure = true\n')
    with host.daemon({"os": f"docker://{registry.authority}/{name}"}, *options) as daemon:
        yield daemon


def signed(place: Path, registry: DockerRegistry, name: str) -> StoredImage:
    """An image in the registry, with a signature attached to it."""
    image = single_image(place / "layout")
    registry.push(f"{place}/layout:latest", f"{name}:1")
    attachment(Layout(place / "attached"), KEY, f"{registry.authority}/{name}", image.digest)
    registry.push(f"{place}/attached:x", f"{name}:{attachment_tag(image.digest)}")
    (place / "key.pub").write_bytes(public_pem(KEY))
    (place / "registries.d").mkdir()
    (place / "registries.d/all.yaml").write_text("default-docker: {use-sigstore-attachments: true}\n")
    return image


@needs_docker_registry
@needs_programs("skopeo")
def test_an_attached_signature_comes_along_and_is_trusted_on_the_other_side(
    registry: DockerRegistry, tmp_path: Path
) -> None:
    image = signed(tmp_path, registry, "signed")
    requirement = by_key(tmp_path / "key.pub", {"type": "matchRepository"})
    options = ("--registries.d", f"{tmp_path}/registries.d")
    with in_front_of(Host(tmp_path / "host"), registry, "signed:1", {"default": [requirement]}, *options) as daemon:
        assert pulled(daemon, tmp_path / "carried")["signatures"] == 1
    name = {"type": "exactRepository", "dockerRepository": f"{registry.authority}/signed"}
    policy = {"default": [{"type": "reject"}], "transports": {"dir": {"": [by_key(tmp_path / "key.pub", name)]}}}
    with serving(tmp_path / "there", f"dir:{tmp_path}/carried", policy) as daemon:
        manifest = daemon.get("/manifest")
    assert (manifest.status, manifest.body) == (200, image.manifest), manifest.body
    # Debian's skopeo knows such signatures, but its policy rejects them all.
    command = ["skopeo", "--insecure-policy", "copy", "--quiet", f"dir:{tmp_path}/carried", f"dir:{tmp_path}/copy"]
    subprocess.run(command, check=True)
    assert files(tmp_path / "copy") == files(tmp_path / "carried")


@needs_docker_registry
def test_an_image_that_is_trusted_for_another_signature_is_not_carried_without_it(
    registry: DockerRegistry, signer: Signer, tmp_path: Path
) -> None:
    image = single_image(tmp_path / "layout")
    registry.push(f"{tmp_path}/layout:latest", "simple:1")
    place = tmp_path / f"lookaside/simple@sha256={image.digest.removeprefix('sha256:')}"
    place.mkdir(parents=True)
    (place / "signature-1").write_bytes(signer.sign_image(f"{registry.authority}/simple:1", image.digest))
    (tmp_path / "key.gpg").write_bytes(signer.public_key)
    (tmp_path / "registries.d").mkdir()
    (tmp_path / "registries.d/all.yaml").write_text(f"default-docker: {{lookaside: 'file://{tmp_path}/lookaside'}}\n")
    requirement = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": f"{tmp_path}/key.gpg"}
    options = ("--registries.d", f"{tmp_path}/registries.d")
    (tmp_path / "to").mkdir()
    with in_front_of(Host(tmp_path / "host"), registry, "simple:1", {"default": [requirement]}, *options) as daemon:
        done = run_cip("--socket", daemon.socket, "pull", f"dir:{tmp_path}/to/image")
    assert done.returncode == 10, done.stderr
    assert f"openpgp:{signer.fingerprint}" in done.stderr
    assert "carry-image" in done.stderr
    assert list((tmp_path / "to").iterdir()) == []
