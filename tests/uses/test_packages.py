"""contrib/install-packages: real debs and rpms out of a layer, and nothing of a layer that is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import stand_alone, write_policy
from tests.support.layouts import Layout, layer_tar
from tests.support.programs import root_tar
from tests.support.requirements import needs_programs, needs_root

PROGRAM = Path(__file__).resolve().parents[2] / "contrib/install-packages"
SCRIPT = "#!/bin/sh\necho configured >/etc/configured\n"

# Whose package "upper" depends on "lower", by each tool that builds packages.
Build = Callable[[Path, str, str, str], bytes]


def deb(place: Path, name: str, depends: str, script: str) -> bytes:
    control = place / name / "DEBIAN"
    control.mkdir(parents=True)
    text = f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: T <t@example.com>\nDescription: {name}\n"
    (control / "control").write_text(text + (f"Depends: {depends}\n" if depends else ""))
    if script:
        (control / "postinst").write_text(script)
        (control / "postinst").chmod(0o755)
    add_file(place / name, name)
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", name], cwd=place, check=True, capture_output=True)
    return (place / f"{name}.deb").read_bytes()


def rpm(place: Path, name: str, depends: str, script: str) -> bytes:
    add_file(place / f"{name}-files", name)
    spec = place / f"{name}.spec"
    spec.write_text(
        f"Name: {name}\nVersion: 1\nRelease: 1\nSummary: {name}\nLicense: none\nBuildArch: noarch\nAutoReqProv: no\n"
        + (f"Requires: {depends}\n" if depends else "")
        + ("Provides: /bin/sh\n" if script else "")  # the root's own is of no package
        + f"%description\n{name}\n%install\ncp -a {place}/{name}-files/. %{{buildroot}}/\n"
        + (f"%post -p /bin/sh\n{script}\n" if script else "")
        + f"%files\n/usr/share/{name}\n"
    )
    command = ["rpmbuild", "-bb", "--define", f"_topdir {place}/rpm", spec]
    subprocess.run(command, check=True, capture_output=True)
    return (place / f"rpm/RPMS/noarch/{name}-1-1.noarch.rpm").read_bytes()


def add_file(root: Path, name: str) -> None:
    (root / "usr/share").mkdir(parents=True)
    (root / "usr/share" / name).write_text(f"{name}\n")


FORMATS = [
    pytest.param(deb, "deb", id="deb", marks=needs_programs("dpkg-deb")),
    pytest.param(rpm, "rpm", id="rpm", marks=needs_programs("rpmbuild")),
]


def layer(tmp_path: Path, build: Build, suffix: str, script: str = "") -> bytes:
    """The one that depends on the other comes first."""
    return layer_tar(
        {
            f"packages/upper.{suffix}": build(tmp_path, "upper", "lower", ""),
            f"packages/lower.{suffix}": build(tmp_path, "lower", "", script),
            "packages/README": b"no package",
        }
    )


@contextmanager
def served(tmp_path: Path, *layers: bytes, config: dict[str, object] | None = None) -> Iterator[Path]:
    layout = Layout(tmp_path / "layout")
    layout.image(layers, name="1", config=config or {})
    policy = write_policy(tmp_path)
    with stand_alone(tmp_path / "run", ["--policy", str(policy), f"oci:{layout.path}:1"]) as daemon:
        yield daemon.socket


def run(socket: Path, *arguments: str | Path, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, PROGRAM, "--socket", socket, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def wrong_config() -> dict[str, object]:
    """A configuration whose DiffID is that of another layer."""
    return {"rootfs": {"type": "layers", "diff_ids": [f"sha256:{64 * '0'}"]}}


def make_root(root: Path) -> Path:
    """A system with a shell, and nothing installed."""
    root.mkdir()
    subprocess.run(["tar", "--extract", "--directory", root], input=root_tar("sh"), check=True)
    (root / "etc").mkdir()
    for directory in ("info", "updates"):
        (root / "var/lib/dpkg" / directory).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    return root


@needs_root
@pytest.mark.parametrize(("build", "suffix"), FORMATS)
def test_packages_are_installed_into_a_root(tmp_path: Path, build: Build, suffix: str) -> None:
    root = make_root(tmp_path / "root")
    with served(tmp_path, layer(tmp_path, build, suffix, SCRIPT)) as socket:
        done = run(socket, "--root", root)
    assert done.returncode == 0, done.stderr
    assert [(root / "usr/share" / name).read_text() for name in ("lower", "upper")] == ["lower\n", "upper\n"]
    assert (root / "etc/configured").read_text() == "configured\n"
    query = {
        "deb": [
            "dpkg-query",
            f"--admindir={root}/var/lib/dpkg",
            "--show",
            "--showformat=${Package} ${db:Status-Status}\n",
        ],
        "rpm": ["rpm", f"--root={root}", "--query", "--all", "--queryformat", "%{name} installed\n"],
    }
    listed = subprocess.run(query[suffix], capture_output=True, text=True, check=True).stdout
    assert sorted(listed.splitlines()) == ["lower installed", "upper installed"]


@needs_root
@needs_programs("dpkg-deb", "prlimit")
def test_there_may_be_more_packages_than_a_process_may_usually_have_files(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    package = deb(tmp_path, "lower", "", "")
    with served(tmp_path, layer_tar({f"{number}.deb": package for number in range(40)})) as socket:
        done = run(socket, "--root", root, before=("prlimit", "--nofile=32:4096"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("build", "suffix"), FORMATS)
def test_packages_are_extracted_while_they_arrive(tmp_path: Path, build: Build, suffix: str) -> None:
    with served(tmp_path, layer(tmp_path, build, suffix)) as socket:
        done = run(socket, "--extract", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    found = {str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert found == {"usr/share/lower", "usr/share/upper"}


@needs_root
@pytest.mark.parametrize(("build", "suffix"), FORMATS)
def test_nothing_of_a_wrong_layer_is_installed(tmp_path: Path, build: Build, suffix: str) -> None:
    root = make_root(tmp_path / "root")
    (tmp_path / "there").mkdir()
    with served(tmp_path, layer(tmp_path, build, suffix, SCRIPT), config=wrong_config()) as socket:
        into_root = run(socket, "--root", root)
        extracted = run(socket, "--extract", tmp_path / "there/new")
    for done in (into_root, extracted):
        assert (done.returncode, "DiffID" in done.stderr) == (1, True), done.stderr
    assert not (root / "usr").exists()
    assert list((tmp_path / "there").iterdir()) == []


def test_what_is_no_package_is_told(tmp_path: Path) -> None:
    with served(tmp_path, layer_tar({"broken.deb": b"no package"})) as socket:
        done = run(socket, "--extract", tmp_path / "new")
    assert (done.returncode, "broken.deb cannot be extracted" in done.stderr) == (1, True), done.stderr
    assert not (tmp_path / "new").exists()


def test_an_image_without_packages_is_told(tmp_path: Path) -> None:
    with served(tmp_path, layer_tar({"etc/motd": b""})) as socket:
        done = run(socket, "--extract", tmp_path / "new")
    assert (done.returncode, "no *.deb and no *.rpm" in done.stderr) == (1, True)


def test_a_package_that_a_later_layer_takes_away_is_not_installed(tmp_path: Path) -> None:
    with served(tmp_path, layer_tar({"a.deb": b""}), layer_tar({".wh.a.deb": b""})) as socket:
        done = run(socket, "--extract", tmp_path / "new")
    assert done.returncode == 1
    assert not (tmp_path / "new").exists()
