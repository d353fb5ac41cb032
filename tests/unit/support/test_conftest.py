from __future__ import annotations

import os

import pytest

from tests.conftest import _without_skip_in_ci


def _skipped(**attributes: str) -> pytest.TestReport:
    report = pytest.TestReport("test_x", ("test_x.py", 1, "x"), {}, "skipped", ("test_x.py", 1, "no skopeo"), "setup")
    report.__dict__.update(attributes)
    return report


def test_a_skip_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    report = _without_skip_in_ci(_skipped())
    assert report.failed
    assert "no skopeo" in str(report.longrepr)


def test_an_expected_failure_is_no_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert _without_skip_in_ci(_skipped(wasxfail="known")).skipped


def test_elsewhere_a_skip_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    assert _without_skip_in_ci(_skipped()).skipped


def test_the_environment_is_the_projects_own() -> None:
    assert not [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("REQUESTS_")]
    assert "home-" in os.environ["HOME"]
