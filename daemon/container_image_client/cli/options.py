"""The command line of ``cip``."""

from __future__ import annotations

import argparse
from typing import Final

from container_image_client import __version__
from container_image_client.transport import DEFAULT_TIMEOUT

_EPILOG: Final = "Exit codes and examples: cip(1)."
_INTERVAL: Final = 60.0


def build_parser() -> argparse.ArgumentParser:
    """All options and commands. Common options may stand before or behind the command."""
    parser = argparse.ArgumentParser(
        prog="cip", description="Fetch images from container-image-proxy.", epilog=_EPILOG, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"cip {__version__}")
    _add_common(parser, with_defaults=True)
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    _add_common(common, with_defaults=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", parents=[common], allow_abbrev=False
        )

    def add_no_sync(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--no-sync",
            dest="sync",
            action="store_false",
            help="do not wait for the disk: a power cut may spoil it",
        )

    command("images", "list the images that you may have")
    command("manifest", "print the manifest, byte for byte")
    command("config", "print the image's configuration, byte for byte")

    verify = command("verify", "say why the image is trusted: who signed it, and by which rule")
    verify.add_argument("--signed-by", metavar="SIGNER", help="fail unless this one signed it, as verify names him")

    blob = command("blob", "fetch a blob of the image")
    blob.add_argument("digest", metavar="DIGEST")
    blob.add_argument("-o", "--output", metavar="FILE", help="where to write it (default: standard output)")
    add_no_sync(blob)

    pull = command("pull", "fetch the image into an OCI layout or a directory; what is there is kept")
    pull.add_argument("place", metavar="oci:DIR[:NAME]|dir:DIR")
    pull.add_argument("--verify", action="store_true", help="hash everything here, too, also what is there")
    add_no_sync(pull)

    unpack = command("unpack", "make the image's root file system in a directory")
    unpack.add_argument("directory", metavar="DIR")
    unpack.add_argument("--replace", action="store_true", help="exchange what is there for it, in one step")
    add_no_sync(unpack)

    ls = command("ls", "list files of the image, all layers taken together")
    ls.add_argument("path", metavar="PATH", nargs="?", default="/")
    ls.add_argument("-l", "--long", action="store_true", help="with mode, owner, size and time")
    ls.add_argument("-R", "--recursive", action="store_true", help="directories with all that is in them")

    cat = command("cat", "print a file of the image")
    cat.add_argument("path", metavar="PATH")

    plan = command("plan", "say what an update would fetch, from manifests alone")
    plan.add_argument("--have", metavar="oci:DIR|FILE|DIGEST", required=True, help="the image that is there")

    watch = command("watch", "say when the image's digest changes")
    watch.add_argument("--interval", metavar="SECONDS", type=_seconds, default=_INTERVAL, help="between two polls (60)")
    watch.add_argument("--since", metavar="DIGEST", help="the digest that is no news (default: the first one seen)")
    watch.add_argument("--once", action="store_true", help="end after the first change")
    watch.add_argument("run", metavar="COMMAND", nargs="*", help="what to run with each change, after --")
    return parser


def _add_common(parser: argparse.ArgumentParser, *, with_defaults: bool) -> None:
    """Options of all commands. Behind a command they have no default, which would hide what stands before it."""

    def default(value: object = None) -> object:
        return value if with_defaults else argparse.SUPPRESS

    def flag() -> object:
        return default(value=False)

    where = parser.add_mutually_exclusive_group()
    where.add_argument("--instance", metavar="NAME", default=default(), help="the daemon of this instance")
    where.add_argument("--socket", metavar="PATH", default=default(), help="the daemon that listens on this socket")
    where.add_argument("--url", metavar="URL", default=default(), help="the daemon at http://127.0.0.1:PORT")
    parser.add_argument("--image", metavar="NAME", default=default(), help="an image other than the default one")
    parser.add_argument(
        "--platform", metavar="OS/ARCH[/VARIANT]", default=default(), help="choose for another platform"
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=default(DEFAULT_TIMEOUT),
        help="how long the daemon may be silent (300)",
    )
    parser.add_argument("--json", action="store_true", default=flag(), help="print JSON for programs")
    parser.add_argument("-q", "--quiet", action="store_true", default=flag(), help="show no progress")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:  # noqa: PLR2004
        raise ValueError(text)
    return value
