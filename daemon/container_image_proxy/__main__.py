"""The entry point: reads argv and the environment, puts the parts together, and returns the exit code.

No other module reads argv or the environment, apart from systemd's variables (contrib/adr/0027). Exit codes are in
``cli/exit_codes.py``.
"""

from __future__ import annotations

import gc

# Importing modules makes many objects and no cycles. The collector would traverse these objects repeatedly, which takes
# an eighth of the time until the first answer. The daemon turns it on before it serves.
gc.disable()

import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from container_image_proxy.cli.exit_codes import EX_CONFIG, EX_USAGE, UsageError, exit_code
from container_image_proxy.cli.options import (
    build_parser,
    check_usage,
    load_settings,
    names_image_proxy,
    parse_creds,
    socket_mode,
)
from container_image_proxy.config.access import owner_access
from container_image_proxy.config.instances import COMMAND_LINE, DEFAULT_IDLE_EXIT
from container_image_proxy.core.assembly import Surroundings, assemble, assemble_any, find_gpg
from container_image_proxy.core.peer import read_peer
from container_image_proxy.core.serving import Degraded
from container_image_proxy.core.snapshot_store import SnapshotStore
from container_image_proxy.errors import ConfigurationError, Error
from container_image_proxy.faces.http.limits import ServerLimits
from container_image_proxy.service import activation
from container_image_proxy.service.allocator import use_few_arenas
from container_image_proxy.service.daemon import Daemon
from container_image_proxy.service.health import Health
from container_image_proxy.service.journal import set_up_logging
from container_image_proxy.service.notifier import Notifier
from container_image_proxy.service.reloading import Askers, ask_for_reload

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Callable, Sequence

    from container_image_proxy.config.access import AccessRule
    from container_image_proxy.core.serving import Serving

_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon, or check its configuration. Returns the exit code; an error is one line of the log."""
    activation.occupy_standard_descriptors()
    try:
        return _main(sys.argv[1:] if argv is None else argv)
    except Error as error:
        _log.error("%s", error)
        return exit_code(error)


def _main(arguments: Sequence[str]) -> int:
    if names_image_proxy(arguments):
        _serve_parent(arguments)
        return 0
    parser = build_parser()
    try:
        options = parser.parse_args(arguments)
        check_usage(parser, options)
    except UsageError as error:
        return _refuse_usage(parser, error)
    set_up_logging(getattr(logging, options.log_level.upper()), options.instance)
    if options.check:
        from container_image_proxy.cli.check import check  # noqa: PLC0415 - a daemon does not need it

        program = Path(sys.argv[0]).absolute()
        is_module = program.name == "__main__.py"  # started by python -m
        command = [sys.executable, "-m", program.parent.name] if is_module else [str(program)]
        return check(options, _surroundings(options), [*command, *arguments])
    if options.reload:
        return _reload(options)
    _run(options)
    return 0


def _serve_parent(arguments: Sequence[str]) -> None:
    """skopeo's image proxy: serve the images that the parent process names, until it has gone."""
    from container_image_proxy.cli.image_proxy import own_home, parse_options  # noqa: PLC0415 - other modes do not need it
    from container_image_proxy.service.stand_alone import serve_parent  # noqa: PLC0415 - as above

    set_up_logging(logging.WARNING)
    options = parse_options(arguments)
    set_up_logging(options.log_level)
    use_few_arenas()
    if options.settings.trust.insecure_policy:
        _log.warning("--insecure-policy: no signature is checked, any image is served")
    surroundings = Surroundings(
        environ=dict(os.environ),
        home=own_home(os.environ.get("HOME", ""), os.geteuid()),
        uid=os.geteuid(),
        credentials=options.credentials,
        no_credentials=options.no_credentials,
        auth_content=options.auth_content,
    )
    find_gpg(surroundings.environ).remove_leftovers()
    sock = activation.packets_from_descriptor(options.sockfd)
    serve_parent(sock, lambda: assemble_any(options.settings, options.platform, surroundings))


def _refuse_usage(parser: argparse.ArgumentParser, error: UsageError) -> int:
    """Tell of a wrong command line. Returns the exit code.

    If systemd passed sockets, clients may be waiting in them. Then the daemon runs degraded and tells them about the
    mistake, which a drop-in of the unit must contain (contrib/adr/0023).
    """
    if not os.environ.get("LISTEN_FDS"):
        parser.print_usage(sys.stderr)
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return EX_USAGE
    set_up_logging()
    remedy = "see container-image-proxy(1), mend ExecStart= of the unit, and restart it"
    wrong = ConfigurationError(COMMAND_LINE, str(error), remedy=remedy)
    degraded = Degraded(wrong, (owner_access(os.geteuid()),), DEFAULT_IDLE_EXIT)
    _serve_inherited(lambda: degraded, "NAME")
    return 0


def _surroundings(options: argparse.Namespace) -> Surroundings:
    return Surroundings(
        environ=dict(os.environ),
        home=Path(os.environ.get("HOME") or "/"),
        uid=os.geteuid(),
        credentials=parse_creds(options.creds) if options.creds else None,
        no_credentials=options.no_creds,
        open_at="" if options.allow_any_user else _find_open_place(options),
    )


def _find_open_place(options: argparse.Namespace) -> str:
    """The option by which any local user can connect, because its socket is not a Unix socket; "" if there is none."""
    if options.port is not None:
        return f"--port {options.port}"
    if options.sockfd is not None and activation.is_open_to_all(options.sockfd):
        return f"--sockfd {options.sockfd}"
    return ""


def _reload(options: argparse.Namespace) -> int:
    """Tell the running daemon of this unit to read its configuration again. Returns the exit code, by its answer."""
    pid, directory = os.environ.get("MAINPID", ""), _runtime_directory()
    if not pid.isdecimal() or directory is None:
        remedy = f"systemctl reload container-image-proxy@{options.instance}.service"
        raise Error(f"--reload is for ExecReload= of a unit that has a RuntimeDirectory= ({remedy})")
    complaint = ask_for_reload(int(pid), directory)
    if complaint:
        _log.error("%s", complaint)
    return EX_CONFIG if complaint else 0


def _run(options: argparse.Namespace) -> None:
    """Serve an instance or an IMAGE, until a signal or an idle exit."""
    use_few_arenas()
    surroundings = _surroundings(options)
    if options.insecure_policy:
        _log.warning("--insecure-policy: no signature is checked, any image is served")
    find_gpg(surroundings.environ).remove_leftovers()
    if options.instance is None:
        _run_alone(options, surroundings)
    else:
        runtime = _runtime_directory()
        store = SnapshotStore(runtime / "snapshots" if runtime else None)
        _serve_inherited(partial(_load, options, surroundings, store), options.instance)


def _serve_inherited(load: Callable[[], Serving | Degraded], instance: str) -> None:
    """Serve on the sockets that systemd passes.

    Clients wait in them already, so they get an answer even if the configuration or one of the sockets is unusable.
    Without any usable socket: :class:`Error`.
    """
    state = load()
    sockets, unusable = activation.inherited_sockets()
    if not sockets and isinstance(state, Degraded):
        raise state.error
    if not sockets and unusable is not None:
        # Not a ConfigurationError: after status 78 systemd does not wait for RestartSec=, and the client that waits in
        # the socket would start the daemon again at once (contrib/adr/0023).
        raise Error(str(unusable))
    if not sockets:
        remedy = f"systemctl start container-image-proxy@{instance}.socket"
        raise ConfigurationError(f"instance {instance}", "systemd passed no socket", remedy=remedy)
    if unusable is not None:
        state = degraded = Degraded(unusable, (owner_access(os.geteuid()),), state.idle_exit)
        load = lambda: degraded  # noqa: E731 - reading files again cannot change the sockets of this process
    runtime = _runtime_directory()
    daemon = Daemon(state, load, sockets, ServerLimits(), Notifier(), Askers(runtime), Health(runtime), owner=None)
    daemon.run(daemon.server.serve)


def _run_alone(options: argparse.Namespace, surroundings: Surroundings) -> None:
    """Serve IMAGE on the socket of the options, or else to one client on standard input and output."""
    load = partial(_load, options, surroundings, SnapshotStore(None))
    state = load()
    if isinstance(state, Degraded):
        raise state.error
    listeners: list[socket.socket] = []
    connection = None
    if options.socket is not None:
        listeners = [activation.listen_unix(options.socket, socket_mode(options))]
    elif options.port is not None:
        listeners = [activation.listen_tcp(options.port)]
    elif options.sockfd is not None:
        given = activation.from_descriptor(options.sockfd)
        listeners, connection = ([given], None) if activation.is_listening(given) else ([], given)
    daemon = Daemon(
        state, load, listeners, ServerLimits(), Notifier(), Askers(None), Health(None), owner=surroundings.uid
    )
    if connection is not None:
        daemon.run(lambda: daemon.server.serve_connection(connection, read_peer(connection)))
    else:
        daemon.run(daemon.server.serve if listeners else daemon.server.serve_stdio)


def _load(options: argparse.Namespace, surroundings: Surroundings, store: SnapshotStore) -> Serving | Degraded:
    """The configuration, or the reason why it is unusable and the users who may be told."""
    # If anything in the instance file is wrong, its [access] may be wrong as well. Until the file can be read, only
    # root and the daemon's own user are told (contrib/adr/0023).
    told: tuple[AccessRule, ...] = (owner_access(surroundings.uid),)
    idle_exit = DEFAULT_IDLE_EXIT if options.idle_exit is None else options.idle_exit
    try:
        settings = load_settings(options, surroundings.uid)
        told, idle_exit = tuple(image.access for image in settings.images.values()), settings.idle_exit
        return assemble(settings, store, surroundings)
    except ConfigurationError as error:
        return Degraded(error, told, idle_exit)
    except Exception as error:  # noqa: BLE001 - clients that wait get an answer, whatever goes wrong
        defect = ConfigurationError("the configuration", "cannot be read because of a defect; the log says more")
        return Degraded(defect, told, idle_exit, error)


def _runtime_directory() -> Path | None:
    """The directory of RuntimeDirectory= (systemd.exec(5)), where an instance keeps files that outlive the process."""
    directory = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(directory) if directory else None


if __name__ == "__main__":
    sys.exit(main())
