"""Programs of this host as files of an image: each with the libraries and the loader that it needs."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

_DIRECTORIES = ("dev", "home", "proc", "root", "run", "sys", "tmp", "var", "var/tmp")
_LIBRARY = re.compile(r"(/\S+) \(0x")


def root_tar(*programs: str, scripts: Mapping[str, str] = {}, files: Mapping[str, str] = {}) -> bytes:
    """A layer with these programs in /bin, and the directories that every base image has.

    ``scripts`` and ``files`` are by their paths, and only scripts can be run.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory in _DIRECTORIES:
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for program in programs:
            found = shutil.which(program)
            assert found, f"{program} is not installed"
            _add(tar, f"bin/{program}", Path(found).read_bytes(), 0o755)
        for library in sorted({one for program in programs for one in _libraries(program)}):
            _add(tar, library.lstrip("/"), Path(library).read_bytes(), 0o755)
        for mode, texts in ((0o755, scripts), (0o644, files)):
            for path, text in texts.items():
                _add(tar, path, text.encode(), mode)
    return buffer.getvalue()


def _libraries(program: str) -> list[str]:
    listed = subprocess.run(["ldd", str(shutil.which(program))], capture_output=True, text=True, check=True)
    return _LIBRARY.findall(listed.stdout)


def _add(tar: tarfile.TarFile, path: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
