"""The tools of a host pull from the daemon as from a registry: what they get is what the origin has."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon, activated, on_port, stand_alone, write_instance, write_policy
from tests.support.host import Host
from tests.support.layouts import Layout, StoredImage, layer_tar, multi_arch, single_image
from tests.support.manual import shown
from tests.support.registries import DockerRegistry, docker_registry, free_port, needs_docker_registry
from tests.support.requirements import needs_programs, needs_root
from tests.support.sigstore import attachment, attachment_tag, make_key, public_pem
from tests.support.waiting import await_true

EXAMPLE = Path(__file__).resolve().parents[2] / "contrib/examples/registries-mirror.conf"
PROXYD = "/lib/systemd/systemd-socket-proxyd"
pytestmark = needs_docker_registry


@dataclass(frozen=True)
class Origin:
    """A registry with an index and a Docker image of several layers, and the daemon in front of each over TCP."""

    registry: DockerRegistry
    daemons: dict[str, str]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    place = tmp_path_factory.mktemp("origin")
    multi_arch(place / "index", "linux/amd64", "linux/arm64/v8")
    layers = [layer_tar({"a": b"a"}), layer_tar({"big": os.urandom(5 << 20)})]
    Layout(place / "docker").image(layers, name="x")
    (place / "registries.conf").write_text("")
    policy = write_policy(place)
    arguments = ["--policy", str(policy), "--registries-conf", str(place / "registries.conf"), "--tls-verify=false"]
    with docker_registry(place / "registry") as registry:
        index = registry.push(place / "index", "some/index:latest")
        docker = registry.push(f"{place}/docker:x", "docker:latest", "--format=v2s2")
        with (
            on_port(place / "one", [*arguments, f"docker://{index}"]) as (_, one),
            on_port(place / "two", [*arguments, f"docker://{docker}"]) as (_, two),
        ):
            yield Origin(registry, {"some/index": f"127.0.0.1:{one}", "docker": f"127.0.0.1:{two}"})


def run(*command: str, environ: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env={**os.environ, **(environ or {})}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def copied(source: str, target: Path, *options: str) -> dict[str, bytes]:
    """What skopeo copies, by file name."""
    run("skopeo", "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", *options, source, f"dir:{target}")
    return {file.relative_to(target).as_posix(): file.read_bytes() for file in target.rglob("*") if file.is_file()}


@pytest.mark.parametrize("options", [(), ("--all",)])
@pytest.mark.parametrize("name", ["some/index", "docker"])
def test_skopeo_copies_the_same_as_from_the_origin(
    origin: Origin, tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    theirs = copied(f"docker://{origin.registry.authority}/{name}", tmp_path / "theirs", *options)
    for number, path in enumerate(("image", name)):
        ours = copied(f"docker://{origin.daemons[name]}/{path}", tmp_path / f"ours-{number}", *options)
        assert ours == theirs


def test_skopeo_sees_the_same_digest_and_bytes_as_at_the_origin(origin: Origin) -> None:
    for name, authority in origin.daemons.items():
        for options in (("--raw",), ("--format={{.Digest}}",)):
            command = ["skopeo", "inspect", "--tls-verify=false", *options]
            ours = run(*command, f"docker://{authority}/image")
            assert ours == run(*command, f"docker://{origin.registry.authority}/{name}")
        assert '"latest"' in run("skopeo", "list-tags", "--tls-verify=false", f"docker://{authority}/{name}")


@needs_programs("crane")
def test_crane_finds_the_image_valid_and_its_digest_the_origins(origin: Origin, tmp_path: Path) -> None:
    for name, authority in origin.daemons.items():
        run("crane", "validate", "--insecure", "--remote", f"{authority}/image")
        assert run("crane", "digest", "--insecure", f"{authority}/image") == run(
            "crane", "digest", "--insecure", f"{origin.registry.authority}/{name}"
        )
        run("crane", "pull", "--insecure", "--format=oci", f"{authority}/image", str(tmp_path / name.replace("/", "-")))


@needs_root
@needs_programs("podman")
def test_podman_pulls(origin: Origin, tmp_path: Path) -> None:
    policy = write_policy(tmp_path)
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # podman wants a short path
        podman = ["podman", f"--root={place}/root", f"--runroot={place}/run", "--storage-driver=vfs"]
        for name, authority in origin.daemons.items():
            pulled = [
                run(*podman, "pull", "--quiet", "--tls-verify=false", f"--signature-policy={policy}", image)
                for image in (f"{authority}/image", f"{origin.registry.authority}/{name}")
            ]
            assert pulled[0] == pulled[1]


# --- in the registry's place -----------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


@dataclass(frozen=True)
class Mirrored:
    """A host with the example as its registries.conf, and the images behind it."""

    host: Host
    stored: dict[str, StoredImage]


@pytest.fixture
def mirrored(host: Host, tmp_path: Path) -> Iterator[Mirrored]:
    """quay.io cannot be reached from here under this name, so that what comes is from the daemon."""
    stored = {name: single_image(tmp_path / name) for name in ("os", "tools")}
    port = free_port()
    host.write_registries(
        EXAMPLE.read_text().replace("127.0.0.1:5000", f"127.0.0.1:{port}").replace("quay.io", "quay.invalid")
    )
    write_instance(
        tmp_path / "config",
        "test",
        "".join(f'[images.{name}]\nreference = "oci:{tmp_path}/{name}"\n' for name in stored)
        + f'[trust]\npolicy = "{write_policy(tmp_path)}"\n',
    )
    arguments = ["--instance", "test", "--config-dir", str(tmp_path / "config")]
    proxyd = ["systemd-socket-activate", f"--listen=127.0.0.1:{port}", PROXYD]
    with activated(tmp_path / "run", arguments) as daemon, proxied(proxyd, daemon, port):
        yield Mirrored(host, stored)


def test_the_example_has_skopeo_pull_from_the_daemon_under_the_images_own_names(
    mirrored: Mirrored, tmp_path: Path
) -> None:
    for path, name in {"exampleos": "os", "tools": "tools"}.items():
        done = mirrored.host.skopeo("copy", f"docker://quay.invalid/cgwalters/{path}:latest", f"dir:{tmp_path}/{path}-")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"{path}-" / "manifest.json").read_bytes() == mirrored.stored[name].manifest
    assert mirrored.host.skopeo("inspect", "docker://quay.invalid/cgwalters/exampleos:other").returncode != 0


@needs_root
@needs_programs("podman")
def test_the_example_has_podman_pull_from_the_daemon_under_the_images_own_names(mirrored: Mirrored) -> None:
    environ = {"CONTAINERS_REGISTRIES_CONF": str(mirrored.host.registries_conf)}
    policy = mirrored.host.directory / "policy.json"
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # podman wants a short path
        podman = ["podman", f"--root={place}/root", f"--runroot={place}/run", "--storage-driver=vfs"]
        for path, name in {"exampleos": "os", "tools": "tools"}.items():
            image = f"quay.invalid/cgwalters/{path}:latest"
            run(*podman, "pull", "--quiet", f"--signature-policy={policy}", image, environ=environ)
            digests = run(*podman, "image", "inspect", "--format={{.RepoDigests}}", image, environ=environ)
            assert f"quay.invalid/cgwalters/{path}@{mirrored.stored[name].digest}" in digests


@needs_programs("socat")
def test_the_manual_pages_socat_leads_from_a_port_to_an_instance(tmp_path: Path) -> None:
    stored, port = single_image(tmp_path / "layout"), free_port()
    line = shown("container-image-proxy-http.7", "Podman and skopeo as clients")[-1].replace("5000", str(port))
    command, path = line.split()[:-1], line.split()[-1].partition(":")[2]
    assert path == "/run/container-image-proxy/os.sock"
    arguments = ["--policy", str(write_policy(tmp_path)), f"oci:{tmp_path}/layout"]
    with stand_alone(tmp_path / "run", arguments) as daemon, proxied(command, daemon, port, "UNIX-CONNECT:"):
        assert copied(f"docker://127.0.0.1:{port}/image", tmp_path / "copy")["manifest.json"] == stored.manifest


class proxied:  # noqa: N801 - reads as a word in a with statement
    """A program that passes connections to ``port`` on to the daemon's socket."""

    def __init__(self, command: list[str], daemon: RunningDaemon, port: int, prefix: str = "") -> None:
        self._command = [*command, f"{prefix}{daemon.socket}"]
        self._port = port

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        await_true(self._is_listening, "listening")

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)


def test_a_puller_with_a_policy_of_its_own_finds_the_signatures(host: Host, tmp_path: Path) -> None:
    """A second daemon is the puller: Debian 12's skopeo cannot verify sigstore signatures."""
    key = make_key()
    (tmp_path / "key.pub").write_bytes(public_pem(key))
    signed = single_image(tmp_path / "signed", name="x")
    Layout(tmp_path / "unsigned").image([layer_tar({"other": b""})], name="x")
    with docker_registry(tmp_path / "registry") as registry:
        layout = Layout(tmp_path / "attachment")
        attachment(layout, key, f"{registry.authority}/os", signed.digest)
        registry.push(f"{tmp_path}/signed:x", "os:1")
        registry.push(f"{tmp_path}/unsigned:x", "os:2")
        registry.push(f"{layout.path}:x", f"os:{attachment_tag(signed.digest)}")
        host.write_registries(f'[[registry]]\nlocation = "{registry.authority}"\ninsecure = true\n')
        options = ["--policy", str(host.directory / "policy.json"), "--registries-conf", str(host.registries_conf)]
        outcomes = {}
        for tag in "12":
            with on_port(tmp_path / f"near-{tag}", [*options, f"docker://{registry.authority}/os:{tag}"]) as (_, port):
                outcomes[tag] = pull_signed(tmp_path / f"far-{tag}", port, registry, tag, tmp_path / "key.pub")
    assert outcomes == {"1": (200, signed.manifest), "2": (403, None)}


def pull_signed(directory: Path, port: int, registry: DockerRegistry, tag: str, key: Path) -> tuple[int, bytes | None]:
    """What a daemon says that pulls from ``port`` and wants the key's signature for the origin's name."""
    (directory / "registries.d").mkdir(parents=True)
    (directory / "registries.d/all.yaml").write_text("default-docker:\n  use-sigstore-attachments: true\n")
    identity = {"type": "exactRepository", "dockerRepository": f"{registry.authority}/os"}
    policy = write_policy(
        directory, {"default": [{"type": "sigstoreSigned", "keyPath": str(key), "signedIdentity": identity}]}
    )
    arguments = ["--policy", str(policy), "--registries.d", str(directory / "registries.d"), "--tls-verify=false"]
    with stand_alone(directory / "run", [*arguments, f"docker://127.0.0.1:{port}/os:{tag}"]) as daemon:
        reply = daemon.get("/manifest")
        return reply.status, reply.body if reply.status == 200 else None
