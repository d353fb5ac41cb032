"""What a test may need and a machine may lack: root, programs that Debian packages, systemd-python.

A test that meets the lack is skipped, and its reason says what is missing and where it comes from. ``tests/run``
installs all of it, and with CI=true a skip is a failure.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

# Program -> Debian package.
_PACKAGES = {
    "buildah": "buildah",
    "crane": "crane",
    "curl": "curl",
    "docker-registry": "docker-registry",
    "dockerd": "docker.io",
    "fish": "fish",
    "gpg": "gnupg",
    "gpgconf": "gnupg",
    "groff": "groff",
    "htpasswd": "apache2-utils",
    "man": "man-db",
    "nginx": "nginx",
    "openssl": "openssl",
    "podman": "podman",
    "ostree": "ostree",
    "dpkg-deb": "dpkg",
    "mkfs.ext4": "e2fsprogs",
    "prlimit": "util-linux",
    "rpmbuild": "rpm",
    "setpriv": "util-linux",
    "shellcheck": "shellcheck",
    "skopeo": "skopeo",
    "socat": "socat",
    "systemd-analyze": "systemd",
    "systemd-socket-activate": "systemd",
    "tar": "tar",
    "umoci": "umoci",
    "wget": "wget",
    "zsh": "zsh",
    "zstd": "zstd",
}
_SYSTEMD = ("systemd", "systemd.daemon", "systemd.journal")
_CAP_SYS_ADMIN = 1 << 21  # capability.h

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it acts as another user or gives files away")


_mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
_root_is_overlay = any(fields[4] == "/" and fields[fields.index("-") + 1] == "overlay" for fields in _mounts)
needs_third_overlay = pytest.mark.skipif(
    _root_is_overlay,
    reason="needs a root file system that is no overlay: the machine is the second, and Linux stacks two",
)


def needs_programs(*names: str) -> pytest.MarkDecorator:
    """Mark tests that are skipped unless the machine has all these programs."""
    missing = next((name for name in names if shutil.which(name) is None), None)
    return pytest.mark.skipif(missing is not None, reason=_lack_of(missing) if missing else "")


def require_root(why: str) -> None:
    """Skip the test unless it runs as root."""
    if os.geteuid() != 0:
        pytest.skip(f"needs root: {why}")


def require_mounting(why: str) -> None:
    """Skip the test unless it may mount file systems, which root in a container without privileges may not."""
    require_root(why)
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    if not int(effective.split()[1], 16) & _CAP_SYS_ADMIN:
        pytest.skip(f"needs a root that may mount (CAP_SYS_ADMIN), as in a container started with --privileged: {why}")


def require_program(name: str) -> None:
    """Skip the test unless the machine has this program."""
    if shutil.which(name) is None:
        pytest.skip(_lack_of(name))


def require_introspection(namespace: str, version: str) -> None:
    """Skip the test unless Debian's Python has this library by GObject introspection."""
    code = f"import gi; gi.require_version({namespace!r}, {version!r})"
    if subprocess.run(["/usr/bin/python3", "-c", code], capture_output=True, check=False).returncode:
        package = f"gir1.2-{namespace.lower()}-{version}"
        pytest.skip(f"needs Debian's packages python3-gi and {package}: /usr/bin/python3 cannot load {namespace}")


def lack_behind(error: BaseException) -> str:
    """What the machine lacks if a test failed by that: a program that it could not start, or loopback; else nothing."""
    if not isinstance(error, OSError):
        return ""
    if error.errno == errno.ENOENT and error.filename in _PACKAGES and shutil.which(error.filename) is None:
        return _lack_of(error.filename)
    if error.errno == errno.ENETUNREACH and not _has_loopback():
        return "needs the loopback interface: it is down, as in a new network namespace"
    return ""


def _has_loopback() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(("127.0.0.1", 9)) == 0


def _lack_of(name: str) -> str:
    return f"needs Debian's package {_PACKAGES[name]}: {name} is not installed"


class SkipWithoutSystemd:
    """An import hook: what imports systemd-python, a module of tests or a test, is skipped where there is none."""

    @classmethod
    def install(cls) -> None:
        # Not "systemd" alone: that may be the folder of our units.
        try:
            found = importlib.util.find_spec("systemd.daemon")
        except ModuleNotFoundError:
            found = None
        if found is None:
            sys.meta_path.insert(0, cls())

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name in _SYSTEMD:
            pytest.skip("needs systemd-python: it is not installed (Debian's python3-systemd)", allow_module_level=True)
        return None
