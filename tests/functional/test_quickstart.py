"""What a newcomer runs first."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.support.layouts import Layout, layer_tar

QUICKSTART = Path(__file__).resolve().parents[2] / "contrib" / "quickstart"


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What it printed. The directory that it names there must be gone."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": f"/no such directory, and {'long' * 30}"}
    done = subprocess.run([QUICKSTART, *arguments], env=environment, capture_output=True, text=True, check=False)
    (scratch,) = set(re.findall(r"/tmp/quickstart\.\w+", done.stdout))
    assert not Path(scratch).exists()
    return done


def test_it_shows_manifest_configuration_and_layer() -> None:
    done = _run()
    assert done.returncode == 0, done.stdout + done.stderr
    for shown in ("Manifest-Digest: sha256:", '"architecture"', "usr/bin/hello", '"BLOB_UNKNOWN"', "What next"):
        assert shown in done.stdout


def test_it_shows_the_image_it_is_given(tmp_path: Path) -> None:
    layer = layer_tar({"given": b""})
    image = Layout(tmp_path / "layout").image([layer], name="latest", compression="")
    done = _run(f"oci:{tmp_path}/layout:latest")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Manifest-Digest: {image.digest}" in done.stdout
    assert " given\n" in done.stdout


def test_what_goes_wrong_is_told_and_cleaned_up() -> None:
    done = _run("oci:/nowhere:latest")
    assert done.returncode == 1
    assert "/nowhere: No such file or directory" in done.stdout


def test_a_reference_that_cannot_be_read_is_told() -> None:
    done = _run("oci:")
    assert done.returncode == 1
    assert "images.example.reference" in done.stderr
