from __future__ import annotations

import subprocess

import pytest

from tests.conftest import _skips_allowed_in_ci, _without_skip_in_ci, _words_of


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


@pytest.mark.parametrize("text", [False, True])
def test_what_a_failed_command_said_is_in_the_report(text: bool) -> None:  # noqa: FBT001 - a parameter
    with pytest.raises(subprocess.CalledProcessError) as caught:
        subprocess.run(["sh", "-c", "echo no such image >&2; exit 125"], check=True, capture_output=True, text=text)
    assert _words_of(caught.value) == [("what the command said", "no such image\n")]


def test_a_command_that_said_nothing_has_no_section() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        subprocess.run(["false"], check=True)
    assert _words_of(caught.value) == []
