"""Where the keys and certificates of a policy come from: files that it names, or bytes inside it."""

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
"""Bytes of a key file, which is held in memory. A key ring of 5,000 OpenPGP keys has half of this."""


class KeySource(Struct, frozen=True):
    """Files of keys, or the keys themselves; never both. An empty source is legal, but no signature can satisfy it."""

    paths: tuple[str, ...] = ()
    datas: tuple[bytes, ...] = ()

    def __str__(self) -> str:
        return ", ".join(self.paths) or ("the policy's own key data" if self.datas else "the policy's list of keys")

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """A block whose :class:`SignatureRejectedError` is raised with the name of this source in front."""
        try:
            yield
        except SignatureRejectedError as error:
            raise SignatureRejectedError(f"{self}: {error}") from error


def find_source(written: Struct, *members: str) -> KeySource | None:
    """The source that ``written`` has in one of these members; None if all are unset.

    A member holds a path (text) or a key (:class:`Base64`), or a tuple of them. :class:`MalformedDocumentError` if more
    than one member is set.
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
    """As :func:`find_source`; :class:`MalformedDocumentError` also if no member is set."""
    source = find_source(written, *members)
    if source is None:
        raise MalformedDocumentError(f"exactly one of {', '.join(_keys_of(written, members))} must be given")
    return source


def _keys_of(written: Struct, members: Iterable[str]) -> tuple[str, ...]:
    """The names of these members in the document (``keyPath``), not in Python (``key_path``)."""
    keys = dict(zip(written.__struct_fields__, written.__struct_encode_fields__, strict=True))
    return tuple(keys[member] for member in members)


def load_keys(source: KeySource) -> tuple[bytes, ...]:
    """The content of every key of the source.

    Files are read at each call, so that a replaced key counts for the next image that is evaluated. An image that was
    evaluated before keeps its verdict until a reload. :class:`ConfigurationError` for a file that is missing, too
    large, or writable by other users; :class:`SignatureRejectedError` for an empty source.
    """
    if not source.paths and not source.datas:
        raise SignatureRejectedError("it is empty")
    # Whoever can write a key file decides which images are trusted, as by writing policy.json itself.
    files = (
        load_trusted_file(Path(path), limit=MAX_KEY_FILE_SIZE, refuse_writable_by_others=True) for path in source.paths
    )
    return (*files, *source.datas)
