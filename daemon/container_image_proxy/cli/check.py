"""``--check``: validates everything that the start reads and that the first requests will read. Contacts no registry.

It prints what would be served (``describe``) and what was found of each image. It also reports what the daemon would
notice only at the first request.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from contextlib import closing
from typing import TYPE_CHECKING

from container_image_proxy.cli.as_service import NoServiceError, run_as_service
from container_image_proxy.cli.describe import EVERYBODY_HERE, WHOEVER_HOLDS_IT, Door, describe, find_door
from container_image_proxy.cli.exit_codes import EX_CONFIG, exit_code
from container_image_proxy.cli.options import instance_directories, load_settings, socket_mode
from container_image_proxy.concurrency.context import Context
from container_image_proxy.config.instances import find_instances, verify_instance_name
from container_image_proxy.config.obstacle import describe_user
from container_image_proxy.core.assembly import Surroundings, assemble
from container_image_proxy.core.snapshot_store import SnapshotStore
from container_image_proxy.errors import ConfigurationError, Error, UnknownManifestError
from container_image_proxy.image.manifest import Index, parse_manifest
from container_image_proxy.transports.source import DescribedSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from container_image_proxy.core.serving import Serving
    from container_image_proxy.transports.source import Access, SourceReference

_log = logging.getLogger(__name__)


def check(options: argparse.Namespace, surroundings: Surroundings, command: Sequence[str]) -> int:
    """Check the image or the instance of ``options``, or else all instances. Returns the exit code.

    ``command`` is the command of this process, by which systemd can start the check once more as the service.
    """
    if options.image is not None:
        return _check_one(options, surroundings)
    if options.instance is not None:
        return _check_instance(options, surroundings, command)
    directories = instance_directories(options)
    names = find_instances(directories)
    if not names:
        _log.warning("there is no instance file in %s", ", ".join(map(str, directories)))
    codes = [
        _check_instance(
            argparse.Namespace(**vars(options) | {"instance": name}), surroundings, [*command, "--instance", name]
        )
        for name in names
    ]
    return max(codes, default=0)


def _check_instance(options: argparse.Namespace, surroundings: Surroundings, command: Sequence[str]) -> int:
    # The service's user may be able to read less than root, so the check runs as the service (contrib/adr/0022). With
    # --config-dir it does not, because the packaged unit has no such option: that is not the instance's service.
    # systemd sets the variable for what it starts (systemd.exec(5)): this process is then that check.
    is_service = surroundings.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())
    if surroundings.uid == 0 and options.config_dir is None and not is_service:
        try:
            verify_instance_name(options.instance)  # systemd has no service of another name, and does not say why
            outcome = run_as_service(options.instance, command)
        except NoServiceError as error:
            _log.warning("instance %s is checked with the rights of root: %s", options.instance, error)
        except Error as error:
            return _report(error)
        else:
            print(outcome.output, end="", flush=True)
            print(outcome.errors, end="", file=sys.stderr)
            return outcome.status
    elif options.config_dir is None and not is_service:
        who = describe_user(surroundings.uid)
        _log.warning("instance %s is checked as %s: only root can check it as its own user", options.instance, who)
    return _check_one(options, surroundings)


def _check_one(options: argparse.Namespace, surroundings: Surroundings) -> int:
    try:
        serving = assemble(load_settings(options, surroundings.uid), SnapshotStore(None), surroundings)
    except Error as error:
        return _report(error)
    found, complaints = survey(serving)
    print(describe(serving, _door(options), found))
    for warning in serving.policy.warnings():
        _log.warning("%s: %s", serving.policy.file, warning)
    for complaint in complaints:
        _log.error("%s", complaint)
    return EX_CONFIG if complaints else 0


def _report(error: Error) -> int:
    _log.error("%s", error)
    return exit_code(error)


def survey(serving: Serving) -> tuple[dict[str, str], list[str]]:
    """What was found of each image, by name, and one line for everything that would fail at the first requests.

    Registries are not contacted, so nothing is found of their images.
    """
    found, complaints = {}, []
    for image in serving.images.values():
        settings = serving.settings.images[image.name]
        try:
            found[image.name] = _look(Context(serving.closing), image.reference, serving.sources)
        except ConfigurationError as error:
            complaints.append(str(error))
        except Error as error:
            complaints.append(f"{settings.file}: {settings.key}: {error}")
    try:
        serving.verify_keys()
    except ConfigurationError as error:
        complaints.append(str(error))
    return found, list(dict.fromkeys(complaints))


def _look(context: Context, reference: SourceReference, access: Access) -> str:
    """What the reference names at the moment, in words."""
    reference.prepare(access)
    if reference.registry is not None:
        return f"{reference.registry} was not asked"
    with closing(reference.open_source(access)) as source:
        if isinstance(source, DescribedSource):
            return source.describe(context)
        untrusted = source.fetch_manifest(context)
    if untrusted is None:
        raise UnknownManifestError("the source says 'not modified' to a first request")
    document = parse_manifest(untrusted)
    kind = f"index of {len(document.manifests)}" if isinstance(document, Index) else "manifest"
    return f"{kind}, {document.digest}"


def _door(options: argparse.Namespace) -> Door | str:
    """The socket that a client has to open, or who can connect where there is no such socket."""
    if options.instance is not None:
        return find_door(options.instance)
    if options.port is not None:
        return EVERYBODY_HERE
    if options.socket is not None:
        return Door(socket_mode(options), os.geteuid(), os.getegid())
    return Door() if options.sockfd is not None else WHOEVER_HOLDS_IT
