"""What an error says, and what may be said of it later."""

from __future__ import annotations

import pytest

from container_image_proxy.errors import ConfigurationError, UnreadableFileError, remedied_by


def test_a_complaint_without_a_remedy_gets_the_one_of_its_surroundings() -> None:
    with pytest.raises(UnreadableFileError) as caught, remedied_by("see f(5)"):
        raise UnreadableFileError("/f", "cannot be read", key="a.b") from OSError("disk")
    error = caught.value
    assert str(error) == "/f: a.b: cannot be read (see f(5))"
    assert (error.file, error.key, error.reason, error.remedy) == ("/f", "a.b", "cannot be read", "see f(5)")
    assert isinstance(error.__cause__, OSError)


def test_a_remedy_of_its_own_is_better() -> None:
    with pytest.raises(ConfigurationError, match=r"^/f: wrong \(mend it\)$"), remedied_by("see f(5)"):
        raise ConfigurationError("/f", "wrong", remedy="mend it")


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(ZeroDivisionError), remedied_by("see f(5)"):
        raise ZeroDivisionError
