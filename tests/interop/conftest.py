"""Rules for all comparisons with other tools."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def nothing_of_theirs(no_agent_of_skopeo: None) -> None:
    """What they leave behind is ended, and is not counted as ours."""
