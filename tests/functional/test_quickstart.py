"""What a newcomer runs first."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.layouts import Layout, layer_tar

QUICKSTART = Path(__file__).resolve().parents[2] / "contrib" / "quickstart"


def _run(*arguments: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(scratch)}
    return subprocess.run([QUICKSTART, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_it_shows_manifest_configuration_and_layer(tmp_path: Path) -> None:
    done = _run(scratch=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for shown in ("Manifest-Digest: sha256:", '"architecture"', "usr/bin/hello", '"BLOB_UNKNOWN"', "What next"):
        assert shown in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_it_shows_the_image_it_is_given(tmp_path: Path) -> None:
    layer = layer_tar({"given": b""})
    image = Layout(tmp_path / "layout").image([layer], name="latest", compression="")
    (tmp_path / "scratch").mkdir()
    done = _run(f"oci:{tmp_path}/layout:latest", scratch=tmp_path / "scratch")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Manifest-Digest: {image.digest}" in done.stdout
    assert " given\n" in done.stdout


def test_what_goes_wrong_is_told_and_cleaned_up(tmp_path: Path) -> None:
    done = _run("oci:/nowhere:latest", scratch=tmp_path)
    assert done.returncode == 1
    assert "/nowhere: No such file or directory" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_reference_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    done = _run("oci:", scratch=tmp_path)
    assert done.returncode == 1
    assert "images.example.reference" in done.stderr
    assert list(tmp_path.iterdir()) == []
