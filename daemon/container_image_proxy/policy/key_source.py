"""Where a policy's keys and certificates come from: files that it names, or bytes that it carries itself."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.config.trusted_file import load_trusted_file
from container_image_proxy.errors import SignatureRejectedError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_KEY_FILE_SIZE: Final = 4 << 20


class KeySource(Struct, frozen=True):
    """Files, or bytes as they are; one of the two is empty, or both, and then nothing can ever be signed by it."""

    paths: tuple[str, ...] = ()
    datas: tuple[bytes, ...] = ()

    def __str__(self) -> str:
        return ", ".join(self.paths) or ("the policy's own key data" if self.datas else "the policy's list of keys")

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Put the source before what a :class:`SignatureRejectedError` says of its content."""
        try:
            yield
        except SignatureRejectedError as error:
            raise SignatureRejectedError(f"{self}: {error}") from error


def load_keys(source: KeySource) -> tuple[bytes, ...]:
    """The content of every file, read anew, so that a replaced key counts for the next image that is judged; or the
    bytes of the policy itself. What was judged before is not judged again: that takes a reload.

    A file that is missing, too large, or that others could have written is a :class:`ConfigurationError`, a source of
    nothing a :class:`SignatureRejectedError`.
    """
    if not source.paths and not source.datas:
        raise SignatureRejectedError("it is empty")
    files = (
        load_trusted_file(Path(path), limit=MAX_KEY_FILE_SIZE, refuse_writable_by_others=True) for path in source.paths
    )
    return (*files, *source.datas)
