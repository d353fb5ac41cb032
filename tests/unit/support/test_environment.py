from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.environment import own_environment

ROOT = Path(__file__).resolve().parents[3]
FOREIGN = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "error",
    "MALLOC_ARENA_MAX": "1",
    "LC_ALL": "tr_TR.ISO-8859-9",
    "LANGUAGE": "tr",
    "https_proxy": "http://127.0.0.1:1",
    "ALL_PROXY": "http://127.0.0.1:1",
    "NO_PROXY": "*",
    "XDG_RUNTIME_DIR": "/nonexistent",
    "XDG_CONFIG_HOME": "/nonexistent",
    "GNUPGHOME": "/nonexistent",
    "DOCKER_CONFIG": "/nonexistent",
    "REGISTRY_AUTH_FILE": "/nonexistent",
    "CONTAINERS_REGISTRIES_CONF": "/nonexistent",
    "SSL_CERT_FILE": "/nonexistent",
    "CURL_CA_BUNDLE": "/nonexistent",
    "NOTIFY_SOCKET": "/nonexistent",
    "LISTEN_FDS": "1",
    "COLUMNS": "20",
    "SOURCE_DATE_EPOCH": "0",
}


def test_nothing_foreign_is_kept() -> None:
    kept = own_environment({**FOREIGN, "CI": "true", "PATH": "/usr/sbin:/opt/bin"}, Path("/home"))
    assert kept == {
        "CI": "true",
        "PATH": "/usr/sbin:/opt/bin:/usr/local/bin:/usr/bin:/bin:/sbin",
        "HOME": "/home",
        "LANG": "C.UTF-8",
    }


def test_what_a_test_starts_has_the_projects_own_environment() -> None:
    code = "import os; print(sorted(os.environ), oct(os.umask(0)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = {"CI", "CONFORMANCE_DIR", "HOME", "LANG", "PATH"}
    assert {name for name in os.environ if not name.startswith("PYTEST_")} <= names
    assert done.stdout == f"{sorted(os.environ)} 0o22\n"


def test_temporary_files_are_where_programs_expect_them(tmp_path: Path) -> None:
    assert tempfile.gettempdir() == "/tmp"
    assert tmp_path.is_relative_to("/tmp")


def test_what_a_test_starts_ignores_and_blocks_no_signal() -> None:
    status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
    signals = dict(line.split(":\t") for line in status.splitlines() if line.startswith(("SigIgn", "SigBlk")))
    assert signals == {"SigIgn": "0" * 16, "SigBlk": "0" * 16}


def test_a_callers_environment_umask_and_signals_do_not_reach_the_tests(tmp_path: Path) -> None:
    ignoring = ("env", "--ignore-signal=HUP,INT", "--block-signal=TERM")
    command = [
        *ignoring,
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"{__file__}",
        "-k",
        "not callers",
    ]
    foreign = {**os.environ, **FOREIGN, "TMPDIR": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=foreign, umask=0o077, capture_output=True, text=True, check=False)
    assert "4 passed, 1 deselected" in done.stdout, done.stdout + done.stderr
