"""What is fuzzed: each target takes any bytes, and raises nothing but our own errors, which its caller expects.

These are the places where somebody else's bytes are parsed: a client's, a registry's, a signer's, an administrator's.
"""

from __future__ import annotations

import gzip
from collections import deque
from contextlib import suppress
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Final

from container_image_proxy.concurrency.cancellation import Cancellation
from container_image_proxy.config.auth_file import parse_auth_file
from container_image_proxy.config.lookaside import parse_registries_d
from container_image_proxy.config.registries_conf import parse_registries
from container_image_proxy.errors import Error
from container_image_proxy.faces.http.ranges import parse_range
from container_image_proxy.faces.http.request_head import HeadBuffer
from container_image_proxy.faces.image_proxy.messages import parse_request
from container_image_proxy.image.convert import to_oci
from container_image_proxy.image.diff_ids import parse_diff_ids
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import Manifest, Schema1Manifest, UntrustedManifest, parse_manifest
from container_image_proxy.image.media_types import OCI_LAYER_TAR
from container_image_proxy.image.platform import parse_platform
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.image.schema1_conversion import UnpackedLayer, convert_schema1
from container_image_proxy.image.signature import parse_signature_blob
from container_image_proxy.policy.budget import Budget
from container_image_proxy.policy.model import parse_policy
from container_image_proxy.policy.openpgp_message import unpack_signed_message
from container_image_proxy.policy.sigstore.bundle import parse_bundle
from container_image_proxy.policy.sigstore.public_key import parse_public_key
from container_image_proxy.policy.sigstore.rekor import parse_set
from container_image_proxy.policy.sigstore.x509_chain import parse_certificates
from container_image_proxy.policy.simple_signing import parse_claim
from container_image_proxy.registry.auth.challenge import parse_challenges
from container_image_proxy.registry.http.headers import parse_content_range, parse_media_type, parse_retry_after
from container_image_proxy.registry.http.target import parse_target
from container_image_proxy.transports.archives.docker_images import layers_of, parse_images
from container_image_proxy.transports.archives.index import TarIndex
from container_image_proxy.transports.storage import records
from container_image_proxy.transports.storage.tar_layers import decode_state
from container_image_proxy.transports.storage.tar_split import read_entries

if TYPE_CHECKING:
    from collections.abc import Callable

_HEAD_LIMIT: Final = 64 << 10
_PATIENCE: Final = 60.0


def manifest(data: bytes) -> None:
    """A manifest or index as a registry sends it, and its conversion."""
    media_type, _, raw = data.partition(b"\0")
    parsed = parse_manifest(UntrustedManifest(raw, media_type.decode("latin-1")))
    if isinstance(parsed, Manifest):
        to_oci(parsed)
    elif isinstance(parsed, Schema1Manifest):
        layer = UnpackedLayer(digest_of(b""), 1, digest_of(b""), OCI_LAYER_TAR)
        convert_schema1(parsed, dict.fromkeys(parsed.layers, layer))


def request_head(data: bytes) -> None:
    """What a client sends, in two pieces; the first byte says where they are divided."""
    buffer = HeadBuffer(_HEAD_LIMIT)
    middle = 1 + (data[0] if data else 0)
    for piece in (data[1:middle], data[middle:]):
        buffer.feed(piece)
        while buffer.take() is not None:
            pass


def message(data: bytes) -> None:
    """What a client of skopeo's image proxy protocol sends."""
    parse_request(data)


def response_headers(data: bytes) -> None:
    """Header values of a registry."""
    text = data.decode("latin-1")
    for parse in (parse_media_type, partial(parse_retry_after, now=0), parse_content_range, parse_target):
        with suppress(Error):
            parse(text)
    parse_challenges(text.splitlines())


def words(data: bytes) -> None:
    """References and platforms, and ranges of bytes."""
    text = data.decode(errors="surrogateescape")
    with suppress(Error):
        parse_range(f"bytes={text}", 1000)
    for parse in (parse_platform, parse_reference):
        with suppress(Error):
            parse(text)


def configuration(data: bytes) -> None:
    """The ecosystem's files: auth.json, registries.conf, registries.d, policy.json."""
    for parse in (parse_auth_file, parse_registries, parse_registries_d, parse_policy):
        with suppress(Error):
            parse(data, "file")


def signatures(data: bytes) -> None:
    """What signers and logs made: signatures, OpenPGP messages, claims, bundles, timestamps, keys, certificates."""
    with suppress(Error):
        parse_signature_blob(data, "source")
    with suppress(Error):
        parse_claim(data, "atomic container signature")
    for parse in (parse_bundle, parse_set):
        with suppress(Error):
            parse(data)
    with suppress(Error):
        parse_public_key(data, "key")
    with suppress(Error):
        parse_certificates(data, "certificate", Budget(_PATIENCE, Cancellation()))
    with suppress(Error):
        unpack_signed_message(data)


def archives(data: bytes) -> None:
    """A tar archive, and the manifest.json of one."""
    with suppress(Error):
        TarIndex(lambda offset, count: data[offset : offset + count], len(data), "archive").find("index.json")
    for image in parse_images(data):
        layers_of(image, data)


def store(data: bytes) -> None:
    """What a store of containers-storage keeps: lists, configurations, tar-splits; and what we keep of it."""
    for parse in (records.parse_images, records.parse_layers):
        with suppress(Error):
            parse(data, "list")
    with suppress(Error):
        parse_diff_ids(data)
    for raw in (data, gzip.compress(data, 0)):
        with suppress(Error):
            deque(read_entries(BytesIO(raw), "tar-split"), 0)
    decode_state(data)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    target.__name__.replace("_", "-"): target
    for target in (manifest, request_head, message, response_headers, words, configuration, signatures, archives, store)
}


def run(name: str, data: bytes) -> None:
    """Give ``data`` to a target; what it raises here is a defect."""
    with suppress(Error):
        TARGETS[name](data)
