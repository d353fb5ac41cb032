"""What the tools that we are compared with leave behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.leaks import end_children


@pytest.fixture(autouse=True)
def no_agent_of_skopeo() -> Iterator[None]:
    """skopeo's gpg may start an agent when skopeo already removes its home; such an agent stays for a minute."""
    yield
    end_children("gpg-agent")
