"""contrib/setup and .ci/run: which variables of the caller's environment reach apt, pip and the tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
NEEDED = {
    "HTTPS_PROXY": "http://proxy:3128",
    "no_proxy": "localhost",
    "PIP_INDEX_URL": "https://pypi.example/simple",
    "PIP_CERT": "/etc/private-ca.pem",
    "SSL_CERT_FILE": "/etc/private-ca.pem",
    "REQUESTS_CA_BUNDLE": "/etc/private-ca.pem",
}
FOREIGN = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONPATH": "/nonexistent",
    "MALLOC_ARENA_MAX": "1",
    "LC_ALL": "C",
    "XDG_CONFIG_HOME": "/nonexistent",
    "GNUPGHOME": "/nonexistent",
    "DOCKER_CONFIG": "/nonexistent",
    "REGISTRY_AUTH_FILE": "/nonexistent",
    "PIP_USER": "1",
    "PIP_TARGET": "/nonexistent",
    "CFLAGS": "-O0",
}
OWN = {"CI": "true", "HOME": "/home/user", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"}
BY_BASH = {"PWD", "OLDPWD", "SHLVL", "_"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts of set-up, and a tests/run that prints its environment."""
    for name in (".ci/run", "contrib/setup", "tests/run"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "tests/run").write_text("#!/bin/sh\nexec env\n")
    return tmp_path


def environment_of(command: list[str | Path], environ: dict[str, str]) -> dict[str, str]:
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    variables = dict(line.split("=", 1) for line in done.stdout.splitlines())
    return {name: value for name, value in variables.items() if name not in BY_BASH}


def test_ci_keeps_its_own_and_what_set_up_needs(checkout: Path) -> None:
    kept = environment_of([checkout / ".ci/run"], {**OWN, **NEEDED, **FOREIGN, "TMPDIR": "/nonexistent"})
    assert kept == {**OWN, **NEEDED}


def test_set_up_keeps_nothing_that_changes_what_is_built(checkout: Path) -> None:
    script = f". {checkout}/contrib/setup; env"
    kept = environment_of(["bash", "-c", script], {**OWN, **NEEDED, **FOREIGN, "CONFORMANCE_DIR": "/tables"})
    assert kept == {**OWN, **NEEDED, "CONFORMANCE_DIR": "/tables"}


def test_apt_is_told_of_proxies_by_the_names_that_it_reads(checkout: Path) -> None:
    script = f'. {checkout}/contrib/setup; as_root() {{ printf "%s\\n" "$@"; }}; apt_get update'
    environ = {**OWN, "HTTP_PROXY": "http://upper:1", "https_proxy": "http://lower:1", "HTTPS_PROXY": "http://other:1"}
    done = subprocess.run(["bash", "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert {"http_proxy=http://upper:1", "https_proxy=http://lower:1"} <= set(done.stdout.splitlines())


@pytest.mark.parametrize(
    ("environ", "bundle"),
    [
        ({"SSL_CERT_FILE": "/a"}, "/a"),
        ({"SSL_CERT_FILE": "/a", "REQUESTS_CA_BUNDLE": "/b"}, "/b"),
        ({"SSL_CERT_FILE": "/a", "PIP_CERT": "/c"}, "/c"),
        ({}, ""),
    ],
)
def test_pip_trusts_the_authority_that_the_caller_names(checkout: Path, environ: dict[str, str], bundle: str) -> None:
    (checkout / "pyproject.toml").touch()
    script = f'. {checkout}/contrib/setup; quietly() {{ :; }}; make_venv ""; echo "${{PIP_CERT:-}}"'
    (checkout / ".venv").mkdir()
    done = subprocess.run(["bash", "-c", script], env={**OWN, **environ}, capture_output=True, text=True, check=True)
    assert done.stdout == f"{bundle}\n"
