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
        """The commit that the next start boots."""
        commits = self._commits()
        return commits[0] if commits else None

    def deploy(self, ref: str, kernel_arguments: Sequence[str]) -> None:
        """Make the ref's commit the first deployment. The one before stays, and the one that is running.

        Kernel arguments are given to the first deployment; each later one has those of the one before.
        """
        arguments = [] if self._commits() else [f"--karg={argument}" for argument in kernel_arguments]
        subprocess.run(
            ["ostree", "admin", "deploy", f"--sysroot={self._path}", f"--os={self._os_name}", *arguments, ref],
            check=True,
        )

    def _open(self) -> Any:
        return OSTree.Sysroot.new(Gio.File.new_for_path(str(self._path)))

    def _commits(self) -> list[str]:
        sysroot = self._open()
        sysroot.load(None)
        return [one.get_csum() for one in sysroot.get_deployments() if one.get_osname() == self._os_name]
