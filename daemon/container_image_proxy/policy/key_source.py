"""Where a policy's keys and certificates come from: files that it names, or bytes that it carries itself."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import UNSET, Struct

from container_image_proxy.config.trusted_file import load_trusted_file
from container_image_proxy.errors import MalformedDocumentError, SignatureRejectedError
from container_image_proxy.image.documents import Base64

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_KEY_FILE_SIZE: Final = 4 << 20
"""Bytes of a file, which is held in memory: a key ring of 5,000 OpenPGP keys has half of this."""


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


def find_source(written: Struct, *members: str) -> KeySource | None:
    """The source that a part of a policy has under at most one of these members; None if under none.

    Files are texts there, and bytes of its own :class:`Base64`; a list of either is allowed where it is declared.
    """
    given = {member: value for member in members if (value := getattr(written, member)) is not UNSET}
    if len(given) > 1:
        raise MalformedDocumentError(f"only one of {', '.join(_keys_of(written, given))} can be used")
    for value in given.values():
        values = value if isinstance(value, tuple) else (value,)
        is_data = any(isinstance(one, Base64) for one in values)
        return KeySource(datas=values) if is_data else KeySource(paths=values)
    return None


def require_source(written: Struct, *members: str) -> KeySource:
    """The same, but one must be there."""
    source = find_source(written, *members)
    if source is None:
        raise MalformedDocumentError(f"exactly one of {', '.join(_keys_of(written, members))} must be given")
    return source


def _keys_of(written: Struct, members: Iterable[str]) -> tuple[str, ...]:
    keys = dict(zip(written.__struct_fields__, written.__struct_encode_fields__, strict=True))
    return tuple(keys[member] for member in members)


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
