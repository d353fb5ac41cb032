"""Runs gpg, each time in a home directory of its own: no options file, no agent, no network (contrib/adr/0019).

A home directory that outlives its run would have to be checked before each use: a program that cleans up temporary
files may have removed it, and another user may have put a different one in its place. This module decides where home
directories are, ends gpg when the budget ends, and removes the directories that a killed daemon left. It knows nothing
about signatures.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import signal
import stat
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.errors import ConfigurationError, SignatureRejectedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from container_image_proxy.policy.budget import Budget

_log = logging.getLogger(__name__)
_PREFIX: Final = "container-image-proxy-gpg-"
PROGRAM: Final = "gpg"
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
"""PATH of gpg and of what it starts, whatever the environment of the daemon says."""
_TEMPORARY: Final = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - a directory of our own is made there
_BASE_SPACE: Final = 64 << 10
"""Bytes of disk for the files that gpg makes in each home directory, such as its trust database."""
# gpg is given its home as the current directory: it derives paths of sockets from the home's path, and fails if one has
# more than the 107 characters of a Unix socket's address.
_HERE: Final = "/proc/self/cwd"
# No options of a user's, no agent, no network. The policy names the keys that count, so gpg's own trust in keys does
# not matter. Nobody else uses the home directory, so that locks in it would only take time.
_COMMAND: Final = (
    *("gpg", "--homedir", _HERE, "--no-options", "--batch", "--no-tty", "--quiet"),
    *("--no-autostart", "--disable-dirmngr", "--lock-never", "--no-auto-check-trustdb", "--trust-model", "always"),
)


class Job(Struct, frozen=True):
    """One run of gpg: its arguments, its standard input and the ``files`` in its home directory.

    ``result`` names a file that gpg makes there. ``most_status`` is the most bytes of status lines that it may write.
    """

    arguments: tuple[str, ...]
    files: Mapping[str, bytes]
    most_status: int
    stdin: bytes = b""
    result: str = ""

    @property
    def space(self) -> int:
        """Bytes of disk to require before the run."""
        # A key box is larger than its keys, and gpg has two copies of it on disk while it writes: four times the keys
        # are enough.
        return _BASE_SPACE + (1 + 4 * bool(self.result)) * sum(map(len, self.files.values()))


class Run(Struct, frozen=True):
    """How gpg ended: exit code, standard output, status lines as (keyword, rest), and the result ("" if none)."""

    returncode: int
    output: bytes
    status: tuple[tuple[str, str], ...]
    result: bytes


class Gpg(Struct, frozen=True):
    """The program. Its home directories are made in the first of ``places`` that is safe and has space.

    The directories for temporary files are the last resort.
    """

    places: tuple[Path, ...] = ()

    def run(self, job: Job, budget: Budget) -> Run:
        """Run gpg to its end, or kill it when the budget ends.

        :class:`SignatureRejectedError` if gpg cannot be run, :class:`ConfigurationError` if it is not installed, and
        the errors of :meth:`Budget.check`.
        """
        try:
            # Files in memory instead of pipes: nobody has to write and read them while gpg runs.
            with self._make_home(job.space) as home, _memory_file() as stdin, _memory_file() as status:
                for name, content in job.files.items():
                    (home / name).write_bytes(content)
                stdin.write(job.stdin)
                stdin.seek(0)
                command = (*_COMMAND, "--status-fd", str(status.fileno()), *job.arguments)
                returncode, output = _run(command, home, stdin, status, budget)
                # From the beginning: the file has one position, which gpg's writing has moved.
                said = os.pread(status.fileno(), job.most_status + 1, 0)
                if len(said) > job.most_status:
                    raise SignatureRejectedError("it makes gpg say more than a signature is worth")
                result = (home / job.result).read_bytes() if job.result and (home / job.result).exists() else b""
                return Run(returncode, output, _parse_status(said), result)
        except OSError as error:
            raise SignatureRejectedError(f"gpg cannot be run: {_reason(error)}") from error

    def remove_leftovers(self) -> None:
        """Remove the home directories that killed daemons of this user left. Those in use are locked."""
        with contextlib.suppress(OSError):
            for path in (path for place in self._every_place() for path in place.glob(f"{_PREFIX}*")):
                _remove_abandoned(path)

    def _every_place(self) -> Iterable[Path]:
        return dict.fromkeys((*self.places, *_TEMPORARY))  # each once: TMPDIR may name one of the last

    @contextlib.contextmanager
    def _make_home(self, space: int) -> Iterator[Path]:
        """A block that has a new directory, which no other user can read or write, in the first place that will do.

        ``OSError`` if there is no such place.
        """
        import shutil  # noqa: PLC0415 - the first answer must not wait for it where no signature is OpenPGP

        objections = []
        for place in self._every_place():
            try:
                _verify_safe(place)
                _verify_space(place, space)
                path, lock = _make_locked_directory(place)
                break
            except OSError as error:
                _log.warning("%s cannot hold gpg's home directory: %s", place, _reason(error))
                objections.append(f"{place}: {_reason(error)}")
        else:
            raise OSError(f"there is no place for its home directory ({'; '.join(objections)})")
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _verify_safe(place: Path) -> None:
    """Raise ``PermissionError`` if another user could replace a directory that we make in ``place``."""
    status = place.stat()  # of a symbolic link's target, for that is where the directory will be
    is_others = status.st_uid not in {0, os.geteuid()}
    is_open = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
    if is_others or is_open:
        raise PermissionError(0, "other users can write there")


def _verify_space(place: Path, space: int) -> None:
    """Raise ``OSError`` (ENOSPC) unless ``place`` has room for so many bytes.

    Without this check, gpg on a full disk reports the keys as malformed, and the cause would not be found.
    """
    status = os.statvfs(place)
    if status.f_blocks and status.f_bavail * status.f_frsize < space:  # f_blocks is 0 on file systems without a size
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _make_locked_directory(place: Path) -> tuple[Path, int]:
    """A new directory in ``place``, and the descriptor that holds its lock."""
    import tempfile  # noqa: PLC0415 - as shutil

    # Another process that removes leftovers may take the new directory for one before it is locked: then try again.
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
    """Remove a home directory that belongs to this user and that no process has locked."""
    with contextlib.suppress(OSError):
        lock = _open_directory(path)
        try:
            if os.fstat(lock).st_uid == os.geteuid() and _is_locked_and_there(lock, path):
                import shutil  # noqa: PLC0415 - rare

                shutil.rmtree(path)
                _log.info("removed %s, which a daemon that was killed had left", path)
        finally:
            os.close(lock)


def _memory_file() -> FileIO:
    return FileIO(os.memfd_create("gpg"), "r+")


def _run(command: tuple[str, ...], home: Path, stdin: FileIO, status: FileIO, budget: Budget) -> tuple[int, bytes]:
    """Exit code and standard output of the command. When the budget ends, it is killed with all that it started."""
    import subprocess  # noqa: PLC0415 - as shutil

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
            start_new_session=True,  # a process group of its own, so that killpg below reaches its children as well
        )
    except FileNotFoundError as error:
        if error.filename != command[0]:  # cwd is missing, not gpg
            raise
        reason = "is not installed, so OpenPGP signatures cannot be checked"
        raise ConfigurationError(PROGRAM, reason, remedy="install gpg, of GnuPG 2.2 or later") from error
    with process:
        try:
            while True:
                try:
                    output = process.communicate(timeout=budget.patience)[0]
                except subprocess.TimeoutExpired:  # nothing is lost: the next call continues where this one stopped
                    budget.check()
                else:
                    return process.returncode, output
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise


def _parse_status(raw: bytes) -> tuple[tuple[str, str], ...]:
    """The lines of gpg's status descriptor as (keyword, rest); format: GnuPG doc/DETAILS."""
    # "\n" alone ends a line: splitlines() also knows characters that the file name in a message may have, which could
    # then begin a line of its own (CVE-2018-12020, of gpg itself).
    lines = (line.removeprefix("[GNUPG:] ") for line in raw.decode("utf-8", "replace").split("\n"))
    return tuple((keyword, rest) for keyword, _, rest in (line.partition(" ") for line in lines) if keyword)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
