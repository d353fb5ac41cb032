from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import InvalidPlatformError
from container_image_proxy.image.platform import Platform, kernel_platform, parse_platform, wanted_platforms

NAMES = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
PLATFORMS = st.builds(Platform, NAMES, NAMES | st.sampled_from(["arm", "arm64"]), st.just("") | NAMES)


@given(PLATFORMS)
def test_the_text_of_a_platform_reads_back_as_the_same(platform: Platform) -> None:
    assert parse_platform(str(platform)) == platform


@pytest.mark.parametrize(
    "text",
    [
        "",
        "linux",
        "linux/",
        "/amd64",
        "linux/arm/v7/x",
        "linux//v7",
        "linux/amd64/",
        "linux/am d64",
        "a/b\n",
        "a/" * 999,
    ],
)
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(InvalidPlatformError):
        parse_platform(text)


@given(PLATFORMS)
def test_the_platform_itself_is_tried_first_and_none_twice(platform: Platform) -> None:
    wanted = wanted_platforms(platform)
    assert wanted[0] == platform
    assert len(set(wanted)) == len(wanted)
    assert Platform(platform.os, platform.architecture) in wanted


def test_a_variant_runs_what_it_includes_but_not_what_includes_it() -> None:
    variants = [each.variant for each in wanted_platforms(Platform("linux", "arm", "v7"))]
    assert variants == ["v7", "v6", "v5", ""]


def test_without_a_variant_all_known_ones_do() -> None:
    assert [each.variant for each in wanted_platforms(Platform("linux", "arm"))] == ["", "v8", "v7", "v6", "v5"]


@pytest.mark.parametrize(
    ("machine", "platform"),
    [
        ("x86_64", Platform("linux", "amd64")),
        ("i686", Platform("linux", "386")),
        ("aarch64", Platform("linux", "arm64", "v8")),
        ("armv7l", Platform("linux", "arm", "v7")),
        ("s390x", Platform("linux", "s390x")),
        ("riscv64", Platform("linux", "riscv64")),
    ],
)
def test_the_host_is_known_by_the_names_that_go_uses(machine: str, platform: Platform) -> None:
    assert kernel_platform("Linux", machine) == platform
