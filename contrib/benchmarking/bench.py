"""What every row measures with: the images, the registries that have them, a policy that accepts anything."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarking.images import Image, make_image
from benchmarking.nginx import SENT, lay_out, serving_nginx
from benchmarking.registries import Registry, make_authority, push, serving_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bench:
    """A large and a small image, in docker-registry and in nginx, behind HTTP and HTTPS; ``skopeo`` is its program.

    ``counted`` is an nginx of which ``sent`` says what was taken; ``directory`` is for large files.
    """

    image: Image
    small: Image
    policy: Path
    http: Registry
    https: Registry
    nginx: Registry
    nginx_tls: Registry
    skopeo: str
    counted: Registry
    sent: Path
    directory: Path


@contextmanager
def set_up(directory: Path, size: int, skopeo: str) -> Iterator[Bench]:
    """Make the images, of ``size`` bytes and of a sixteenth, and start the registries; all in ``directory``."""
    policy = directory / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    policy.chmod(0o600)
    storage, cert_dir = directory / "storage", make_authority(directory / "certificates")
    image, small = make_image(directory / "layout", size), make_image(directory / "small", size // 16)
    with ExitStack() as stack:
        http = stack.enter_context(serving_registry(directory / "http", storage, None))
        https = stack.enter_context(serving_registry(directory / "https", storage, cert_dir))
        push(image, http)
        push(small, http, "2")
        lay_out(directory / "www", (image, small))
        nginx, nginx_tls, counted = stack.enter_context(serving_nginx(directory / "nginx", directory / "www", cert_dir))
        yield Bench(
            image, small, policy, http, https, nginx, nginx_tls, skopeo, counted, directory / "nginx" / SENT, directory
        )
