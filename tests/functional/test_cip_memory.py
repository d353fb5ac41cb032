"""cip needs little memory, however many files an image has and however large they are."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support.daemon import stand_alone, write_policy
from tests.support.layouts import Layout
from tests.unit.client.test_unpack import archive, directory, entry

MOST = 64 << 10  # KiB

# The kernel's own mark of this program's memory. That of wait4(2) would have the memory of who started it in it.
MEASURED = """
import sys
from container_image_client.__main__ import main
status = main(sys.argv[1:])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def layers() -> list[bytes]:
    """30,000 small files and a large one; and above them 10,000 others, whose layer has to be remembered."""
    tars = []
    for layer, count in (("lower", 30_000), ("upper", 10_000)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for number in range(count):
                entry = tarfile.TarInfo(f"usr/{layer}/directory-{number // 50:05}/file-with-a-name-{number:05}")
                entry.size = number % 2000
                tar.addfile(entry, io.BytesIO(bytes(entry.size)))
            large = tarfile.TarInfo(f"usr/large-{layer}")
            large.size = 32 << 20
            tar.addfile(large, io.BytesIO(bytes(large.size)))
        tars.append(buffer.getvalue())
    return tars


def run(place: Path, *arguments: str, status: int = 0) -> tuple[int, bytes]:
    """cip with the layout in ``place``, which exits with ``status``: its memory in KiB, and what it printed."""
    policy = write_policy(place)
    with stand_alone(place / "daemon", ["--policy", str(policy), f"oci:{place}/layout:1"]) as daemon:
        command = [sys.executable, "-c", MEASURED, "--socket", str(daemon.socket), "--quiet", *arguments]
        done = subprocess.run(command, cwd=place, capture_output=True, check=False)
    assert done.returncode == status, done.stderr
    return int(done.stderr.split()[-1]), done.stdout


@pytest.mark.parametrize("arguments", [["unpack", "root"], ["pull", "oci:pulled"], ["cat", "usr/large-lower"]])
def test_memory_stays_below_64_mib(arguments: list[str], layers: list[bytes], tmp_path: Path) -> None:
    Layout(tmp_path / "layout").image(layers, name="1", compression="")
    used, _ = run(tmp_path, *arguments)
    print(f"{arguments[0]}: {used // 1024} MiB")  # pytest -rP shows it
    assert used < MOST
    if arguments[0] == "unpack":
        assert sum(path.is_file() for path in (tmp_path / "root").rglob("*")) == 40_002


def test_a_hole_takes_none(tmp_path: Path) -> None:
    size = 2 * MOST * 1024
    sparse = {"GNU.sparse.map": f"{size - 1},1", "GNU.sparse.size": str(size), "GNU.sparse.name": "sparse"}
    Layout(tmp_path / "layout").image([archive(entry("sparse", b"x", pax_headers=sparse))], name="1")
    used, content = run(tmp_path, "cat", "sparse")
    assert (len(content), content[-1:]) == (size, b"x")
    assert used < MOST


def test_a_path_of_any_depth_takes_none(tmp_path: Path) -> None:
    Layout(tmp_path / "layout").image([archive(directory("d/" * 20_000))], name="1")
    used, _ = run(tmp_path, "ls", "-R", status=9)
    assert used < MOST
