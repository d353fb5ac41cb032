"""What is written has its name only when it is whole: until then it has a temporary one beside it.

A directory is locked while it is made, and what an interrupted run left is removed by the next. It must know nothing
of images. Spec: rename(2), flock(2), renameat2(2), syncfs(2).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, Self

from container_image_client.directories import remove
from container_image_client.errors import DestinationError

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_EXCHANGE: Final = 2  # RENAME_EXCHANGE of linux/fs.h
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class NewDirectory:
    """A directory that gets its name by ``commit``, and is removed without. A context manager.

    In place of an empty directory, and with ``replace`` of any: then the old one is removed when the new one is there.
    With ``sync`` the content is on the disk before the name.
    """

    def __init__(self, path: str | os.PathLike[str], *, replace: bool = False, sync: bool = False) -> None:
        self._path = _resolved(Path(path))
        self._replace = replace
        self._sync = sync
        self._temporary = f".{self._path.name}.cip"
        self._parent = -1
        self.descriptor = -1

    def __enter__(self) -> Self:
        try:
            self._parent = os.open(self._path.parent, _DIRECTORY)
            self._refuse_what_is_there()
            self._make()
        except OSError as error:
            self._close()
            raise DestinationError(f"{self._path} cannot be made: {error.strerror}: {error.filename}") from error
        except BaseException:
            self._close()
            raise
        return self

    @property
    def path(self) -> Path:
        """Where it is until it has its name."""
        return self._path.with_name(self._temporary)

    def __exit__(self, *_: object) -> None:
        try:
            if self._is_there():  # so it was not committed
                remove(self._parent, os.fsencode(self._temporary))
        finally:
            self._close()

    def commit(self) -> None:
        """Give the directory its name."""
        try:
            if self._sync:
                _sync_file_system(self.descriptor)
            if not self._is_there():
                raise DestinationError(f"somebody removed the directory in which {self._path} was made")
            if self._replace and self._path.is_dir():
                _exchange(self._parent, self._temporary, self._path.name)
                self._remove_what_was_there()
            else:
                os.rename(self._temporary, self._path.name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
            if self._sync:
                os.fsync(self._parent)
        except OSError as error:
            raise DestinationError(
                f"{self._path} cannot be put in place: {error.strerror}", remedy="remove it first"
            ) from error

    def _remove_what_was_there(self) -> None:
        """What the exchange has left under the temporary name; files in it may belong to somebody else."""
        try:
            remove(self._parent, os.fsencode(self._temporary))
        except OSError as error:
            raise DestinationError(
                f"{self._path} is in place, but what was there before cannot be removed: {error.strerror}",
                remedy=f"remove {self.path} as who owns the files in it",
            ) from error

    def _refuse_what_is_there(self) -> None:
        try:
            status = os.stat(self._path.name, dir_fd=self._parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(status.st_mode):
            raise DestinationError(f"{self._path} is there, and is no directory")
        if status.st_dev != os.fstat(self._parent).st_dev:
            remedy = f"name a directory in it: {self._path}/rootfs"
            raise DestinationError(f"{self._path} is a mount point, which cannot be put in place whole", remedy=remedy)
        if not self._replace and any(os.scandir(self._path)):
            remedy = "name another one, or have it replaced: --replace"
            raise DestinationError(f"{self._path} is not empty", remedy=remedy)

    def _make(self) -> None:
        try:
            os.mkdir(self._temporary, 0o700, dir_fd=self._parent)
        except FileExistsError:
            self._remove_leftover()
            os.mkdir(self._temporary, 0o700, dir_fd=self._parent)
        self.descriptor = self._open_and_lock()
        if not self._is_there():  # another run took it for left over, before the lock
            raise DestinationError(f"another cip is making {self._path} at this moment")

    def _remove_leftover(self) -> None:
        """What a run that was killed could not remove; nobody else's directory, and none that is at work."""
        descriptor = self._open_and_lock()
        try:
            if os.fstat(descriptor).st_uid != os.geteuid():
                raise DestinationError(f"{self._path.parent / self._temporary} is there and belongs to somebody else")
            remove(self._parent, os.fsencode(self._temporary))
        finally:
            os.close(descriptor)

    def _open_and_lock(self) -> int:
        descriptor = os.open(self._temporary, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._parent)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            remedy = "wait for it, or end it"
            raise DestinationError(f"another cip is making {self._path} at this moment", remedy=remedy) from None
        return descriptor

    def _is_there(self) -> bool:
        """Whether the temporary name still leads to the directory that is open."""
        if self.descriptor < 0:
            return False
        with suppress(FileNotFoundError):
            found = os.stat(self._temporary, dir_fd=self._parent, follow_symlinks=False)
            return os.path.samestat(found, os.fstat(self.descriptor))
        return False

    def _close(self) -> None:
        for descriptor in (self.descriptor, self._parent):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self._parent = -1


class NewFile:
    """A file that gets its name by ``commit``, and is removed without. A context manager.

    In place of a file of that name. A device or FIFO is written to as it is. With ``sync`` the content is on the disk
    before the name, and both are when it is done.
    """

    def __init__(self, path: str | os.PathLike[str], *, sync: bool = False) -> None:
        self._sync = sync
        self._path = _resolved(Path(path))
        self._temporary: Path | None = None
        self.file: BinaryIO

    def __enter__(self) -> Self:
        try:
            if self._path.exists() and not self._path.is_file():
                self.file = self._path.open("wb")
                return self
            self._temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}.cip")
            self.file = self._temporary.open("xb")
        except OSError as error:
            raise DestinationError(f"{self._path} cannot be written: {error.strerror}") from error
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.file.close()
        finally:  # it may not be able to write what is left
            if self._temporary:
                self._temporary.unlink(missing_ok=True)

    def commit(self) -> None:
        """Give the file its name."""
        self.file.flush()
        if self._temporary:
            if self._sync:
                os.fsync(self.file.fileno())
            self._temporary.rename(self._path)
            self._temporary = None
            if self._sync:
                sync_directory(self._path.parent)


def write_file(path: Path, content: bytes, *, sync: bool) -> None:
    """A whole file of this content."""
    with NewFile(path, sync=sync) as new:
        new.file.write(content)
        new.commit()


def sync_directory(path: Path) -> None:
    """Have a directory's names on the disk. One that this user may not list cannot be waited for."""
    try:
        descriptor = os.open(path, _DIRECTORY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, view: memoryview) -> None:
    """Write all of it, which one write(2) need not do."""
    while view:
        view = view[os.write(descriptor, view) :]


def _resolved(path: Path) -> Path:
    """The path with its links followed by the kernel.

    Where all may write, as in /tmp, the kernel follows no link that another user has planted (proc_sys_fs(5),
    protected_symlinks). Links that are read and followed here would not be judged by it.
    """
    try:
        try:
            return _opened(path)
        except FileNotFoundError:
            if path.is_symlink():
                raise DestinationError(f"{path} is a link that leads nowhere", remedy="name another one") from None
            return _opened(path.parent) / path.name
    except OSError as error:
        raise DestinationError(f"{path} cannot be reached: {error.strerror}") from error


def _opened(path: Path) -> Path:
    """Where an existing path leads; the path itself if that is neither a file nor a directory, and may have no name."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        has_name = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
        return Path(f"/proc/self/fd/{descriptor}").readlink() if has_name else path
    finally:
        os.close(descriptor)


def _sync_file_system(descriptor: int) -> None:
    """One call for all files of a tree: each of 30,000 by itself would take minutes. Python has no name for it."""
    if _LIBC.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _exchange(directory: int, one: str, other: str) -> None:
    """Let two names of a directory swap what they lead to, in one step. Python has no name for it."""
    if _LIBC.renameat2(directory, os.fsencode(one), directory, os.fsencode(other), _EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
