"""The options of the command line, named as in skopeo, and the settings that result from them.

Options take precedence over the instance file. IMAGE takes the place of an instance file.
"""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from container_image_proxy import __version__
from container_image_proxy.cli.exit_codes import UsageError
from container_image_proxy.config.access import AccessRule, owner_access, resolve_groups, resolve_users
from container_image_proxy.config.instances import (
    COMMAND_LINE,
    DEFAULT_FRESH_FOR,
    DEFAULT_SPOOL_LIMIT,
    DEFAULT_VERIFICATION_TIMEOUT,
    DIRECTORIES,
    MAX_SPOOL_LIMIT,
    ImageSettings,
    InstanceSettings,
    host_platform,
    load_instance,
)
from container_image_proxy.errors import ConfigurationError, InvalidPlatformError, InvalidReferenceError
from container_image_proxy.image.platform import Platform, parse_platform
from container_image_proxy.image.reference import is_domain
from container_image_proxy.registry.auth.keychain import Credentials

if TYPE_CHECKING:
    from collections.abc import Sequence

_T = TypeVar("_T", bound=Struct)
_PRIVATE: Final = 0o600
_WIDTH: Final = 80  # characters of a line of --help
IMAGE_PROXY: Final = "experimental-image-proxy"
"""The command by which clients start skopeo's image proxy."""
IMAGE_PROXY_FLAGS: Final = frozenset({
    "--debug", "--help", "--insecure-policy", "--no-creds", "--require-signed", "--tls-verify", "-h",
})  # fmt: skip
"""The options of that command that have no value, or one by "=" only."""


def names_image_proxy(arguments: Sequence[str]) -> bool:
    """Whether the first argument that is neither an option nor an option's value is ``IMAGE_PROXY``."""
    if IMAGE_PROXY not in arguments:
        return False
    # argparse cannot tell the two commands apart: an option may precede the word, and its value may be any word.
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            return next(rest, "") == IMAGE_PROXY
        if not argument.startswith("-"):
            return argument == IMAGE_PROXY
        if "=" not in argument and argument not in IMAGE_PROXY_FLAGS:
            next(rest, "")
    return False


class _Formatter(argparse.HelpFormatter):
    """Of a constant width: the parser makes a formatter for each option, and each would ask for the terminal's."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_WIDTH)


class Parser(argparse.ArgumentParser):
    """A parser that raises :class:`UsageError` where ``argparse`` would end the process."""

    def error(self, message: str) -> NoReturn:
        """Raise :class:`UsageError`."""
        raise UsageError(message)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the daemon's options. It raises :class:`UsageError`."""
    parser = Parser(
        prog="container-image-proxy",
        description="Serve a verified container image, its manifest and blobs, over a socket.",
        allow_abbrev=False,
        formatter_class=_Formatter,
        epilog="Without --port, --socket and --sockfd the one client is on standard input and output. "
        f"For programs that start skopeo's image proxy: container-image-proxy {IMAGE_PROXY} --help.",
    )
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="what to serve, docker://name[:tag] or oci:path")
    parser.add_argument(
        "--instance", metavar="NAME", help="serve the images of NAME.toml on the sockets that systemd passes"
    )
    parser.add_argument(
        "--check", action="store_true", help="validate the configuration, print what would be served, and exit"
    )
    parser.add_argument(
        "--reload",
        action="store_true",
        help="for the unit's ExecReload=: have the running daemon read its configuration anew, and say what is wrong",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--port", type=int, metavar="N", help="listen on 127.0.0.1:N; any local user can connect")
    where.add_argument("--socket", type=Path, metavar="PATH", help="listen on a new Unix socket")
    where.add_argument("--sockfd", type=int, metavar="N", help="use the socket that is open as descriptor N")
    parser.add_argument("--socket-mode", type=_octal, metavar="MODE", help="mode of --socket (default 0600)")
    parser.add_argument(
        "--allow-user", action="append", default=[], metavar="USER", help="who else may connect, by name or uid"
    )
    parser.add_argument(
        "--allow-group", action="append", default=[], metavar="GROUP", help="which groups may connect, by name or gid"
    )
    parser.add_argument(
        "--allow-any-user",
        action="store_true",
        help="serve any local user over TCP though the image is fetched with credentials",
    )
    _add_upstream_options(parser)
    parser.add_argument(
        "--idle-exit", type=_seconds, metavar="SECONDS", help="exit when idle for so long; 0 means never"
    )
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="where instance files are, instead of /etc, /run, /usr/lib"
    )
    parser.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning", "error"), help="what to log (default info)"
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _add_upstream_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where the image comes from, and whether it may be used")
    secrets = group.add_mutually_exclusive_group()
    secrets.add_argument("--authfile", type=Path, metavar="FILE", help="credentials, as containers-auth.json(5)")
    secrets.add_argument("--creds", metavar="USER[:PASSWORD]", help="credentials for the registry")
    secrets.add_argument("--no-creds", action="store_true", help="access the registry anonymously")
    group.add_argument("--cert-dir", type=Path, metavar="DIR", help="CA and client certificates for the registry")
    group.add_argument(
        "--token-realms",
        type=_hosts,
        action="extend",
        metavar="HOST[,HOST...]",
        help="token services in other domains that may get the registry's credentials",
    )
    group.add_argument("--tls-verify", type=_boolean, metavar="BOOL", help="require HTTPS and verify it")
    trust = group.add_mutually_exclusive_group()
    trust.add_argument(
        "--policy", type=Path, metavar="FILE", help="signature policy instead of containers-policy.json(5)'s places"
    )
    trust.add_argument("--insecure-policy", action="store_true", help="accept any image; for trying out")
    group.add_argument(
        "--verification-timeout",
        type=_positive_seconds,
        metavar="SECONDS",
        help=f"how long verifying an image may compute (default {DEFAULT_VERIFICATION_TIMEOUT:g})",
    )
    group.add_argument("--registries-conf", type=Path, metavar="FILE", help="mirrors, blocked and insecure registries")
    group.add_argument(
        "--registries-conf-dir", type=Path, metavar="DIR", help="drop-ins of the same, instead of registries.conf.d"
    )
    group.add_argument(
        "--registries.d", dest="registries_d", type=Path, metavar="DIR", help="where signatures are kept"
    )
    group.add_argument(
        "--cache-dir",
        type=lambda text: Path(text).absolute(),
        metavar="DIR",
        help="where archives are unpacked that have to be",
    )
    group.add_argument(
        "--spool-limit",
        type=_gibibytes,
        metavar="GIB",
        help=f"how much of the disk that may take (default {DEFAULT_SPOOL_LIMIT >> 30})",
    )
    group.add_argument(
        "--daemon-host", type=daemon_host, metavar="HOST", help="where the Docker daemon is, as DOCKER_HOST"
    )
    group.add_argument("--daemon-cert-dir", type=Path, metavar="DIR", help="ca.pem, cert.pem and key.pem for it")
    group.add_argument("--override-os", metavar="OS", help="choose for this operating system from an index")
    group.add_argument("--override-arch", metavar="ARCH", help="choose for this architecture")
    group.add_argument("--override-variant", metavar="VARIANT", help="choose for this variant of the architecture")


def _octal(text: str) -> int:
    if not re.fullmatch("[0-7]{1,4}", text) or int(text, 8) > 0o777:  # noqa: PLR2004 - permission bits
        raise argparse.ArgumentTypeError(f"{text!r} is no mode in octal, from 0 to 0777")
    return int(text, 8)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, 0 or more")
    return seconds


def _gibibytes(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or not 0 < int(text) < MAX_SPOOL_LIMIT:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of GiB, 1 or more")
    return int(text) << 30


def daemon_host(text: str) -> str:
    """The address of the Docker daemon as a type for ``argparse``."""
    from container_image_proxy.config.engine import parse_engine_host  # noqa: PLC0415 - for this option alone

    try:
        return parse_engine_host(text).name
    except InvalidReferenceError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(host.strip() for host in text.split(","))
    wrong = next((host for host in hosts if not is_domain(host)), None)
    if wrong is not None:
        raise argparse.ArgumentTypeError(f"{wrong!r} is not the host or host:port of a token service")
    return hosts


def _positive_seconds(text: str) -> float:
    seconds = _seconds(text)
    if seconds == 0:
        raise argparse.ArgumentTypeError("0 seconds are not enough for anything")
    return seconds


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false") from error


def check_usage(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Raise :class:`UsageError` for combinations of options of which one would silently be ignored."""
    named = [value for value in (options.image, options.instance) if value is not None]
    if len(named) > 1 or not (named or options.check):
        parser.error("give either an IMAGE or --instance NAME")
    if options.reload and (options.instance is None or options.check):
        parser.error("--reload is for the daemon of an --instance NAME")
    listens = {"--port": options.port, "--socket": options.socket, "--sockfd": options.sockfd}
    where = next((name for name, value in listens.items() if value is not None), None)
    if options.image is None and where is not None:
        parser.error(f"{where} serves an IMAGE; an instance has the sockets that systemd passes")
    if (options.allow_user or options.allow_group) and where != "--socket":
        parser.error("--allow-user and --allow-group are for --socket; for an instance, its file says who may connect")
    if options.allow_any_user and where not in {"--port", "--sockfd"}:
        parser.error("--allow-any-user is for --port, and for --sockfd with a TCP socket")
    if options.socket_mode is not None and where != "--socket":
        parser.error("--socket-mode is for --socket")


def socket_mode(options: argparse.Namespace) -> int:
    """The mode of the socket of ``--socket``."""
    mode: int | None = options.socket_mode
    return _PRIVATE if mode is None else mode


def instance_directories(options: argparse.Namespace) -> tuple[Path, ...]:
    """The directories that are searched for instance files."""
    return (options.config_dir,) if options.config_dir else DIRECTORIES


def parse_creds(text: str) -> Credentials:
    """The credentials in ``USER[:PASSWORD]``, the value of ``--creds``."""
    username, _, password = text.partition(":")
    return Credentials(username, password, "", "--creds")


def load_settings(options: argparse.Namespace, uid: int) -> InstanceSettings:
    """The settings of the instance file, or of IMAGE, with the options that take precedence over them.

    ``uid`` is the daemon's own. Raises :class:`ConfigurationError` if the file or an option is wrong.
    """
    if options.instance is not None:
        settings = load_instance(options.instance, instance_directories(options), uid=uid)
    else:
        # IMAGE is served to root, to the daemon's own user and to those whom options name.
        access = AccessRule(
            owner_access(uid).users | resolve_users(options.allow_user, COMMAND_LINE, "--allow-user"),
            resolve_groups(options.allow_group, COMMAND_LINE, "--allow-group"),
        )
        image = ImageSettings("image", options.image, host_platform(), DEFAULT_FRESH_FOR, access, COMMAND_LINE, "IMAGE")
        settings = InstanceSettings("image", COMMAND_LINE, {"image": image}, "image", idle_exit=0)
    registry_options = ("authfile", "cert_dir", "registries_conf", "registries_conf_dir", "tls_verify")
    token_realms = (*settings.registry.token_realms, *(options.token_realms or ()))
    trust = _override(settings.trust, options, "policy", "registries_d", "verification_timeout")
    return replace(
        settings,
        images={
            name: replace(image, platform=override_platform(image.platform, options))
            for name, image in settings.images.items()
        },
        registry=replace(_override(settings.registry, options, *registry_options), token_realms=token_realms),
        trust=replace(trust, insecure_policy=options.insecure_policy),
        sources=_override(settings.sources, options, "cache_dir", "spool_limit", "daemon_host", "daemon_cert_dir"),
        idle_exit=settings.idle_exit if options.idle_exit is None else options.idle_exit,
    )


def _override(settings: _T, options: argparse.Namespace, *names: str) -> _T:
    """``settings`` with the values of those options that were given."""
    return replace(settings, **{name: value for name in names if (value := getattr(options, name)) is not None})


def override_platform(platform: Platform, options: argparse.Namespace) -> Platform:
    """The platform with the values of ``--override-*``. Raises :class:`ConfigurationError` if the result is none."""
    if options.override_arch is not None:
        # The variant belongs to the architecture that is replaced.
        platform = replace(platform, architecture=options.override_arch, variant="")
    if options.override_variant is not None:
        platform = replace(platform, variant=options.override_variant)
    if options.override_os is not None:
        platform = replace(platform, os=options.override_os)
    try:
        return parse_platform(str(platform))
    except InvalidPlatformError as error:
        raise ConfigurationError(COMMAND_LINE, str(error), key="--override-*") from error
