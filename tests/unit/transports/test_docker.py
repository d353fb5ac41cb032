"""The docker: transport: references and the names that policy knows them by."""

from __future__ import annotations

import pytest

from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.transports.docker import parse

DIGEST = "sha256:" + "0123456789abcdef" * 4


def test_a_bare_name_is_the_latest_of_docker_hub() -> None:
    reference = parse("//busybox")
    assert str(reference) == "docker://busybox:latest"
    assert reference.policy_identity == "docker.io/library/busybox:latest"
    assert reference.policy_namespaces == ("docker.io/library/busybox", "docker.io/library", "docker.io", "*.io")


def test_with_tag_and_digest_policy_knows_the_image_by_the_digest() -> None:
    reference = parse(f"//quay.io/a/b:1@{DIGEST}")
    assert str(reference) == f"docker://quay.io/a/b:1@{DIGEST}"
    assert reference.policy_identity == f"quay.io/a/b@{DIGEST}"
    assert reference.docker_reference is not None
    assert str(reference.docker_reference.digest) == DIGEST


@pytest.mark.parametrize("within", ["", "busybox", "/busybox", "//", "//UPPER/case", "//a:b:c", "//x@sha256:abc"])
def test_what_is_no_reference_is_refused(within: str) -> None:
    with pytest.raises(InvalidReferenceError):
        parse(within)
