"""Exit codes: 0 success, 2 wrong usage, 78 (EX_CONFIG of sysexits.h) an unusable configuration, 1 any other error."""

from __future__ import annotations

from typing import Final

from container_image_proxy.errors import ConfigurationError, Error

EX_USAGE: Final = 2  # what argparse and most programs use, and not EX_USAGE of sysexits.h
EX_CONFIG: Final = 78


class UsageError(Error):
    """A wrong command line."""


def exit_code(error: Error) -> int:
    """The exit code of a program that ends because of ``error``."""
    if isinstance(error, UsageError):
        return EX_USAGE
    return EX_CONFIG if isinstance(error, ConfigurationError) else 1
