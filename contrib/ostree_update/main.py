"""The command line of ostree-update: options in, one update, an exit code out."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from container_image_client import Client, ImageClientError
from container_image_client.cli.exit_codes import exit_code_of
from container_image_client.errors import DestinationError
from container_image_client.transport import INSTANCES
from ostree_update.repository import Error
from ostree_update.update import Options, Update

if TYPE_CHECKING:
    from collections.abc import Sequence

_EPILOG = """\
exit codes are those of cip(1): 0 updated, or nothing new; 1 this host cannot write or deploy; 5 the signature is not
the wanted one, or policy rejects the image; 7 the same command may succeed later, and goes on where this one stopped
"""


def main(arguments: Sequence[str]) -> int:
    """Update once."""
    options = _parser().parse_args(arguments)
    socket = options.socket or f"{INSTANCES}{options.instance}.sock"
    client = Client(socket, image=options.image)
    wanted = Options(
        sysroot=Path(options.sysroot),
        os_name=options.os,
        signers=tuple(options.signed_by or ()),
        kernel_arguments=tuple(options.karg),
    )
    try:
        _verify_host(wanted.sysroot)
        Update(client, wanted, _say).run()
    except ImageClientError as error:
        _say(f"error: {error}" + (f"; {error.remedy}" if error.remedy else ""))
        return exit_code_of(error)
    except (OSError, Error) as error:
        _say(f"error: {error.message if isinstance(error, Error) else error}")
        return 1
    return 0


def _verify_host(sysroot: Path) -> None:
    """Raise unless there are a repository to import into and ostree to deploy with."""
    if not (sysroot / "ostree/repo").is_dir():
        remedy = "name another one: --sysroot; ostree admin init-fs makes one, and ostree admin os-init an OS in it"
        raise DestinationError(f"{sysroot} is no sysroot of ostree: it has no ostree/repo", remedy=remedy)
    if shutil.which("ostree") is None:
        raise DestinationError("ostree is not installed", remedy="sudo apt-get install ostree")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ostree-update",
        description="Update an ostree host to the image that an instance of container-image-proxy serves.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--instance", metavar="NAME", help=f"the instance, whose socket is {INSTANCES}NAME.sock")
    where.add_argument("--socket", metavar="PATH", help="the daemon's socket")
    parser.add_argument("--image", metavar="NAME", help="one of the instance's images; by default its default image")
    parser.add_argument("--sysroot", metavar="PATH", default="/", help="where the host's ostree/ is; by default /")
    parser.add_argument("--os", metavar="NAME", required=True, help="the name that ostree admin os-init was given")
    parser.add_argument(
        "--karg", metavar="KEY=VALUE", action="append", default=[], help="a kernel argument for the first deployment"
    )
    signers = parser.add_mutually_exclusive_group(required=True)
    signers.add_argument(
        "--signed-by", metavar="WHO", action="append", help="who has to have signed it, as cip verify shows; or another"
    )
    signers.add_argument(
        "--signed-by-anyone", action="store_true", help="leave it to the instance's policy.json who has to sign"
    )
    return parser


def _say(line: str) -> None:
    print(f"ostree-update: {line}", file=sys.stderr, flush=True)
