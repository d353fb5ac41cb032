"""Runs a command as the service of an instance would run: by systemd, as the service's user, in what its sandbox shows.

What a unit may read depends on its user, who may exist only while it runs, on its sandbox and on its drop-ins. systemd
alone knows how these work together, so that it is asked to start the command, with the same settings of the service
(systemd-run(1)). Settings that make no difference to what can be read are left out.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.errors import ConfigurationError, Error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SERVICE: Final = "container-image-proxy@{}.service"
_SETTINGS: Final = frozenset({
    "User", "Group", "SupplementaryGroups", "DynamicUser", "PrivateUsers", "AmbientCapabilities",
    "Environment", "EnvironmentFile", "PassEnvironment", "UnsetEnvironment",
    "LoadCredential", "LoadCredentialEncrypted", "SetCredential", "SetCredentialEncrypted",
    "ProtectHome", "PrivateTmp", "BindPaths", "BindReadOnlyPaths", "TemporaryFileSystem", "InaccessiblePaths",
})  # fmt: skip
_FIRST_OF_SYSTEMD: Final = 200  # exit statuses from here on say that systemd could not start it (systemd.exec(5))
_STATUSES: Final = {
    203: "EXEC, the program cannot be run",
    216: "GROUP, there is no such group",
    217: "USER, there is no such user, or nobody may have a user namespace",
    226: "NAMESPACE, the sandbox cannot be set up",
    243: "CREDENTIALS, a credential cannot be read",
}


class Outcome(Struct, frozen=True):
    """What a process left behind."""

    status: int
    output: str
    errors: str


class NoServiceError(Error):
    """There is no such service, or nobody to start anything."""


def run_as_service(instance: str, command: Sequence[str]) -> Outcome:
    """How ``command`` ended, and what it said.

    :class:`NoServiceError` if that cannot be done here, :class:`ConfigurationError` if the service of ``instance``
    could not be started either.
    """
    service = _SERVICE.format(instance)
    unit = f"container-image-proxy-check-{os.getpid()}.service"
    with tempfile.TemporaryDirectory(prefix="container-image-proxy-", dir="/run") as name:
        out, err = Path(name, "out"), Path(name, "err")
        streams = [("StandardOutput", f"file:{out}"), ("StandardError", f"file:{err}")]
        properties = [f"--property={key}={value}" for key, value in (*_read_settings(service, instance), *streams)]
        # systemd-run awaits the end of a oneshot by itself; its --wait needs D-Bus, which not every host has.
        how = ["systemd-run", "--quiet", "--service-type=oneshot", f"--unit={unit}"]
        started = _run(*how, *properties, "--", *command)
        status = int(_run("systemctl", "show", "--property=ExecMainStatus", "--value", unit).stdout)
        if started.returncode != 0 and status == 0:
            raise NoServiceError(f"systemd-run failed: {started.stderr.strip()}")
        _run("systemctl", "reset-failed", unit)
        output, errors = (file.read_text(errors="replace") if file.exists() else "" for file in (out, err))
    if status >= _FIRST_OF_SYSTEMD:
        reason = f"cannot be started: status {status}/{_STATUSES.get(status, 'the journal says why')}"
        raise ConfigurationError(service, reason, remedy=f"systemctl cat {service} shows its settings")
    return Outcome(status, output, errors)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    except OSError as error:
        raise NoServiceError(f"there is no systemd: {error}") from error


def _read_settings(service: str, instance: str) -> Iterator[tuple[str, str]]:
    """The settings that make a difference, of the unit file and its drop-ins, in their order."""
    shown = _run("systemctl", "cat", "--", service)
    if shown.returncode != 0:
        raise NoServiceError(f"systemd has no {service}")
    section = ""
    for line in shown.stdout.splitlines():
        section = line.strip() if line.startswith("[") else section
        key, is_setting, value = (part.strip() for part in line.partition("="))
        if section == "[Service]" and is_setting and key in _SETTINGS:
            yield key, value.replace("%i", instance)
