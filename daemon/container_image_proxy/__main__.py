"""The command line: the only place that reads argv and the environment, and that decides exit codes.

Exit codes: 0 done; 2 wrong usage; 78 (EX_CONFIG) a configuration that cannot be used; 1 anything else.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from container_image_proxy import __version__
from container_image_proxy.config.access import AccessRule, owner_access, resolve_groups, resolve_users
from container_image_proxy.config.instances import (
    DEFAULT_FRESH_FOR,
    DIRECTORIES,
    ImageSettings,
    InstanceSettings,
    RegistrySettings,
    TrustSettings,
    load_instance,
)
from container_image_proxy.config.keychain import Credentials
from container_image_proxy.errors import ConfigurationError, Error
from container_image_proxy.image.platform import Platform, host_platform
from container_image_proxy.service import activation
from container_image_proxy.service.check import describe
from container_image_proxy.service.daemon import Daemon
from container_image_proxy.service.journal import set_up_logging
from container_image_proxy.service.limits import ServerLimits
from container_image_proxy.service.peer import read_peer
from container_image_proxy.service.serving import Serving, Surroundings, assemble
from container_image_proxy.snapshots import SnapshotStore

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

EX_CONFIG: Final = 78
_COMMAND_LINE: Final = "command line"
_log = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """The options, which are the ones that skopeo's users know."""
    parser = argparse.ArgumentParser(
        prog="container-image-proxy",
        description="Serve a verified container image, its manifest and blobs, over a socket.",
        epilog="Without --port, --socket and --sockfd the one client is on standard input and output.",
    )
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="what to serve, as transport:reference")
    parser.add_argument(
        "--instance", metavar="NAME", help="serve the images of NAME.toml on the sockets that systemd passes"
    )
    parser.add_argument(
        "--check", action="store_true", help="validate the configuration, print what would be served, and exit"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--port", type=int, metavar="N", help="listen on 127.0.0.1:N; any local user can connect")
    where.add_argument("--socket", type=Path, metavar="PATH", help="listen on a new Unix socket")
    where.add_argument("--sockfd", type=int, metavar="N", help="use the socket that is open as descriptor N")
    parser.add_argument(
        "--socket-mode", type=_octal, default=0o600, metavar="MODE", help="mode of --socket (default 0600)"
    )
    parser.add_argument(
        "--allow-user", action="append", default=[], metavar="USER", help="who else may connect, by name or uid"
    )
    parser.add_argument(
        "--allow-group", action="append", default=[], metavar="GROUP", help="which groups may connect, by name or gid"
    )
    _add_upstream_options(parser)
    parser.add_argument("--idle-exit", type=float, metavar="SECONDS", help="exit when idle for so long; 0 means never")
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="where instance files are, instead of /etc, /run, /usr/lib"
    )
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
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
        "--tls-verify", type=_boolean, nargs="?", const=True, metavar="BOOL", help="require HTTPS and verify it"
    )
    group.add_argument(
        "--policy", type=Path, metavar="FILE", help="signature policy instead of containers-policy.json(5)'s places"
    )
    group.add_argument("--insecure-policy", action="store_true", help="accept any image; for trying out")
    group.add_argument("--registries-conf", type=Path, metavar="FILE")
    group.add_argument("--registries-conf-dir", type=Path, metavar="DIR")
    group.add_argument(
        "--registries.d", dest="registries_d", type=Path, metavar="DIR", help="where signatures are kept"
    )
    group.add_argument("--override-os", metavar="OS")
    group.add_argument("--override-arch", metavar="ARCH")
    group.add_argument("--override-variant", metavar="VARIANT")


def _octal(text: str) -> int:
    mode = int(text, 8)
    if not 0 <= mode <= 0o777:  # noqa: PLR2004 - permission bits
        raise ValueError(text)
    return mode


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon, or check its configuration; the exit code."""
    parser = build_parser()
    options = parser.parse_args(argv)
    _check_usage(parser, options)
    set_up_logging(getattr(logging, options.log_level.upper()), options.instance)
    try:
        if options.check:
            return _check(options)
        _run(options)
    except ConfigurationError as error:
        _log.error("%s", error)
        return EX_CONFIG
    except Error as error:
        _log.error("%s", error)
        return 1
    return 0


def _check_usage(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    stand_alone = (options.port, options.socket, options.sockfd) != (None, None, None)
    if (options.image is None) == (options.instance is None):
        parser.error("give either an IMAGE or --instance NAME")
    if options.instance is not None and stand_alone:
        parser.error("--instance serves the sockets that systemd passes; --port, --socket and --sockfd need an IMAGE")


def _surroundings(options: argparse.Namespace) -> Surroundings:
    return Surroundings(
        environ=dict(os.environ),
        home=Path(os.environ.get("HOME") or "/"),
        uid=os.geteuid(),
        credentials=_parse_creds(options.creds) if options.creds else None,
        no_credentials=options.no_creds,
    )


def _parse_creds(text: str) -> Credentials:
    username, _, password = text.partition(":")
    return Credentials(username, password, "", "--creds")


def _settings(options: argparse.Namespace) -> InstanceSettings:
    """What the instance file says, or the one image of the command line; options go over the file."""
    if options.instance is not None:
        directories = (options.config_dir,) if options.config_dir else DIRECTORIES
        settings = load_instance(options.instance, directories)
    else:
        settings = _stand_alone_settings(options)
    return replace(
        settings,
        images={
            name: replace(image, platform=_override(image.platform, options)) for name, image in settings.images.items()
        },
        registry=_override_registry(settings.registry, options),
        trust=_override_trust(settings.trust, options),
        idle_exit=settings.idle_exit if options.idle_exit is None else options.idle_exit,
    )


def _stand_alone_settings(options: argparse.Namespace) -> InstanceSettings:
    """The settings of ``IMAGE``: served to root, ourselves and whoever else an option names."""
    access = AccessRule(
        owner_access().users | resolve_users(options.allow_user, _COMMAND_LINE, "--allow-user"),
        resolve_groups(options.allow_group, _COMMAND_LINE, "--allow-group"),
    )
    image = ImageSettings("image", options.image, host_platform(), DEFAULT_FRESH_FOR, access, _COMMAND_LINE)
    return InstanceSettings("image", _COMMAND_LINE, {"image": image}, "image", idle_exit=0)


def _override(platform: Platform, options: argparse.Namespace) -> Platform:
    """The platform with what ``--override-*`` say; another architecture does not keep the host's variant."""
    if options.override_arch is not None:
        platform = replace(platform, architecture=options.override_arch, variant="")
    if options.override_variant is not None:
        platform = replace(platform, variant=options.override_variant)
    return replace(platform, os=options.override_os) if options.override_os is not None else platform


def _override_registry(settings: RegistrySettings, options: argparse.Namespace) -> RegistrySettings:
    return replace(
        settings,
        authfile=options.authfile or settings.authfile,
        cert_dir=options.cert_dir or settings.cert_dir,
        registries_conf=options.registries_conf or settings.registries_conf,
        registries_conf_dir=options.registries_conf_dir or settings.registries_conf_dir,
        tls_verify=settings.tls_verify if options.tls_verify is None else options.tls_verify,
    )


def _override_trust(settings: TrustSettings, options: argparse.Namespace) -> TrustSettings:
    return replace(
        settings,
        policy=options.policy or settings.policy,
        registries_d=options.registries_d or settings.registries_d,
        insecure_policy=options.insecure_policy,
    )


def _check(options: argparse.Namespace) -> int:
    """Validate everything that start-up would read; nothing is contacted."""
    serving = assemble(_settings(options), SnapshotStore(None), _surroundings(options))
    print(describe(serving))
    return 0


def _run(options: argparse.Namespace) -> None:
    """Serve until told to stop, or until there is nothing left to do."""
    surroundings = _surroundings(options)
    if options.insecure_policy:
        _log.warning("--insecure-policy: no signature is checked, any image is served")
    store = SnapshotStore(_snapshot_directory(options))

    def load() -> Serving:
        return assemble(_settings(options), store, surroundings)

    serving = load()
    listeners, connection = _open_sockets(options)
    limits = ServerLimits(idle_exit_seconds=serving.settings.idle_exit)
    owner = surroundings.uid if options.instance is None else None
    daemon = Daemon(serving, load, listeners, limits, activation.Notifier(), owner=owner)
    if connection is not None:
        daemon.run(lambda: daemon.server.serve_connection(connection, read_peer(connection)))
    elif not listeners:
        daemon.run(daemon.server.serve_stdio)
    else:
        daemon.run(daemon.server.serve)


def _open_sockets(options: argparse.Namespace) -> tuple[list[socket.socket], socket.socket | None]:
    """The listening sockets, or the one connection that ``--sockfd`` brought; neither means stdin and stdout."""
    if options.instance is not None:
        return _inherited_sockets(options.instance), None
    if options.socket is not None:
        return [activation.listen_unix(options.socket, options.socket_mode)], None
    if options.port is not None:
        return [activation.listen_tcp(options.port)], None
    if options.sockfd is not None:
        given = activation.from_descriptor(options.sockfd)
        return ([given], None) if activation.is_listening(given) else ([], given)
    return [], None


def _inherited_sockets(instance: str) -> list[socket.socket]:
    sockets = activation.inherited_sockets()
    if not sockets:
        remedy = f"systemctl start container-image-proxy@{instance}.socket"
        raise ConfigurationError(f"instance {instance}", "systemd passed no socket", remedy=remedy)
    return sockets


def _snapshot_directory(options: argparse.Namespace) -> Path | None:
    """Below the runtime directory that systemd made for the unit; a stand-alone daemon keeps its snapshots in memory
    only.
    """
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(runtime, "snapshots") if runtime and options.instance is not None else None


if __name__ == "__main__":
    sys.exit(main())
