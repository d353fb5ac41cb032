"""gpg as a process, in a home directory that is made for this one run: no options file, no agent, no network.

A home that lives longer than the run would have to be trusted anew each time: whatever cleans up old files may have
removed it, and somebody else may have put another one in its place. Owns where homes lie, how a run ends, and the
removal of what a daemon that was killed left. Knows nothing of signatures.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import signal
import stat
import tempfile
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.errors import ConfigurationError, SignatureRejectedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from container_image_proxy.policy.budget import Budget

_log = logging.getLogger(__name__)
_PREFIX: Final = "container-image-proxy-gpg-"
PROGRAM: Final = "gpg"
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_LITTLE: Final = 64 << 10
"""Bytes of disk that gpg takes for what it makes in each home, its trust database for one."""
_HERE: Final = "/proc/self/cwd"  # gpg fails where the path of an agent's socket would have more than 107 characters
_COMMAND: Final = (
    *("gpg", "--homedir", _HERE, "--no-options", "--batch", "--no-tty", "--quiet"),
    *("--no-autostart", "--disable-dirmngr", "--lock-never", "--no-auto-check-trustdb", "--trust-model", "always"),
)


class Job(Struct, frozen=True):
    """What to run gpg for: ``files`` lie in its home, ``result`` names a file that it makes there, and on its status
    descriptor it may say ``most_status`` bytes.
    """

    arguments: tuple[str, ...]
    files: Mapping[str, bytes]
    most_status: int
    stdin: bytes = b""
    result: str = ""

    @property
    def space(self) -> int:
        """Bytes of disk that it takes, generously: gpg keeps a key box twice while it writes it, and larger than the
        keys.
        """
        return _LITTLE + (1 + 4 * bool(self.result)) * sum(map(len, self.files.values()))


class Run(Struct, frozen=True):
    """How gpg ended: what it wrote, its status lines as (keyword, rest), and the result, empty if it made none."""

    returncode: int
    output: bytes
    status: tuple[tuple[str, str], ...]
    result: bytes


class Gpg(Struct, frozen=True):
    """The program. ``places`` are directories for its homes, the first of which that is safe is used; behind them comes
    the directory for temporary files.
    """

    places: tuple[Path, ...] = ()

    def run(self, job: Job, budget: Budget) -> Run:
        """Do the job; when the budget ends, so does the process.

        :class:`SignatureRejectedError` if gpg cannot be run, :class:`ConfigurationError` if it is not installed.
        """
        try:
            with self._make_home(job.space) as home, _memory_file() as stdin, _memory_file() as status:
                for name, content in job.files.items():
                    (home / name).write_bytes(content)
                stdin.write(job.stdin)
                stdin.seek(0)
                command = (*_COMMAND, "--status-fd", str(status.fileno()), *job.arguments)
                returncode, output = _run(command, home, stdin, status, budget)
                said = os.pread(status.fileno(), job.most_status + 1, 0)
                if len(said) > job.most_status:
                    raise SignatureRejectedError("it makes gpg say more than a signature is worth")
                result = (home / job.result).read_bytes() if job.result and (home / job.result).exists() else b""
                return Run(returncode, output, _parse_status(said), result)
        except OSError as error:
            raise SignatureRejectedError(f"gpg cannot be run: {_reason(error)}") from error

    def remove_leftovers(self) -> None:
        """Remove the homes of processes of this user that are no more; those in use are locked."""
        with contextlib.suppress(OSError):
            for place in self._candidates():
                for path in place.glob(f"{_PREFIX}*"):
                    _remove_abandoned(path)

    def _candidates(self) -> tuple[Path, ...]:
        return (*self.places, Path(tempfile.gettempdir()))

    @contextlib.contextmanager
    def _make_home(self, space: int) -> Iterator[Path]:
        """A new directory that nobody else can read or write, gone afterwards."""
        path, lock = self._make_locked_directory(space)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)

    def _make_locked_directory(self, space: int) -> tuple[Path, int]:
        objections = []
        for place in self._candidates():
            try:
                _verify_safe(place)
                _verify_space(place, space)
                return _make_locked_directory(place)
            except OSError as error:
                _log.warning("%s cannot hold gpg's home directory: %s", place, _reason(error))
                objections.append(f"{place}: {_reason(error)}")
        raise OSError(f"there is no place for its home directory ({'; '.join(objections)})")


def _verify_safe(place: Path) -> None:
    """Raise ``PermissionError`` if somebody else could replace what we make in there."""
    status = place.stat()  # follows a link: what counts is where it leads
    is_others = status.st_uid not in {0, os.geteuid()}
    is_open = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
    if is_others or is_open:
        raise PermissionError(0, "other users can write there")


def _verify_space(place: Path, space: int) -> None:
    """Raise ``ENOSPC`` unless there is room for so many bytes: of a full disk, gpg says that the keys are none."""
    status = os.statvfs(place)
    if status.f_blocks and status.f_bavail * status.f_frsize < space:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _make_locked_directory(place: Path) -> tuple[Path, int]:
    """The directory, and a descriptor that holds its lock; who looks for leftovers may have come in between."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        try:
            lock = _open_directory(path)
        except FileNotFoundError:
            continue
        if _is_locked_and_there(lock, path):
            return path, lock
        os.close(lock)


def _is_locked_and_there(lock: int, path: Path) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock), path.lstat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _remove_abandoned(path: Path) -> None:
    """Remove a home that is ours and that nobody has locked."""
    with contextlib.suppress(OSError):
        lock = _open_directory(path)
        try:
            if os.fstat(lock).st_uid == os.geteuid() and _is_locked_and_there(lock, path):
                shutil.rmtree(path)
                _log.info("removed %s, which a daemon that was killed had left", path)
        finally:
            os.close(lock)


def _memory_file() -> FileIO:
    return FileIO(os.memfd_create("gpg"), "r+")


def _run(command: tuple[str, ...], home: Path, stdin: FileIO, status: FileIO, budget: Budget) -> tuple[int, bytes]:
    """Exit status and output of the command, which is killed with all that it started when the budget ends."""
    import subprocess  # noqa: PLC0415 - a client's first answer does not wait for it unless a signature is OpenPGP's

    def read_output() -> bytes:
        while True:
            try:
                return process.communicate(timeout=budget.patience)[0]
            except subprocess.TimeoutExpired:  # nothing is lost: the next call goes on where this one was
                budget.check()

    budget.check()
    try:
        process = subprocess.Popen(  # noqa: S603 - fixed arguments, our own paths
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(status.fileno(),),
            env={"PATH": _PATH, "LC_ALL": "C", "GNUPGHOME": _HERE},
            cwd=home,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        if error.filename != command[0]:
            raise
        reason = "is not installed, so OpenPGP signatures cannot be checked"
        raise ConfigurationError(PROGRAM, reason, remedy="install gpg, of GnuPG 2.2 or later") from error
    with process:
        try:
            output = read_output()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output


def _parse_status(raw: bytes) -> tuple[tuple[str, str], ...]:
    lines = (line.removeprefix("[GNUPG:] ") for line in raw.decode("utf-8", "replace").split("\n"))
    return tuple((keyword, rest) for keyword, _, rest in (line.partition(" ") for line in lines) if keyword)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
