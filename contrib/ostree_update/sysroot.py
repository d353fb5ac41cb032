"""The deployments of one operating system in a sysroot, by ostree(1); only reading them is done through libostree."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

from ostree_update.libostree import Gio, OSTree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Sysroot:
    """A sysroot that ``ostree admin init-fs`` and ``os-init`` made, or that of the host (/)."""

    def __init__(self, path: Path, os_name: str) -> None:
        self._path = path
        self._os_name = os_name
        # On a booted host /sysroot may be read-only, but for a process with a mount namespace of its own. It has to be
        # made before there are threads.
        self._open().initialize_with_mount_namespace(None)

    def first(self) -> str | None:
        """The commit that the next start boots; None if that is another operating system's, or nothing."""
        deployments = self._deployments()
        return deployments[0].get_csum() if deployments and deployments[0].get_osname() == self._os_name else None

    def deploy(self, ref: str, kernel_arguments: Sequence[str]) -> None:
        """Make the ref's commit the first deployment. The one before stays, and the one that is running.

        Kernel arguments are given to the first deployment; each later one has those of the one before.
        """
        is_first = all(one.get_osname() != self._os_name for one in self._deployments())
        arguments = [f"--karg={argument}" for argument in kernel_arguments] if is_first else []
        subprocess.run(
            ["ostree", "admin", "deploy", f"--sysroot={self._path}", f"--os={self._os_name}", *arguments, ref],
            check=True,
        )

    def _open(self) -> Any:
        return OSTree.Sysroot.new(Gio.File.new_for_path(str(self._path)))

    def _deployments(self) -> list[Any]:
        sysroot = self._open()
        sysroot.load(None)
        return list(sysroot.get_deployments())
