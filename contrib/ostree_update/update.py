"""One update: ask, check the receipt, bring the image into the repository, deploy it. Each step is done once.

Two refs say how far it came: ``imported`` is the commit of the newest image that is here as a whole, ``deployed`` that
of the one that was last given to ``ostree admin deploy``. Their commits name the image's digest. A layer that is here
has a ref, too, named by the layers up to it (its ChainID); so a run that is interrupted goes on after the last layer.
It must not decide who may sign: the options say it. Spec: OCI image-spec, config.md "Layer ChainID".
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from container_image_client import Client, ImageClientError, Manifest
from container_image_client.documents import Layer, layers_of
from container_image_client.errors import PolicyRejectedError, UnexpectedAnswerError, UnsupportedImageError
from container_image_client.layers import LayerReader
from container_image_client.tar import TarReader
from ostree_update.encapsulated import ObjectLayer, commit_of, count_object_layers
from ostree_update.flatten import Flattener, move_etc
from ostree_update.repository import Repository, find
from ostree_update.sysroot import Sysroot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

# As ostree-rs-ext names them, so that its tools show which image a deployment is.
DIGEST_KEY: Final = "ostree.manifest-digest"
MANIFEST_KEY: Final = "ostree.manifest"
CONFIG_KEY: Final = "ostree.container.image-config"
_MOVED: Final = 3  # times that an image may change between its manifest and its receipt


class DeploymentError(ImageClientError):
    """ostree did not deploy the commit."""


class BusyError(ImageClientError):
    """Another update is at work."""


@dataclass(frozen=True)
class Options:
    """What to update, and who has to have signed it: any one of ``signers``, or whoever policy asked for."""

    sysroot: Path
    os_name: str
    signers: tuple[str, ...]
    kernel_arguments: tuple[str, ...] = ()


class Update:
    """The update of one operating system of a sysroot."""

    def __init__(self, client: Client, options: Options, say: Callable[[str], None]) -> None:
        self._client = client
        self._options = options
        self._say = say
        self._prefix = f"container-image/{options.os_name}"
        self._sysroot = Sysroot(options.sysroot, options.os_name)  # first: it makes the repository writable
        self._repository = Repository(options.sysroot / "ostree/repo")

    def run(self) -> bool:
        """Deploy the image unless it was; whether there was something to do."""
        with _alone(self._options.sysroot):
            deployed = self._commit_of("deployed")
            known = deployed and self._repository.metadata(deployed, DIGEST_KEY)
            manifest = self._client.manifest_unless(known) if known else self._client.manifest()
            if manifest is None or manifest.digest == known:
                self._say(f"up to date: {known}")
                return False
            manifest = self._verified(manifest)
            commit = self._commit_of("imported")
            if commit is None or self._repository.metadata(commit, DIGEST_KEY) != manifest.digest:
                commit = self._import(manifest)
            self._deploy(commit, manifest.digest)
            return True

    def _commit_of(self, ref: str) -> str | None:
        return self._repository.resolve(f"{self._prefix}/{ref}")

    def _set_ref(self, ref: str, commit: str) -> None:
        with self._repository.transaction():
            self._repository.set_ref(f"{self._prefix}/{ref}", commit)

    # --- the receipt --------------------------------------------------------------------------------------------------

    def _verified(self, manifest: Manifest) -> Manifest:
        """The manifest that the receipt is about, if one of the wanted signers signed it."""
        receipt = self._client.verification()
        for _ in range(_MOVED):
            if receipt.get("manifest_digest") == manifest.digest:
                break
            # The image changed in between: the receipt is about the newest one that the daemon knows.
            manifest, receipt = self._client.manifest(), self._client.verification()
        else:
            raise UnexpectedAnswerError(
                f"the receipt is about {receipt.get('manifest_digest')}, and the manifest is {manifest.digest}",
                remedy="the image changes too often; try again later",
            )
        signed_by = _texts(receipt.get("signed_by"))
        wanted = self._options.signers
        if wanted and not set(wanted).intersection(signed_by):
            who = f"by {', '.join(signed_by)}" if signed_by else "by nobody that policy asked for"
            detail = f"{manifest.digest} is signed {who}, and not by {' or '.join(wanted)}: it is not deployed"
            remedy = "who has to sign is said by --signed-by, and by policy.json of the instance"
            raise PolicyRejectedError(403, {"detail": detail, "code": "POLICY_REJECTED", "remedy": remedy})
        self._say(f"{manifest.reference} is {manifest.digest}, signed by {', '.join(signed_by) or 'nobody'}")
        return manifest

    # --- import -------------------------------------------------------------------------------------------------------

    def _import(self, manifest: Manifest) -> str:
        config = self._client.config(manifest)
        layers = layers_of(manifest, config)
        labels = labels_of(config)
        encapsulated = commit_of(labels)
        count = count_object_layers(layers, labels) if encapsulated else 0
        # The same layers make another tree where some of them are objects of a commit.
        chain_ids = list(_chain_ids(layers, f"{encapsulated} {count} " if encapsulated else ""))
        start, commit = self._longest_chain(chain_ids)
        if encapsulated:
            if start < count:
                commit = self._import_objects(layers[:count], encapsulated, chain_ids[count - 1])
                start = count
            if count < len(layers) and find(self._repository.tree(commit), ["etc", "selinux"]) is not None:
                raise UnsupportedImageError(
                    "the image has layers above an ostree commit with a policy of SELinux, and nothing here computes "
                    "the labels that their files need",
                    remedy="build the image as one commit, or without the policy",
                )
        left_out: Counter[str] = Counter()
        for number, layer in enumerate(layers[start:], start):
            self._say(f"layer {number + 1}/{len(layers)}: {layer.blob.digest}, {layer.blob.size} bytes")
            commit = self._add_layer(layer, commit, chain_ids[number], left_out)
        if left_out:
            parts = ", ".join(f"{kind} ({count})" for kind, count in left_out.items())
            self._say(f"left out, since ostree keeps none: {parts}")
        metadata = {DIGEST_KEY: manifest.digest, MANIFEST_KEY: manifest.raw.decode(), CONFIG_KEY: config.decode()}
        if version := labels.get("org.opencontainers.image.version"):
            metadata["version"] = version  # ostree admin status shows it
        with self._repository.transaction():
            tree = self._repository.tree(commit)
            move_etc(self._repository, tree, to_usr=True)
            commit = self._repository.commit(tree, f"{manifest.reference} {manifest.digest}", metadata)
            self._repository.set_ref(f"{self._prefix}/imported", commit)
        self._forget("chain", {f"{self._prefix}/chain/{chain_id}" for chain_id in chain_ids})
        return commit

    def _import_objects(self, layers: Sequence[Layer], commit: str, chain_id: str) -> str:
        """The tree of the commit that these layers have, with /etc where layers above it look for it.

        The files of a layer are kept by a commit that names each by its checksum, so that the layer is not fetched
        again when the run is interrupted, or when the next image has it, too. The first layer has what is no file, and
        is fetched until the commit is complete.
        """
        detached = None
        wanted = {f"{self._prefix}/objects/{layer.diff_id.partition(':')[2]}" for layer in layers}
        for number, layer in enumerate(layers):
            ref = f"objects/{layer.diff_id.partition(':')[2]}"
            if number and self._commit_of(ref):
                continue
            self._say(f"object layer {number + 1}/{len(layers)}: {layer.blob.digest}, {layer.blob.size} bytes")
            objects = ObjectLayer(self._repository, commit)
            with (
                self._repository.transaction(),
                LayerReader(self._client.open(layer.blob.digest), layer.diff_id) as archive,
            ):
                objects.apply(TarReader(archive.read))
                tree = self._repository.tree()
                for checksum in objects.files:
                    tree.replace_file(checksum, checksum)
                self._repository.set_ref(f"{self._prefix}/{ref}", self._repository.commit(tree, layer.diff_id))
            detached = objects.detached or detached
        self._repository.complete(commit, detached)
        with self._repository.transaction():
            self._repository.set_ref(f"{self._prefix}/encapsulated", commit)
            tree = self._repository.tree(commit)
            move_etc(self._repository, tree, to_usr=False)
            made = self._repository.commit(tree, f"the commit {commit}")
            self._repository.set_ref(f"{self._prefix}/chain/{chain_id}", made)
        self._forget("objects", wanted)
        return made

    def _longest_chain(self, chain_ids: Sequence[str]) -> tuple[int, str | None]:
        """How many of the lowest layers are here, and the commit of what they make together."""
        for count in range(len(chain_ids), 0, -1):
            if commit := self._commit_of(f"chain/{chain_ids[count - 1]}"):
                self._say(f"{count} of {len(chain_ids)} layers are here")
                return count, commit
        return 0, None

    def _add_layer(self, layer: Layer, below: str | None, chain_id: str, left_out: Counter[str]) -> str:
        """The commit of the layer on top of what is below; the layer's end is reached only if its DiffID is right."""
        with (
            self._repository.transaction(),
            LayerReader(self._client.open(layer.blob.digest), layer.diff_id) as archive,
        ):
            tree = self._repository.tree(below)
            Flattener(self._repository, tree, left_out).apply(TarReader(archive.read))
            commit = self._repository.commit(tree, f"layers up to {layer.diff_id}")
            self._repository.set_ref(f"{self._prefix}/chain/{chain_id}", commit)
        return commit

    def _forget(self, kind: str, wanted: set[str]) -> None:
        """Remove the other refs of this kind; with the next deployment ostree removes what only they had."""
        for ref in set(self._repository.refs_below(f"{self._prefix}/{kind}")) - wanted:
            self._repository.set_ref(ref, None)

    # --- deployment ---------------------------------------------------------------------------------------------------

    def _deploy(self, commit: str, digest: str) -> None:
        """Deploy the commit, which has to be of the image that the receipt is about.

        A run that broke off may have deployed it: once more would push out the deployment before it.
        """
        if self._repository.metadata(commit, DIGEST_KEY) != digest:
            raise DeploymentError(f"the commit {commit} is not made of {digest}: it is not deployed")
        if self._sysroot.first() != commit:
            try:
                self._sysroot.deploy(f"{self._prefix}/imported", self._options.kernel_arguments)
            except subprocess.CalledProcessError as error:
                raise DeploymentError(
                    f"ostree admin deploy failed with {error.returncode}; what it said stands above",
                    remedy="the image is imported; the next run deploys it",
                ) from error
            if self._sysroot.first() != commit:
                raise DeploymentError(f"ostree admin deploy did not make {commit} the first deployment")
        self._set_ref("deployed", commit)
        self._say(f"deployed {digest} as {commit}; it is booted with the next start")


@contextlib.contextmanager
def _alone(sysroot: Path) -> Iterator[None]:
    """One update at a time; the lock ends with the process. ostree itself locks each of its steps."""
    descriptor = os.open(sysroot / "ostree/repo", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"another update of {sysroot} is at work", remedy="wait for its end") from error
        yield
    finally:
        os.close(descriptor)


def labels_of(config: bytes) -> dict[str, str]:
    """The labels of an image's configuration."""
    inner = json.loads(config).get("config")
    labels = inner.get("Labels") if isinstance(inner, dict) else None
    return {str(key): str(value) for key, value in labels.items()} if isinstance(labels, dict) else {}


def _chain_ids(layers: Sequence[Layer], prefix: str) -> Iterator[str]:
    """For each layer the digest of all up to it, as hex digits; without a prefix they are the ChainIDs."""
    chain_id = ""
    for layer in layers:
        whole = f"{chain_id} {layer.diff_id}" if chain_id else f"{prefix}{layer.diff_id}"
        chain_id = whole if whole == layer.diff_id else f"sha256:{hashlib.sha256(whole.encode()).hexdigest()}"
        yield chain_id.partition(":")[2]


def _texts(value: Any) -> list[str]:
    return list(map(str, value)) if isinstance(value, list) else []
