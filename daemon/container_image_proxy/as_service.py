"""Runs a command as the service of an instance would run: by systemd, as the service's user, in what its sandbox shows.

What a unit may read depends on its user, who may exist only while it runs, on its sandbox and on its drop-ins. systemd
alone knows how these work together, so that it is asked to start the command, with the same settings of the service
(systemd-run(1)). Settings that make no difference to what can be read are left out.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import ConfigurationError, Error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SERVICE: Final = "container-image-proxy@{}.service"
_BUS: Final = Path("/run/dbus/system_bus_socket")  # without which systemd-run cannot wait
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
    217: "USER, there is no such user",
    226: "NAMESPACE, the sandbox cannot be set up",
    243: "CREDENTIALS, a credential cannot be read",
}


class NoServiceError(Error):
    """There is no such service, or nobody to start anything."""


def run_as_service(instance: str, command: Sequence[str]) -> int:
    """The exit status of ``command``, which has our standard streams.

    :class:`NoServiceError` if that cannot be done here, :class:`ConfigurationError` if the service of ``instance``
    could not be started either.
    """
    service = _SERVICE.format(instance)
    properties = [f"--property={key}={value}" for key, value in _read_settings(service, instance)]
    if not _BUS.exists():
        raise NoServiceError(f"systemd-run needs the system's D-Bus, and there is no {_BUS}")
    how = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect"]
    status = subprocess.run([*how, *properties, "--", *command], check=False).returncode  # noqa: S603 - no shell
    if status >= _FIRST_OF_SYSTEMD:
        reason = f"cannot be started: status {status}/{_STATUSES.get(status, 'the journal says why')}"
        raise ConfigurationError(service, reason, remedy=f"systemctl cat {service} shows its settings")
    return status


def _read_settings(service: str, instance: str) -> Iterator[tuple[str, str]]:
    """The settings that make a difference, of the unit file and its drop-ins, in their order."""
    try:
        command = ["systemctl", "cat", "--", service]
        shown = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - no shell
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoServiceError(f"systemd has no {service}") from error
    section = ""
    for line in shown.stdout.splitlines():
        section = line.strip() if line.startswith("[") else section
        key, is_setting, value = (part.strip() for part in line.partition("="))
        if section == "[Service]" and is_setting and key in _SETTINGS:
            yield key, value.replace("%i", instance)
