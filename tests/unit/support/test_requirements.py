from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.requirements import (
    SkipWithoutSystemd,
    lack_behind,
    needs_programs,
    require_mounting,
    require_program,
    require_root,
)

ROOT = Path(__file__).resolve().parents[3]


def run_tests(tmp_path: Path, text: str, **environ: str) -> str:
    """What pytest says in the end of tests under this project's rules, in which PATH is empty."""
    (tmp_path / "test_given.py").write_text(text)
    options = ["-q", "-p", "tests.conftest", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", "-rs"]
    options += ["-c", str(ROOT / "pyproject.toml")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path / "test_given.py")],
        cwd=ROOT,
        env={"PATH": "", **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def test_a_program_that_is_not_installed_is_a_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(FileNotFoundError) as caught:
        subprocess.run(["skopeo"], check=False)
    assert lack_behind(caught.value) == "needs Debian's package skopeo: skopeo is not installed"
    with pytest.raises(pytest.skip.Exception, match="needs Debian's package gnupg: gpg is not installed"):
        require_program("gpg")
    assert needs_programs("htpasswd").kwargs["reason"].startswith("needs Debian's package apache2-utils")


def test_a_missing_file_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "skopeo").read_text()
    assert lack_behind(caught.value) == ""
    assert lack_behind(FileNotFoundError(2, "", "sh")) == ""
    assert lack_behind(AssertionError()) == ""


def test_root_is_needed_for_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for require in (require_root, require_mounting):
        with pytest.raises(pytest.skip.Exception, match="needs root: a house is built"):
            require("a house is built")


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 failed")])
def test_a_test_that_lacks_a_program_is_skipped_and_fails_in_ci(tmp_path: Path, ci: str, outcome: str) -> None:
    text = "import os, subprocess\ndef test_it(monkeypatch):\n"
    text += "    monkeypatch.setenv('PATH', '/nonexistent')\n    subprocess.run(['umoci'])\n"
    said = run_tests(tmp_path, text, CI=ci)
    assert outcome in said
    assert "needs Debian's package umoci: umoci is not installed" in said


def test_what_imports_systemd_python_is_skipped_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    SkipWithoutSystemd.install()
    (hook,) = sys.meta_path
    with pytest.raises(pytest.skip.Exception, match="needs systemd-python: it is not installed"):
        hook.find_spec("systemd.daemon", None)
    assert hook.find_spec("systemd_like", None) is None
