"""The environment of the tests and of what they start: the same on every machine and for every user.

Daemons, curl, gpg and skopeo inherit what pytest has, and much of it would change their answers: a proxy, another
configuration folder, a locale, how Python buffers and warns. So little is kept, and what a test needs beyond that it
sets itself.
"""

from __future__ import annotations

import os
import resource
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path

# CI decides whether a skip fails; the tables of tests/conformance may be anywhere; pytest has notes of its own.
_KEPT = ("CI", "CONFORMANCE_DIR")
_KEPT_PREFIX = "PYTEST_"
# Debian gives an ordinary user no sbin, where nginx is.
_PATH = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin")
_DESCRIPTORS = 4096  # a thousand clients and their connections; an ordinary session allows 1024


def own_environment(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """What is left of an environment for the tests."""
    kept = {name: value for name, value in environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIX)}
    path = environ.get("PATH", "").split(os.pathsep)
    directories = [*filter(None, path), *(directory for directory in _PATH if directory not in path)]
    return {**kept, "PATH": os.pathsep.join(directories), "HOME": str(home), "LANG": "C.UTF-8"}


_set_up: dict[str, str] = {}


def _is_for_set_up(name: str) -> bool:
    return name.lower().endswith("_proxy") or name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "SSL_CERT_FILE")


def set_up_variables() -> dict[str, str]:
    """The variables with which apt and pip reach the network from here, for tests that run them."""
    return dict(_set_up)


def isolate(home: Path) -> None:
    """Give this process that environment, the usual umask and signals, enough descriptors, and /tmp for its files."""
    clean = own_environment(os.environ, home)
    _set_up.update((name, value) for name, value in os.environ.items() if _is_for_set_up(name))
    os.environ.clear()
    for unknown_to_python in ("LINES", "COLUMNS"):  # readline sets them behind the back of os.environ
        os.unsetenv(unknown_to_python)
    os.environ.update(clean)
    os.umask(0o022)
    _heed_signals()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_DESCRIPTORS, hard), hard))
    tempfile.tempdir = None  # it may be remembered from a TMPDIR that has just gone


def _heed_signals() -> None:
    """Undo what nohup, or a shell that starts a command in the background, hands down: ignored signals stay ignored."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # Python's own, which children do not get
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
