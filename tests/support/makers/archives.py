"""oci-archive: and docker-archive:, written by our own writer and by skopeo, podman and tar."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import zstandard

from tests.support.layouts import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Layout, StoredImage, encode, skopeo_copy
from tests.support.layouts import single_image as single_layout
from tests.support.makers.maker import Made, Maker, Spot
from tests.support.requirements import require_mounting

NAME = "example.com/made:latest"
COMPRESSORS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}
Entry = tuple[str, bytes] | tarfile.TarInfo


def write_tar(path: Path, entries: Iterable[Entry], *, form: int = tarfile.GNU_FORMAT) -> Path:
    """A tar archive of these files, and of other members as they are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def find_spots(path: Path, contents: Iterable[bytes]) -> dict[str, Spot]:
    """Where these blobs lie in an archive as they are, by digest."""
    wanted = {digest_of(content) for content in contents}
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            digest = digest_of(file.read()) if file is not None else ""
            if digest in wanted:
                found[digest] = Spot(path, member.offset_data)
    return found


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def compress_file(path: Path, compression: str) -> None:
    path.write_bytes(COMPRESSORS[compression](path.read_bytes()))


# --- oci-archive ------------------------------------------------------------------------------------------------------


def tar_of_layout(layout: Path, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-C", layout, "-cf", path, "."], check=True)
    return path


def oci_archive(layout: Path, image: StoredImage, place: Path) -> Made:
    path = tar_of_layout(layout, place / "image.tar")
    return Made(
        f"oci-archive:{path}:latest", image.digest, image.config, image.layers, path, find_spots(path, image.layers)
    )


def oci_archive_by_skopeo(layout: Path, image: StoredImage, place: Path) -> Made:
    place.mkdir()
    path = place / "image.tar"
    skopeo_copy(f"oci:{layout}:latest", f"oci-archive:{path}:latest")
    return Made(
        f"oci-archive:{path}:latest", image.digest, image.config, image.layers, path, find_spots(path, image.layers)
    )


def compressed_oci_archive(compression: str) -> Callable[[Path, StoredImage, Path], Made]:
    def make(layout: Path, image: StoredImage, place: Path) -> Made:
        made = oci_archive(layout, image, place)
        assert made.unreadable is not None
        compress_file(made.unreadable, compression)
        return Made(made.reference, made.digest, made.config, made.layers, made.unreadable)

    return make


def oci_archive_of_list(layout: Path, place: Path) -> str:
    return f"oci-archive:{tar_of_layout(layout, place / 'image.tar')}:latest"


def oci_archive_of_list_by_skopeo(layout: Path, place: Path) -> str:
    place.mkdir()
    skopeo_copy(f"oci:{layout}:latest", f"oci-archive:{place}/image.tar:latest", "--all")
    return f"oci-archive:{place}/image.tar:latest"


def clutter(made: Made) -> None:
    """Members that are none of the image's, before and behind which its own are."""
    assert made.unreadable is not None
    with tarfile.open(made.unreadable, "a", format=tarfile.GNU_FORMAT) as archive:
        for number in range(10_000):
            archive.addfile(tarfile.TarInfo(f"blobs/sha256/{number:064x}"))


def sparse_oci_archive(place: Path, size: int) -> tuple[str, str]:
    layout = Layout(place / "layout")
    digest = f"sha256:{'5' * 64}"
    config = encode({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest]}})
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": layout.blob(config, OCI_CONFIG),
        "layers": [{"mediaType": OCI_LAYER, "digest": digest, "size": size}],
    }
    layout.manifest(manifest, config, (), name="latest")
    path = tar_of_layout(layout.path, place / "image.tar")
    append_hole(path, f"blobs/sha256/{'5' * 64}", size)
    return f"oci-archive:{path}:latest", digest


def append_hole(path: Path, name: str, size: int) -> None:
    """Put a member of zeros at the end of an archive, as a hole of the file."""
    with tarfile.open(path) as archive:
        end = max(member.offset_data + -(-member.size // 512) * 512 for member in archive)
    info = tarfile.TarInfo(name)
    info.size = size
    header = info.tobuf(tarfile.GNU_FORMAT)
    with path.open("r+b") as file:
        file.truncate(end)
        file.seek(end)
        file.write(header)
        file.truncate(end + len(header) + size + 1024)


def hostile_oci_archive(replace: Callable[[str, Path], Iterable[Entry]]) -> Callable[[Path, Path], str]:
    """An archive in which ``replace(name, outside)`` stands for the layer, whose name it is given."""

    def make(place: Path, outside: Path) -> str:
        image = single_layout(place / "layout")
        name = f"blobs/sha256/{image.layer_digests[0].removeprefix('sha256:')}"
        others = [
            (str(file.relative_to(place / "layout")), file.read_bytes())
            for file in sorted((place / "layout").rglob("*"))
            if file.is_file() and file.name != Path(name).name
        ]
        path = write_tar(place / "image.tar", [*others, *replace(name, outside)])
        return f"oci-archive:{path}:latest"

    return make


def sparse_member(name: str, _: Path) -> list[Entry]:
    info = link(name, "", b"S")
    return [info]


HOSTILE: Mapping[str, Callable[[str, Path], Iterable[Entry]]] = {
    "link-to-outside": lambda name, outside: [link(name, str(outside))],
    "relative-link": lambda name, outside: [link(name, "../../../../" * 9 + str(outside)[1:])],
    "hard-link-to-outside": lambda name, outside: [link(name, str(outside), tarfile.LNKTYPE)],
    "directory-link": lambda name, outside: [
        link("away", str(outside.parent)),
        link(name, f"../../away/{outside.name}"),
    ],
    "fifo": lambda name, _: [link(name, "", tarfile.FIFOTYPE)],
    "device": lambda name, _: [link(name, "", tarfile.CHRTYPE)],
    "directory": lambda name, _: [link(name, "", tarfile.DIRTYPE)],
    "loop": lambda name, _: [link(name, "../../loop"), link("loop", name)],
    "sparse": sparse_member,
    "name-that-leaves": lambda name, _: [(f"../{name}", b"x"), (f"/../{name}", b"x")],
    "absent": lambda *_: [],
}


# --- docker-archive ---------------------------------------------------------------------------------------------------


def unpacked(image: StoredImage) -> tuple[bytes, ...]:
    return tuple(gzip.decompress(layer) if layer.startswith(b"\x1f\x8b") else layer for layer in image.layers)


def manifest_json(config: str, layers: list[str], *names: str) -> tuple[str, bytes]:
    return "manifest.json", encode([{"Config": config, "RepoTags": list(names) or None, "Layers": layers}])


def old_layout(image: StoredImage, name: str = NAME) -> list[Entry]:
    """As ``docker save`` wrote it until version 24: a directory for each layer, equal ones as links."""
    config = f"{image.config_digest.removeprefix('sha256:')}.json"
    entries: list[Entry] = []
    layers, first = [], dict[bytes, str]()
    for number, tar in enumerate(unpacked(image)):
        directory = f"{number:064x}"
        layers.append(f"{directory}/layer.tar")
        entries += [
            link(f"{directory}/", "", tarfile.DIRTYPE),
            (f"{directory}/VERSION", b"1.0"),
            (f"{directory}/json", b"{}"),
        ]
        entries.append(link(layers[-1], f"../{first[tar]}") if tar in first else (layers[-1], tar))
        first.setdefault(tar, layers[-1])
    repository, _, tag = name.rpartition(":")
    return [
        *entries,
        (config, image.config),
        manifest_json(config, layers, name),
        ("repositories", encode({repository: {tag: f"{len(layers) - 1:064x}"}})),
    ]


def new_layout(image: StoredImage, *, layers: tuple[bytes, ...] | None = None) -> list[Entry]:
    """As ``docker save`` writes it since version 25: an OCI layout, and manifest.json, which names its blobs."""
    blobs = [image.config, *(unpacked(image) if layers is None else layers)]
    names = [f"blobs/sha256/{digest_of(blob).removeprefix('sha256:')}" for blob in blobs]
    manifest = encode({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {}, "layers": []})
    return [
        *dict(zip(names, blobs, strict=True)).items(),
        ("index.json", encode({"schemaVersion": 2, "manifests": [{"digest": digest_of(manifest), "size": 1}]})),
        manifest_json(names[0], names[1:], NAME),
        ("oci-layout", encode({"imageLayoutVersion": "1.0.0"})),
    ]


def docker_archive(
    entries: Callable[[StoredImage], list[Entry]], compression: str = ""
) -> Callable[[Path, StoredImage, Path], Made]:
    def make(_: Path, image: StoredImage, place: Path) -> Made:
        path = write_tar(place / "image.tar", entries(image))
        spots = {} if compression else find_spots(path, unpacked(image))
        if compression:
            compress_file(path, compression)
        return Made(f"docker-archive:{path}:{NAME}", None, image.config, unpacked(image), path, spots)

    return make


def docker_archive_by_skopeo(layout: Path, image: StoredImage, place: Path) -> Made:
    place.mkdir()
    path = place / "image.tar"
    skopeo_copy(f"oci:{layout}:latest", f"docker-archive:{path}:{NAME}")
    return Made(f"docker-archive:{path}:{NAME}", None, None, unpacked(image), path, find_spots(path, unpacked(image)))


def docker_archive_by_podman(layout: Path, image: StoredImage, place: Path) -> Made:
    require_mounting("podman unpacks layers")
    place.mkdir()
    path = place / "image.tar"
    with tempfile.TemporaryDirectory(prefix="podman-", dir="/tmp") as store:  # whose run directory has a short name

        def podman(*arguments: str) -> bytes:
            options = ["--root", f"{store}/root", "--runroot", f"{store}/run", "--storage-driver", "vfs"]
            return subprocess.run(["podman", *options, *arguments], check=True, capture_output=True).stdout

        podman("pull", "--quiet", f"oci:{layout}:latest")
        (found,) = json.loads(podman("images", "--format=json"))
        podman("save", "--output", str(path), found["Id"])
    return Made(f"docker-archive:{path}", None, None, unpacked(image), path, find_spots(path, unpacked(image)))


def hostile_docker_archive(replace: Callable[[str, Path], Iterable[Entry]]) -> Callable[[Path, Path], str]:
    def make(place: Path, outside: Path) -> str:
        image = single_layout(place / "layout")
        name = "layers/layer.tar"
        others: list[Entry] = [("config.json", image.config), manifest_json("config.json", [name], NAME)]
        return f"docker-archive:{write_tar(place / 'image.tar', [*others, *replace(name, outside)])}"

    return make


def sparse_docker_archive(place: Path, size: int) -> tuple[str, str]:
    digest = f"sha256:{'5' * 64}"
    config = encode({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest]}})
    path = write_tar(place / "image.tar", [("c.json", config), manifest_json("c.json", ["layer.tar"])])
    append_hole(path, "layer.tar", size)
    return f"docker-archive:{path}", digest


def _gzipped(image: StoredImage) -> list[Entry]:
    return new_layout(image, layers=tuple(map(gzip.compress, unpacked(image))))


MAKERS = (
    Maker(
        "oci-archive",
        oci_archive,
        ("tar",),
        make_list=oci_archive_of_list,
        clutter=clutter,
        sparse=sparse_oci_archive,
        hostile={name: hostile_oci_archive(replace) for name, replace in HOSTILE.items()},
    ),
    Maker("oci-archive-by-skopeo", oci_archive_by_skopeo, ("skopeo",), make_list=oci_archive_of_list_by_skopeo),
    *(Maker(f"oci-archive-{name}", compressed_oci_archive(name), ("tar",)) for name in COMPRESSORS),
    Maker(
        "docker-archive",
        docker_archive(old_layout),
        clutter=clutter,
        sparse=sparse_docker_archive,
        hostile={name: hostile_docker_archive(replace) for name, replace in HOSTILE.items()},
    ),
    Maker("docker-archive-new-layout", docker_archive(new_layout)),
    Maker("docker-archive-gzip-layers", docker_archive(_gzipped)),
    Maker("docker-archive-gzip", docker_archive(old_layout, "gzip")),
    Maker("docker-archive-zstd-gzip-layers", docker_archive(_gzipped, "zstd")),
    Maker("docker-archive-by-skopeo", docker_archive_by_skopeo, ("skopeo",)),
    Maker("docker-archive-by-podman", docker_archive_by_podman, ("podman",)),
)
