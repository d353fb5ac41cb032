"""What people read: sizes, tables, why an image is trusted, files as ls(1) shows them. Pure."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from container_image_client import tar

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Mapping, Sequence

    from container_image_client.plan import Plan
    from container_image_client.tree import Entry

_KIBI: Final = 1024
_TYPES: Final = {
    tar.FILE: stat.S_IFREG,
    tar.HARD_LINK: stat.S_IFREG,
    tar.SYMLINK: stat.S_IFLNK,
    tar.DIRECTORY: stat.S_IFDIR,
    tar.FIFO: stat.S_IFIFO,
    tar.CHARACTER_DEVICE: stat.S_IFCHR,
    tar.BLOCK_DEVICE: stat.S_IFBLK,
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def size_in_words(size: int) -> str:
    """A size with one digit after the point, in binary units."""
    amount, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):  # noqa: B007 - the last one is meant
        if amount < _KIBI:
            break
        amount /= _KIBI
    return f"{size} B" if unit == "B" else f"{amount:.1f} {unit}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def verification_in_words(document: Mapping[str, Any], reference: str) -> Iterator[str]:
    """Why policy allowed the image: who signed it, and by which rule."""
    yield f"{reference} is {document.get('manifest_digest')}"
    yield f"{document.get('policy_file')} allows it; what decided is the scope {document.get('scope')}"
    for verdict in document.get("verdicts", ()):
        met = "met" if verdict.get("accepted") else "not met"
        yield f"  {verdict.get('requirement')} is {met}: {verdict.get('reason')}"
        if source := verdict.get("signature_source"):
            yield f"    the signature is from {source}"
    signers = document.get("signed_by") or ()
    if not signers:
        yield "nobody had to sign it"
    for signer in signers:
        what = "the index" if document.get("signed_digest") == document.get("index_digest") else "it"
        yield f"{what} is signed by {signer}"
    yield f"this was verified at {document.get('verified_at')}"


def left_out_in_words(left_out: Counter[str], *, is_root: bool) -> str:
    """One line about what was not kept, or none."""
    parts = [f"{what} ({count})" for what, count in left_out.items() if count]
    if not parts:
        return ""
    why = "this file system or user namespace does not take them" if is_root else "only root can keep them"
    return f"left out, since {why}: {', '.join(parts)}"


def plan_in_words(plan: Plan) -> Iterator[str]:
    """One line for each layer, and a sum."""
    for word, layers in (("add", plan.added), ("keep", plan.kept), ("remove", plan.removed)):
        for layer in layers:
            yield f"{word:<7}{layer.digest}  {size_in_words(layer.size)}"
    yield f"to fetch for {plan.manifest.digest}: {size_in_words(plan.size)}"


def entry_in_words(entry: Entry, *, long: bool) -> str:
    """A path as ls(1) shows it."""
    name = os.fsdecode(entry.path)
    shown = name if name.isprintable() else ascii(name)
    if not long:
        return shown
    size = f"{entry.device[0]}, {entry.device[1]}" if "device" in entry.kind else str(entry.size)
    target = {tar.SYMLINK: " -> ", tar.HARD_LINK: " link to "}.get(entry.kind, "")
    if target:
        text = os.fsdecode(entry.target)
        target += text if text.isprintable() else ascii(text)
    mode = stat.filemode(_TYPES[entry.kind] | entry.mode)
    return f"{mode} {entry.uid:>5} {entry.gid:>5} {size:>10} {_time(entry.mtime_ns)} {shown}{target}"


def entry_as_json(entry: Entry) -> dict[str, Any]:
    """All that is known of a path."""
    members: dict[str, Any] = {
        "path": os.fsdecode(entry.path),
        "type": entry.kind,
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime": entry.mtime_ns / 1e9,
    }
    if entry.target:
        members["target"] = os.fsdecode(entry.target)
    if "device" in entry.kind:
        members["device"] = list(entry.device)
    return members


def _time(nanoseconds: int) -> str:
    try:
        return (_EPOCH + timedelta(seconds=nanoseconds // 10**9)).strftime("%Y-%m-%d %H:%M")
    except OverflowError:
        return "????-??-?? ??:??"
