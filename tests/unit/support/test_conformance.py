from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def collect(*paths: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths]
    return subprocess.run(
        command, cwd=ROOT, env={"PATH": "/usr/bin:/bin", **environ}, capture_output=True, text=True, check=False
    )


def test_a_folder_of_tables_that_is_named_must_exist(tmp_path: Path) -> None:
    done = collect("tests/conformance", environ={"CONFORMANCE_DIR": str(tmp_path / "missing")})
    assert done.returncode == 4
    assert f"CONFORMANCE_DIR: there is no folder {tmp_path}/missing" in done.stderr
