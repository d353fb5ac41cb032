"""What each command of ``cip`` does: one call of the library, and its result in words or as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from container_image_client import tar
from container_image_client.cli import words
from container_image_client.cli.exit_codes import ExitCode
from container_image_client.cli.session import Session
from container_image_client.destination import NewFile, write_all
from container_image_client.documents import is_digest
from container_image_client.errors import DestinationError, ImageClientError, NotFoundError
from container_image_client.image_directory import ImageDirectory
from container_image_client.layers import LayerReader
from container_image_client.layout import LayoutPath
from container_image_client.plan import make_plan
from container_image_client.progress import Counting
from container_image_client.pull import pull
from container_image_client.rootfs import unpack
from container_image_client.tree import Tree
from container_image_client.watch import Watch

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator, Mapping

    from container_image_client.client import Client
    from container_image_client.documents import Descriptor, Layer, Manifest

_PIECE: Final = 1 << 20
_SHORTEST: Final = 7  # hex digits of an abbreviated digest, as the daemon has it


def run(options: Namespace, environ: Mapping[str, str]) -> int:
    """Run the command that was asked for."""
    return _COMMANDS[options.command](Session(options, environ))


def _images(session: Session) -> int:
    images = session.client().images()
    rows = [["NAME", "PLATFORM", "REFERENCE"]]
    rows += [[f"{image.name}{' *' if image.is_default else ''}", image.platform, image.reference] for image in images]
    session.result([dict(image.members) for image in images], words.table(rows))
    return ExitCode.OK


def _manifest(session: Session) -> int:
    _print_document(session.client().manifest().raw)
    return ExitCode.OK


def _config(session: Session) -> int:
    _print_document(session.client().config())
    return ExitCode.OK


def _verify(session: Session) -> int:
    client = session.client()
    reference = client.manifest().reference
    document = client.verification()  # of the newest image, which may be newer than that manifest
    session.result(document, "\n".join(words.verification_in_words(document, reference)))
    wanted = session.options.signed_by
    if wanted is not None and wanted not in (document.get("signed_by") or ()):
        session.note(f"it is not signed by {wanted}")
        return ExitCode.REJECTED
    return ExitCode.OK


def _blob(session: Session) -> int:
    options = session.options
    if options.output is None and sys.stdout.isatty():
        raise ImageClientError("a blob is no text for a terminal", remedy="say where to write it: -o FILE, or a pipe")
    client = session.client()
    digest = _whole_digest(client, options.digest)
    with client.open(digest) as blob, session.progress().step("blob", digest, blob.size) as step:
        source = Counting(blob, step)
        if options.output is None:
            while piece := source.read(_PIECE):
                write_all(sys.stdout.fileno(), memoryview(piece))
            return ExitCode.OK
        with NewFile(options.output, sync=options.sync) as new:
            while piece := source.read(_PIECE):
                new.file.write(piece)
            new.commit()
    return ExitCode.OK


def _pull(session: Session) -> int:
    options = session.options
    place = _place(options.place)
    pulled = pull(session.client(), place, verify=options.verify, sync=options.sync, progress=session.progress())
    size = sum(blob.size for blob in pulled.fetched)
    document = {
        **_image_as_json(pulled.manifest),
        "fetched": list(map(_blob_as_json, pulled.fetched)),
        "kept": list(map(_blob_as_json, pulled.kept)),
    }
    summary = f"{pulled.manifest.digest}: fetched {len(pulled.fetched)} blobs, {words.size_in_words(size)}"
    summary += f"; {len(pulled.kept)} were there"
    if isinstance(place, ImageDirectory):
        document["signatures"] = pulled.signatures
        summary += f"; {pulled.signatures} signatures"
    session.result(document, summary)
    return ExitCode.OK


def _place(text: str) -> LayoutPath | ImageDirectory:
    """``oci:DIR[:NAME]`` or ``dir:DIR``, as skopeo and podman know them."""
    transport, _, path = text.partition(":")
    if transport not in ("oci", "dir") or not path:
        remedy = "write oci:DIR or oci:DIR:NAME for a layout, or dir:DIR"
        raise DestinationError(f"{text!r} is no place to pull an image into", remedy=remedy)
    return ImageDirectory(Path(path)) if transport == "dir" else LayoutPath.parse(text)


def _unpack(session: Session) -> int:
    options = session.options
    manifest, left_out = unpack(
        session.client(), options.directory, replace=options.replace, sync=options.sync, progress=session.progress()
    )
    session.note(words.left_out_in_words(left_out, is_root=os.geteuid() == 0))
    document = {**_image_as_json(manifest), "left_out": {what: count for what, count in left_out.items() if count}}
    session.result(document, f"{manifest.digest}: unpacked into {options.directory}")
    return ExitCode.OK


def _ls(session: Session) -> int:
    options = session.options
    tree = _tree(session)
    entry = tree.resolve(os.fsencode(options.path))
    entries = [entry]
    if entry.kind is tar.DIRECTORY:
        entries = tree.entries(entry.path, recursive=options.recursive)
    lines = [words.entry_in_words(one, long=options.long) for one in entries]
    if lines or options.json:
        session.result(list(map(words.entry_as_json, entries)), "\n".join(lines))
    return ExitCode.OK


def _cat(session: Session) -> int:
    _tree(session).read(os.fsencode(session.options.path), sys.stdout.buffer)
    sys.stdout.buffer.flush()
    return ExitCode.OK


def _plan(session: Session) -> int:
    plan = make_plan(session.client(), session.options.have)
    document = {
        **_image_as_json(plan.manifest),
        "added": list(map(_blob_as_json, plan.added)),
        "kept": list(map(_blob_as_json, plan.kept)),
        "removed": list(map(_blob_as_json, plan.removed)),
        "size": plan.size,
    }
    session.result(document, "\n".join(words.plan_in_words(plan)))
    return ExitCode.OK


def _watch(session: Session) -> int:
    options = session.options
    client = session.client()
    known = options.since
    if known is None:  # what is wrong from the beginning ends the command; later it is told, and tried again
        first = client.manifest()
        known = first.digest
        session.note(f"watching {first.reference}, which is {known}")
    watch = Watch(client, interval=options.interval, known=known, complain=session.note)
    for manifest in watch.changes():
        if _tell(session, manifest, known):
            watch.acknowledge(manifest.digest)
            known = manifest.digest
            if options.once:
                break
    return ExitCode.OK


def _tell(session: Session, manifest: Manifest, previous: str) -> bool:
    """Print or run what a change asks for; whether that is done."""
    command = session.options.run
    if not command:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if session.options.json:
            print(json.dumps({**_image_as_json(manifest), "previous": previous, "time": now}), flush=True)
        else:
            print(f"{now} {manifest.digest} {manifest.reference}", flush=True)
        return True
    more = {"CIP_DIGEST": manifest.digest, "CIP_PREVIOUS_DIGEST": previous, "CIP_REFERENCE": manifest.reference}
    try:
        status = subprocess.run(  # noqa: S603 - it is what the user typed
            command, env={**session.environ, **more}, check=False
        ).returncode
    except OSError as error:
        raise ImageClientError(f"{command[0]} cannot be run: {error.strerror}") from error
    if status:
        session.note(f"{command[0]} ended with status {status}; it is run again after the next poll")
    return status == 0


_COMMANDS: Final[Mapping[str, Callable[[Session], int]]] = {
    "images": _images,
    "manifest": _manifest,
    "config": _config,
    "verify": _verify,
    "blob": _blob,
    "pull": _pull,
    "unpack": _unpack,
    "ls": _ls,
    "cat": _cat,
    "plan": _plan,
    "watch": _watch,
}


# --- what they share --------------------------------------------------------------------------------------------------


def _whole_digest(client: Client, digest: str) -> str:
    """A digest of which the beginning was given, as git does it. A whole one may be of an earlier image."""
    if is_digest(digest):
        return digest
    algorithm, colon, beginning = digest.partition(":")
    if not colon:
        algorithm, beginning = "sha256", digest
    found = [blob.digest for blob in client.blobs() if blob.digest.startswith(f"{algorithm}:{beginning}")]
    if len(found) == 1 and len(beginning) >= _SHORTEST:
        return found[0]
    detail = f"{digest[:100]!r} names {len(found)} blobs of this image"
    if len(beginning) < _SHORTEST:
        detail = f"{digest[:100]!r} is too short: {_SHORTEST} hex digits are the least"
    raise NotFoundError(404, {"detail": detail, "code": "BLOB_UNKNOWN", "remedy": "cip manifest shows them"})


def _tree(session: Session) -> Tree:
    client, progress = session.client(), session.progress()
    manifest = client.manifest()
    layers = client.layers(manifest)

    @contextmanager
    def open_layer(layer: Layer) -> Iterator[LayerReader]:
        label = f"layer {layers.index(layer) + 1}/{len(layers)}"
        with (
            progress.step(label, layer.blob.digest, layer.blob.size) as step,
            LayerReader(Counting(client.open(layer.blob.digest), step), layer.diff_id) as reader,
        ):
            yield reader

    return Tree(layers, open_layer)


def _print_document(raw: bytes) -> None:
    sys.stdout.buffer.write(raw)
    if sys.stdout.isatty() and not raw.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def _image_as_json(manifest: Manifest) -> dict[str, Any]:
    members = {"digest": manifest.digest, "reference": manifest.reference}
    return members | ({"index_digest": manifest.index_digest} if manifest.index_digest else {})


def _blob_as_json(blob: Descriptor) -> dict[str, Any]:
    return {"digest": blob.digest, "mediaType": blob.media_type, "size": blob.size}
