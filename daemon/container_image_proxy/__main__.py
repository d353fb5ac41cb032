"""Where everything begins: argv and the environment are read, the parts are put together, exit codes decided.

Exit codes: those of ``cli/exit_codes.py``.
"""

from __future__ import annotations

import gc

# Loading modules makes many objects and no cycles: the collector would look at them again and again, for an eighth of
# the time until the first answer. The daemon turns it on before it serves.
gc.disable()

import argparse
import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from container_image_proxy.cli.exit_codes import EX_CONFIG, EX_USAGE, exit_code
from container_image_proxy.cli.options import (
    UsageError,
    build_parser,
    check_usage,
    load_settings,
    names_image_proxy,
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
from container_image_proxy.registry.auth.keychain import Credentials
from container_image_proxy.service import activation
from container_image_proxy.service.allocator import use_few_arenas
from container_image_proxy.service.daemon import Daemon
from container_image_proxy.service.health import Health
from container_image_proxy.service.journal import set_up_logging
from container_image_proxy.service.notifier import Notifier
from container_image_proxy.service.reloading import Askers, ask_for_reload

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from container_image_proxy.config.access import AccessRule
    from container_image_proxy.core.serving import Serving

_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon, or check its configuration; the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if names_image_proxy(arguments):
        return _serve_parent(arguments)
    parser = build_parser()
    try:
        options = parser.parse_args(arguments)
        check_usage(parser, options)
    except UsageError as error:
        return _refuse_usage(parser, error)
    set_up_logging(getattr(logging, options.log_level.upper()), options.instance)
    if options.check:
        from container_image_proxy.cli.check import check  # noqa: PLC0415 - no daemon has to wait for it

        command = [*_program(), *arguments]
        return _guarded(lambda options: check(options, _surroundings(options), command), options)
    return _guarded(_reload if options.reload else _run, options)


def _serve_parent(arguments: Sequence[str]) -> int:
    """skopeo's image proxy: serve whatever images the parent process names, until it has gone."""
    from container_image_proxy.cli.image_proxy import own_home, parse_options  # noqa: PLC0415 - no daemon has to wait for it
    from container_image_proxy.service.stand_alone import serve_parent  # noqa: PLC0415 - as above

    set_up_logging(logging.WARNING)
    try:
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
    except UsageError as error:
        _log.error("%s", error)
        return EX_USAGE
    except Error as error:
        _log.error("%s", error)
        return exit_code(error)
    serve_parent(sock, lambda: assemble_any(options.settings, options.platform, surroundings))
    return 0


def _refuse_usage(parser: argparse.ArgumentParser, error: UsageError) -> int:
    """Exit code 2, except where clients wait in a socket of systemd's: a drop-in's mistake is told to them, too."""
    if not os.environ.get("LISTEN_FDS"):
        parser.print_usage(sys.stderr)
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return EX_USAGE
    set_up_logging()
    remedy = "see container-image-proxy(1), mend ExecStart= of the unit, and restart it"
    wrong = ConfigurationError(COMMAND_LINE, str(error), remedy=remedy)
    hopeless = Degraded(wrong, (owner_access(os.geteuid()),), DEFAULT_IDLE_EXIT)
    return _guarded(lambda _: _serve_inherited(lambda: hopeless, "NAME"), argparse.Namespace())


def _guarded(action: Callable[[argparse.Namespace], int | None], options: argparse.Namespace) -> int:
    """The exit code of ``action``; our errors are one line each."""
    try:
        return action(options) or 0
    except Error as error:
        _log.error("%s", error)
        return exit_code(error)


def _program() -> list[str]:
    """The command that this process was started with, without its arguments."""
    program = Path(sys.argv[0]).absolute()
    return [sys.executable, "-m", program.parent.name] if program.name == "__main__.py" else [str(program)]


def _surroundings(options: argparse.Namespace) -> Surroundings:
    return Surroundings(
        environ=dict(os.environ),
        home=Path(os.environ.get("HOME") or "/"),
        uid=os.geteuid(),
        credentials=_parse_creds(options.creds) if options.creds else None,
        no_credentials=options.no_creds,
        open_at="" if options.allow_any_user else _find_open_place(options),
    )


def _find_open_place(options: argparse.Namespace) -> str:
    """Where any local user can connect, since it is not a Unix socket; "" if there is no such place."""
    if options.port is not None:
        return f"--port {options.port}"
    if options.sockfd is not None and activation.is_open_to_all(options.sockfd):
        return f"--sockfd {options.sockfd}"
    return ""


def _parse_creds(text: str) -> Credentials:
    username, _, password = text.partition(":")
    return Credentials(username, password, "", "--creds")


def _reload(options: argparse.Namespace) -> int:
    """Have the daemon that systemd says we belong to read its configuration anew; its complaint is ours."""
    pid, directory = os.environ.get("MAINPID", ""), _runtime_directory()
    if not pid.isdecimal() or directory is None:
        remedy = f"systemctl reload container-image-proxy@{options.instance}.service"
        raise Error(f"--reload is for ExecReload= of a unit that has a RuntimeDirectory= ({remedy})")
    complaint = ask_for_reload(int(pid), directory)
    if complaint:
        _log.error("%s", complaint)
    return EX_CONFIG if complaint else 0


def _run(options: argparse.Namespace) -> None:
    """Serve until told to stop, or until there is nothing left to do."""
    use_few_arenas()
    surroundings = _surroundings(options)
    if options.insecure_policy:
        _log.warning("--insecure-policy: no signature is checked, any image is served")
    find_gpg(surroundings.environ).remove_leftovers()
    if options.instance is not None:
        _run_instance(options, surroundings)
    else:
        _run_alone(options, surroundings)


def _run_instance(options: argparse.Namespace, surroundings: Surroundings) -> None:
    runtime = _runtime_directory()
    store = SnapshotStore(runtime / "snapshots" if runtime else None)
    _serve_inherited(partial(_load, options, surroundings, store), options.instance)


def _serve_inherited(load: Callable[[], Serving | Degraded], instance: str) -> None:
    """Serve on the sockets that systemd passes, for which clients wait already: those get an answer in any case."""
    state = load()
    sockets, unusable = activation.inherited_sockets()
    if not sockets and isinstance(state, Degraded):
        raise state.error
    if not sockets and unusable is not None:
        # Not status 78: who waits there would have systemd start us again at once.
        raise Error(str(unusable))
    if not sockets:
        remedy = f"systemctl start container-image-proxy@{instance}.socket"
        raise ConfigurationError(f"instance {instance}", "systemd passed no socket", remedy=remedy)
    if unusable is not None:
        state = hopeless = Degraded(unusable, (owner_access(os.geteuid()),), state.idle_exit)
        load = lambda: hopeless  # noqa: E731 - no file mends the sockets that a process was started with
    runtime = _runtime_directory()
    daemon = Daemon(state, load, sockets, ServerLimits(), Notifier(), Askers(runtime), Health(runtime), owner=None)
    daemon.run(daemon.server.serve)


def _run_alone(options: argparse.Namespace, surroundings: Surroundings) -> None:
    """Serve the IMAGE of the command line where the command line says."""
    load = partial(_load, options, surroundings, SnapshotStore(None))
    state = load()
    if isinstance(state, Degraded):
        raise state.error
    listeners, connection = _open_sockets(options)
    daemon = Daemon(
        state, load, listeners, ServerLimits(), Notifier(), Askers(None), Health(None), owner=surroundings.uid
    )
    if connection is not None:
        daemon.run(lambda: daemon.server.serve_connection(connection, read_peer(connection)))
    elif not listeners:
        daemon.run(daemon.server.serve_stdio)
    else:
        daemon.run(daemon.server.serve)


def _load(options: argparse.Namespace, surroundings: Surroundings, store: SnapshotStore) -> Serving | Degraded:
    """A whole configuration, or why there is none.

    An instance file counts as a whole or not at all: if anything in it is wrong, so may be its ``[access]``.
    """
    told: tuple[AccessRule, ...] = (owner_access(surroundings.uid),)
    idle_exit = DEFAULT_IDLE_EXIT if options.idle_exit is None else options.idle_exit
    try:
        settings = load_settings(options, surroundings.uid)
        told, idle_exit = tuple(image.access for image in settings.images.values()), settings.idle_exit
        return assemble(settings, store, surroundings)
    except ConfigurationError as error:
        return Degraded(error, told, idle_exit)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong, who waits for an answer gets one
        defect = ConfigurationError("the configuration", "cannot be read because of a defect; the log says more")
        return Degraded(defect, told, idle_exit, error)


def _open_sockets(options: argparse.Namespace) -> tuple[list[socket.socket], socket.socket | None]:
    """The listening sockets, or the one connection that ``--sockfd`` brought; neither means stdin and stdout."""
    if options.socket is not None:
        return [activation.listen_unix(options.socket, socket_mode(options))], None
    if options.port is not None:
        return [activation.listen_tcp(options.port)], None
    if options.sockfd is not None:
        given = activation.from_descriptor(options.sockfd)
        return ([given], None) if activation.is_listening(given) else ([], given)
    return [], None


def _runtime_directory() -> Path | None:
    """The directory that systemd made for the unit, in which an instance keeps what outlives the process."""
    directory = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(directory) if directory else None


if __name__ == "__main__":
    sys.exit(main())
