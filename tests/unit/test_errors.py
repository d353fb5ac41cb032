"""What an error says, and what may be said of it later."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import container_image_proxy
from container_image_proxy.errors import ConfigurationError, UnreadableFileError, remedied_by, shown


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


def test_nothing_takes_errors_of_integrity_and_of_input_for_one() -> None:
    """Malformed documents have a class of their own: to catch both at once hides which of them was meant."""
    modules = sorted(Path(container_image_proxy.__file__).parent.rglob("*.py"))
    assert modules
    both = re.compile(r"except \((?=[^)]*\bIntegrityError)(?=[^)]*\bInvalidInputError)")
    assert [module.name for module in modules if both.search(module.read_text())] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("os", "'os'"),
        ("a\nb\x1b[2J", r"'a\nb\x1b[2J'"),
        ("x" * 200, f"'{'x' * 200}'"),
        ("x" * 201, f"'{'x' * 200}'..."),
    ],
)
def test_a_text_from_outside_is_shown_quoted_escaped_and_cut(text: str, expected: str) -> None:
    assert shown(text) == expected
