"""Exit codes: 0 done; 2 wrong usage; 78 (EX_CONFIG) a configuration that cannot be used; 1 anything else."""

from __future__ import annotations

from typing import Final

from container_image_proxy.errors import ConfigurationError, Error

EX_USAGE: Final = 2  # as other programs do, and not sysexits.h
EX_CONFIG: Final = 78


def exit_code(error: Error) -> int:
    """With which code a program ends because of ``error``."""
    return EX_CONFIG if isinstance(error, ConfigurationError) else 1
