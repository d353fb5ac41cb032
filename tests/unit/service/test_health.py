"""The file that tells monitoring what is wrong with the configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from container_image_proxy.service import health as module
from container_image_proxy.service.health import Health


def test_it_holds_what_is_wrong_in_one_line_and_nothing_when_all_is_well(tmp_path: Path) -> None:
    health = Health(tmp_path)
    health.report("/etc/os.toml: a\nb")
    assert (tmp_path / "health").read_text() == "/etc/os.toml: a\\nb\n"
    health.report("")
    assert (tmp_path / "health").read_text() == ""
    assert [path.name for path in tmp_path.iterdir()] == ["health"]


def test_as_long_as_all_is_well_there_is_none(tmp_path: Path) -> None:
    health = Health(tmp_path)
    health.report("")
    assert list(tmp_path.iterdir()) == []
    assert health.due() is None


def test_what_the_last_process_said_is_not_said_again(tmp_path: Path) -> None:
    (tmp_path / "health").write_text("a\n")
    before = (tmp_path / "health").stat()
    health = Health(tmp_path)
    health.report("a")
    assert os.path.samestat((tmp_path / "health").stat(), before)
    health.report("")
    assert (tmp_path / "health").read_text() == ""


def test_a_change_that_follows_another_at_once_is_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path unit may have missed it the first time."""
    health = Health(tmp_path)
    health.report("a")
    assert health.due() is None
    health.report("b")
    (tmp_path / "health").unlink()
    due = health.due()
    assert due is not None
    monkeypatch.setattr(module.time, "monotonic", lambda: due - 0.001)
    health.run()
    assert not (tmp_path / "health").exists()
    monkeypatch.setattr(module.time, "monotonic", lambda: due)
    health.run()
    assert (tmp_path / "health").read_text() == "b\n"
    assert health.due() is None
    monkeypatch.setattr(module.time, "monotonic", lambda: due + 5)
    health.report("")
    assert health.due() is None


def test_a_change_that_follows_one_of_the_last_process_at_once_is_written_twice(tmp_path: Path) -> None:
    (tmp_path / "health").write_text("")
    health = Health(tmp_path)
    health.report("a")
    assert health.due() is not None


def test_a_directory_that_cannot_be_written_to_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    health = Health(tmp_path / "absent")
    health.report("a")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "health cannot be written: No such file or directory" in caplog.text


def test_without_a_directory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    health = Health(None)
    health.report("a")
    health.run()
    assert list(tmp_path.iterdir()) == []
