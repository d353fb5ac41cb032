"""Paths of images: relative ones mean the directory that the daemon was started in, and are none for an instance."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.daemon import command, write_instance, write_policy
from tests.support.layouts import layer_tar, single_image, skopeo_copy
from tests.support.makers.directory import write
from tests.support.requirements import needs_programs

REFERENCES = [
    "oci:layout:latest",
    "dir:directory",
    "oci-archive:layout.tar:latest",
    "docker-archive:docker.tar",
    "tarball:a.tar",
    "tarball:{here}/a.tar:a.tar",
]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """One of each in a directory."""
    image = single_image(tmp_path / "layout")
    write(tmp_path / "directory", image)
    skopeo_copy(f"oci:{tmp_path}/layout:latest", f"oci-archive:{tmp_path}/layout.tar:latest")
    skopeo_copy(f"oci:{tmp_path}/layout:latest", f"docker-archive:{tmp_path}/docker.tar:some/os:1")
    (tmp_path / "a.tar").write_bytes(layer_tar({"a": b"a"}))
    return tmp_path


def check(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What ``--check`` says that is started in a directory."""
    return subprocess.run(
        command("--check", *arguments), cwd=directory, capture_output=True, text=True, check=False, env=dict(os.environ)
    )


@needs_programs("skopeo")
@pytest.mark.parametrize("reference", REFERENCES)
def test_a_relative_path_means_the_directory_of_the_start(images: Path, reference: str) -> None:
    policy = write_policy(images)
    reference = reference.format(here=images)
    done = check(images, "--policy", str(policy), reference)
    assert done.returncode == 0, done.stderr
    assert "sha256:" in done.stdout
    assert check(images.parent, "--policy", str(policy), reference).returncode == 78


@needs_programs("skopeo")
@pytest.mark.parametrize("reference", REFERENCES)
def test_a_relative_path_is_an_error_in_an_instance_file(images: Path, reference: str) -> None:
    policy = write_policy(images)
    text = f'[images.os]\nreference = "{reference.format(here=images)}"\n[trust]\npolicy = "{policy}"\n'
    write_instance(images / "config", "os", text)
    done = check(images, "--config-dir", str(images / "config"), "--instance", "os")
    assert done.returncode == 78
    assert "os.toml: images.os.reference: " in done.stderr
    assert "the path must be absolute" in done.stderr
