"""Runs a command as the service of an instance runs: as the service's user, and in the service's sandbox.

What a service can read depends on its user (who may exist only while it runs), its sandbox and its drop-ins. Only
systemd knows the result, so systemd starts the command with the service's settings (systemd-run(1), contrib/adr/0022).
Settings that do not change what can be read are left out.
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
_FIRST_OF_SYSTEMD: Final = 200
"""From this status on, systemd could not start the command (systemd.exec(5), "Process Exit Codes")."""
_STATUSES: Final = {
    203: "EXEC, the program cannot be run",
    216: "GROUP, there is no such group",
    217: "USER, there is no such user, or nobody may have a user namespace",
    226: "NAMESPACE, the sandbox cannot be set up",
    243: "CREDENTIALS, a credential cannot be read",
}


class Outcome(Struct, frozen=True):
    """Exit status, standard output and standard error of a command."""

    status: int
    output: str
    errors: str


class NoServiceError(Error):
    """There is no such service, or no systemd."""


def run_as_service(instance: str, command: Sequence[str]) -> Outcome:
    """Run ``command`` as the service of ``instance``.

    Raises :class:`NoServiceError` if that is impossible on this host, and :class:`ConfigurationError` if systemd cannot
    start a command with these settings, and thus not the service either.
    """
    service = _SERVICE.format(instance)
    unit = f"container-image-proxy-check-{os.getpid()}.service"
    with tempfile.TemporaryDirectory(prefix="container-image-proxy-", dir="/run") as name:
        out, err = Path(name, "out"), Path(name, "err")
        streams = [("StandardOutput", f"file:{out}"), ("StandardError", f"file:{err}")]
        properties = [f"--property={key}={value}" for key, value in (*_read_settings(service, instance), *streams)]
        # systemd-run waits for the end of a oneshot unit. Its --wait needs D-Bus, which some hosts lack.
        how = ["systemd-run", "--quiet", "--service-type=oneshot", f"--unit={unit}"]
        started = _run(*how, *properties, "--", *command)
        status = int(_run("systemctl", "show", "--property=ExecMainStatus", "--value", unit).stdout)
        _run("systemctl", "reset-failed", unit)  # else a failed check would be listed by systemctl --failed
        if started.returncode != 0 and status == 0:  # systemd-run itself failed: the command has no status
            raise NoServiceError(f"systemd-run failed: {started.stderr.strip()}")
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
    """The settings to copy (key and value), from the unit file and its drop-ins, in their order."""
    shown = _run("systemctl", "cat", "--", service)
    if shown.returncode != 0:
        raise NoServiceError(f"systemd has no {service}")
    section = ""
    for line in shown.stdout.splitlines():
        section = line.strip() if line.startswith("[") else section
        key, is_setting, value = (part.strip() for part in line.partition("="))
        if section == "[Service]" and is_setting and key in _SETTINGS:
            yield key, value.replace("%i", instance)
