"""Platforms: operating system, architecture and variant by Go's names, and the platforms whose images a host can run.

``index`` chooses a manifest by them. OCI image-spec, image-index.md "platform".
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from container_image_proxy.errors import InvalidPlatformError, shown

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_GRAMMAR: Final = re.compile(rf"({_NAME})/({_NAME})(?:/({_NAME}))?")

# The best first: a host of one variant also runs images of the variants after it.
_VARIANTS: Final = {"arm": ("v8", "v7", "v6", "v5"), "arm64": ("v8",)}

# Architecture and variant in Go's names, by the machine's name in uname(2).
_MACHINES: Final = {
    "x86_64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", "v8"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "loongarch64": ("loong64", ""),
}


class Platform(Struct, frozen=True):
    """What an image runs on; ``variant`` is "" if there is none."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def parse_platform(text: str) -> Platform:
    """A platform from ``os/architecture[/variant]``; :class:`InvalidPlatformError` for any other text."""
    match = _GRAMMAR.fullmatch(text)
    if not match:
        raise InvalidPlatformError(f"{shown(text)} is not os/architecture[/variant], such as linux/arm64/v8")
    return Platform(match[1], match[2], match[3] or "")


def kernel_platform(system: str, machine: str) -> Platform:
    """The platform of a host, by its kernel's names of system and machine (uname(2))."""
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform(system.lower(), architecture, variant)


def wanted_platforms(platform: Platform) -> tuple[Platform, ...]:
    """Every platform whose images run on ``platform``, the best first: its variant, lower variants, no variant."""
    known = _VARIANTS.get(platform.architecture, ())
    if not platform.variant:
        variants = ("", *known)
    elif platform.variant not in known:
        variants = (platform.variant, "")
    else:
        variants = (*known[known.index(platform.variant) :], "")
    return tuple(Platform(platform.os, platform.architecture, variant) for variant in variants)
