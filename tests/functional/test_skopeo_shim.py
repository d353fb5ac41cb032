"""The shim that stands before skopeo in PATH: our image proxy, and skopeo for everything else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.conformance import ROOT
from tests.support.daemon import write_policy
from tests.support.image_proxy import initialized
from tests.support.layouts import single_image

SHIM = ROOT / "contrib/skopeo-shim/skopeo"
WORD = "experimental-image-proxy"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory with our program, as in /usr/bin."""
    directory = tmp_path / "bin"
    directory.mkdir()
    script(directory / "container-image-proxy", f'exec {sys.executable} -m container_image_proxy "$@"')
    (directory / "cat").symlink_to("/bin/cat")
    return directory


@pytest.fixture
def skopeo(tmp_path: Path) -> Path:
    """A directory with a skopeo that says what it is told."""
    directory = tmp_path / "skopeo"
    directory.mkdir()
    script(directory / "skopeo", 'echo real "$@"')
    return directory


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def path_of(*directories: Path) -> dict[str, str]:
    """An environment in which the shim is found first, and no skopeo but what is given."""
    return {"PATH": os.pathsep.join(map(str, [SHIM.parent, *directories]))}


def run(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SHIM), *arguments], env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("before", [(), ("--override-arch", "arm64", "--debug"), ("--user-agent-prefix=bootc/1",)])
def test_the_image_proxy_is_ours(tmp_path: Path, programs: Path, skopeo: Path, before: tuple[str, ...]) -> None:
    single_image(tmp_path / "layout")
    environ = path_of(programs, skopeo)
    with initialized(
        ["--policy", write_policy(tmp_path)], program=[str(SHIM)], environ=environ, before=before
    ) as proxy:
        assert proxy.value("OpenImage", f"oci:{tmp_path}/layout:latest") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("copy", "docker://a", "dir:b"),
        ("--policy", WORD, "inspect", "docker://a"),
        ("inspect", WORD),
        ("--version",),
        ("--help",),
        (),
    ],
)
def test_everything_else_is_skopeos(programs: Path, skopeo: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments, environ=path_of(programs, skopeo))
    assert (done.returncode, done.stdout.split()) == (0, ["real", *arguments])


def test_without_skopeo_clients_still_learn_what_they_may_pass(programs: Path) -> None:
    environ = path_of(programs)
    assert run("--version", environ=environ).stdout == "skopeo version 1.22.0\n"
    for arguments in (("--help",), ("help",), ()):
        done = run(*arguments, environ=environ)
        assert (done.returncode, "--user-agent-prefix" in done.stdout) == (0, True), done.stderr
    assert "--sockfd" in run(WORD, "--help", environ={"PATH": f"{environ['PATH']}:/bin"}).stdout


def test_without_skopeo_everything_else_is_refused(programs: Path) -> None:
    done = run("copy", "docker://a", "dir:b", environ=path_of(programs))
    assert (done.returncode, done.stdout) == (1, "")
    assert "'copy'" in done.stderr


def test_two_shims_do_not_look_for_each_other_for_ever(tmp_path: Path, programs: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "skopeo").write_bytes(SHIM.read_bytes())
    (copy / "skopeo").chmod(0o755)
    assert run("--version", environ=path_of(copy, programs)).stdout == "skopeo version 1.22.0\n"
    assert run("copy", environ=path_of(copy, programs)).returncode == 1


def test_the_drop_in_puts_the_shim_first() -> None:
    text = (SHIM.parent / "container-image-proxy.conf").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("Environment=PATH=")]
    directories = line.removeprefix("Environment=PATH=").split(":")
    assert directories[0] == "/usr/libexec/container-image-proxy"
    assert "/usr/bin" in directories
    assert f"{directories[0]}/skopeo" in text
