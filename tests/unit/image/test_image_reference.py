"""An image's name, whatever its transport."""

from __future__ import annotations

import pytest

from container_image_proxy.image.image_reference import ImageReference
from container_image_proxy.image.reference import parse_reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("named", "pinned"),
    [(f"quay.io/a/b@{DIGEST}", DIGEST), (f"quay.io/a/b:1@{DIGEST}", DIGEST), ("quay.io/a/b:1", None), (None, None)],
)
def test_only_a_docker_reference_with_a_digest_pins_one(named: str | None, pinned: str | None) -> None:
    reference = ImageReference("docker", f"//{named}", parse_reference(named) if named else None, "", ())
    assert (str(reference.pinned_digest) if reference.pinned_digest else None) == pinned


def test_the_text_is_what_people_write() -> None:
    assert str(ImageReference("oci", "/srv/layout:1", None, "", ())) == "oci:/srv/layout:1"
