"""Credential helpers: the external programs ``docker-credential-NAME`` that keep credentials elsewhere.

A helper gets ``get`` as its argument and the registry on standard input, and answers in JSON on standard output. It
runs without a shell, in a session of its own, with a small environment. It is killed when it takes too long or writes
too much.
Must not decide when a helper is asked. Spec: the protocol of docker/docker-credential-helpers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import selectors
import signal
from typing import TYPE_CHECKING, Final

from container_image_proxy.concurrency.cancellation import SLICE
from container_image_proxy.errors import ConfigurationError, InvalidReferenceError, blamed_on, shown
from container_image_proxy.image import docker_hub
from container_image_proxy.image.confidential import Confidential
from container_image_proxy.image.documents import convert, fold_keys
from container_image_proxy.image.reference import is_domain
from container_image_proxy.image.strict_json import parse_json

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping

    from container_image_proxy.concurrency.context import Context

_log = logging.getLogger(__name__)
MAX_OUTPUT: Final = 64 << 10
"""Bytes that a helper may write: an identity token of 16 KiB is a long one."""
TIMEOUT: Final = 10.0
"""Seconds: helpers of clouds ask a service of theirs, while a client waits."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NOT_FOUND: Final = b"credentials not found in native keychain"  # the protocol's own words for "none"
_MAX_SERVER: Final = 255
"""Characters of a name in the DNS (RFC 1035), which is written to the helper at once."""
_IDENTITY_TOKEN_USER: Final = "<token>"  # noqa: S105 - the protocol's user name for a secret that is a token
_DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
# Of the environment: what helpers need to find their user, agent and cloud. Not what systemd told this daemon alone.
_KEPT: Final = frozenset({"PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "TZ", "GNUPGHOME", "PASSWORD_STORE_DIR"})
_KEPT_PREFIXES: Final = ("LC_", "XDG_", "DBUS_SESSION_", "AWS_", "AZURE_", "GOOGLE_", "CLOUDSDK_")
_KEPT_SUFFIX: Final = "_proxy"


class _Answer(Confidential, frozen=True, rename="pascal"):
    username: str = ""
    secret: str = ""


class HelperAnswer(Confidential, frozen=True):
    """What a helper said: user and password, or an ``identity_token`` and neither."""

    username: str = ""
    password: str = ""
    identity_token: str = ""


class CredentialHelpers(Confidential, frozen=True):
    """The helpers in the ``PATH`` of ``environ``; each answer may take ``timeout`` seconds. ``repr`` shows nothing."""

    environ: Mapping[str, str]
    timeout: float = TIMEOUT

    def find(self, name: str) -> str | None:
        """The absolute path of ``docker-credential-NAME``; None if it is not installed.

        Raises :class:`ConfigurationError` if no helper can have the name.
        """
        import shutil  # noqa: PLC0415 - a client's first answer does not wait for it unless a helper is asked

        # The name is in auth.json, and becomes part of a path.
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"docker-credential-{shown(name)}",
                "not the name of a credential helper",
                remedy="letters, digits, . _ -",
            )
        # A relative directory would depend on where the daemon was started.
        directories = self.environ.get("PATH", _DEFAULT_PATH).split(os.pathsep)
        path = os.pathsep.join(directory for directory in directories if directory.startswith("/"))
        return shutil.which(f"docker-credential-{name}", path=path)

    def get(self, context: Context, name: str, server: str) -> HelperAnswer | None:
        """Ask NAME for the credentials of ``server``, ``host[:port]`` or Docker Hub's URL; None if it has none.

        Raises :class:`ConfigurationError` if the helper is not installed, fails, or does not answer within the bounds,
        :class:`InvalidReferenceError` for any other ``server``.
        """
        if len(server) > _MAX_SERVER or not (is_domain(server) or server == docker_hub.SERVER_URL):
            raise InvalidReferenceError(f"{server[:_MAX_SERVER]!r} is not the host[:port] of a registry")
        program = self.find(name)
        if program is None:
            raise ConfigurationError(
                f"docker-credential-{name}", "not found in PATH", remedy="install it or remove its entry"
            )
        _log.debug("asking %s for the credentials of %s", program, server)
        output = self._run(context, program, server)
        if output is None:
            return None
        with blamed_on(program):
            answer = convert(fold_keys(parse_json(output, "its answer"), _Answer), _Answer)
        if answer.username == _IDENTITY_TOKEN_USER:
            return HelperAnswer(identity_token=answer.secret)
        return HelperAnswer(answer.username, answer.secret) if answer.username or answer.secret else None

    def _run(self, context: Context, program: str, server: str) -> bytes | None:
        """What the helper wrote; None if it says that it has nothing."""
        context = context.within(self.timeout)
        with _start(program, self.environ) as process:
            try:
                output = _converse(process, server, context)
                status = _wait(process, context)
            except BaseException as error:
                # A client that leaves ends up here, too. The helper's own children are in its session.
                os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, TimeoutError):
                    raise ConfigurationError(program, f"gave no answer within {self.timeout:g} s") from None
                if isinstance(error, OverflowError):
                    raise ConfigurationError(program, f"answered with more than {MAX_OUTPUT} bytes") from None
                raise
        if status == 0:
            return output
        if output.strip() == _NOT_FOUND:
            return None
        raise ConfigurationError(program, f"failed with status {status}", remedy=f"try: echo {server} | {program} get")


def _start(program: str, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    import subprocess  # noqa: PLC0415 - as shutil

    kept = {
        name: value
        for name, value in environ.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIXES) or name.lower().endswith(_KEPT_SUFFIX)
    }
    try:
        return subprocess.Popen(  # noqa: S603 - an absolute path and a constant, no shell
            [program, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what it writes there may hold secrets, and the log is no place for them
            env={"PATH": _DEFAULT_PATH} | kept,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigurationError(program, f"cannot be run: {error.strerror}") from error


def _converse(process: subprocess.Popen[bytes], server: str, context: Context) -> bytes:
    """Send the question and read the answer to its end. Raises ``OverflowError`` for an answer that is too long."""
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - both are pipes: for mypy
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # it may answer without having read
        pipe.write(server.encode())
    output = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(output) <= MAX_OUTPUT:
            while not selector.select(max(0.0, min(context.deadline.left, SLICE))):
                context.check()
            chunk = os.read(process.stdout.fileno(), MAX_OUTPUT)
            if not chunk:
                return bytes(output)
            output += chunk
    raise OverflowError


def _wait(process: subprocess.Popen[bytes], context: Context) -> int:
    """The status with which it ended. Waits in slices, so that a client that leaves ends the wait."""
    from subprocess import TimeoutExpired  # noqa: PLC0415 - as shutil

    while True:
        try:
            return process.wait(max(0.0, min(context.deadline.left, SLICE)))
        except TimeoutExpired:
            context.check()
