"""What ``cip`` exits with: one table from errors to codes; cip(1) has the same."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from container_image_client import errors


class ExitCode(IntEnum):
    """Why a command failed, for scripts."""

    OK = 0
    HERE = 1  # a file or directory here cannot be read or written
    USAGE = 2
    UNREACHABLE = 3
    DENIED = 4
    REJECTED = 5
    NOT_FOUND = 6
    LATER = 7  # the same command may succeed later
    SOURCE = 8  # the source, or the daemon's configuration, is broken
    WRONG_CONTENT = 9
    UNSUPPORTED = 10
    INTERRUPTED = 130
    NOBODY_READS = 141
    TERMINATED = 143


# The first row whose class fits decides.
_TABLE: Final = (
    (errors.DaemonUnreachableError, ExitCode.UNREACHABLE),
    (errors.DeniedError, ExitCode.DENIED),
    (errors.PolicyRejectedError, ExitCode.REJECTED),
    (errors.NotFoundError, ExitCode.NOT_FOUND),
    (errors.PathInImageError, ExitCode.NOT_FOUND),
    (errors.RequestError, ExitCode.USAGE),
    (errors.IncompleteAnswerError, ExitCode.LATER),
    (errors.ProblemError, ExitCode.SOURCE),
    (errors.UnexpectedAnswerError, ExitCode.SOURCE),
    (errors.WrongContentError, ExitCode.WRONG_CONTENT),
    (errors.UnsupportedImageError, ExitCode.UNSUPPORTED),
)


def exit_code_of(error: errors.ImageClientError) -> ExitCode:
    """The code for an error."""
    if isinstance(error, errors.ProblemError) and error.retryable:
        return ExitCode.LATER
    return next((code for kind, code in _TABLE if isinstance(error, kind)), ExitCode.HERE)
