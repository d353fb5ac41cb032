"""The program ``cip``: argv and environment in, exit code out."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING

from container_image_client.cli.commands import run
from container_image_client.cli.exit_codes import ExitCode, exit_code_of
from container_image_client.cli.options import build_parser
from container_image_client.errors import ImageClientError, ProblemError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType


class _Terminated(BaseException):
    """SIGTERM or SIGHUP: what is half done is removed on the way out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    _open_closed_streams()
    options = build_parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGHUP, _terminate)
    try:
        code: int = run(options, os.environ)
        sys.stdout.flush()
    except ImageClientError as error:
        code = exit_code_of(error)
        _tell(error, code, as_json=options.json)
    except BrokenPipeError:
        code = ExitCode.NOBODY_READS
    except OSError as error:
        code = ExitCode.HERE
        print(f"cip: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", file=sys.stderr)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except _Terminated:
        code = ExitCode.TERMINATED
    try:
        sys.stdout.flush()
    except OSError:  # Python would try again at its end, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _open_closed_streams() -> None:
    """Open /dev/null in place of each standard stream that is closed (``2>&-`` in a shell).

    Otherwise a file or a socket would get its number. What is printed on such a standard output is an error, while
    nobody needs what is told on standard error.
    """
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free (open(2)): this one
    if sys.stdout is None:
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", closefd=False)  # noqa: SIM115 - see above
    if sys.stderr is None:
        sys.stderr = open(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)  # noqa: SIM115 - as above


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise _Terminated


def _tell(error: ImageClientError, code: ExitCode, *, as_json: bool) -> None:
    if as_json:
        members = {"message": str(error), "remedy": error.remedy, "exit": int(code)}
        if isinstance(error, ProblemError):
            members["problem"] = error.members
        print(json.dumps({"error": members}), file=sys.stderr)
        return
    print(f"cip: {error}", file=sys.stderr)
    reasons = error.members.get("reasons") if isinstance(error, ProblemError) else None
    for reason in reasons if isinstance(reasons, list) else ():
        print(f"  {reason}", file=sys.stderr)
    if error.remedy:
        print(f"  {error.remedy}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
