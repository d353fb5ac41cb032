from __future__ import annotations

import pytest

from tests.conftest import _skips_allowed_in_ci, _without_skip_in_ci


def _skipped(**attributes: object) -> pytest.TestReport:
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


def test_a_skip_that_is_listed_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    reason = "the recorded tables of containers/image are not here (/x)"
    assert _without_skip_in_ci(_skipped(longrepr=("test_x.py", 1, reason))).skipped


def test_every_listed_skip_says_why() -> None:
    assert all(part and why.strip() for part, why in _skips_allowed_in_ci().items())
