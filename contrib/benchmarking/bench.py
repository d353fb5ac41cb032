"""What every row measures with: the images, the registries that have them, a policy that accepts anything."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarking.images import Image, make_image
from benchmarking.registries import Registry, make_authority, push, serving_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bench:
    """One image, behind HTTP and HTTPS."""

    image: Image
    policy: Path
    http: Registry
    https: Registry


@contextmanager
def set_up(directory: Path, size: int) -> Iterator[Bench]:
    """Make the image, ``size`` bytes, and start the registries; all in ``directory``."""
    policy = directory / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    policy.chmod(0o600)
    storage, cert_dir = directory / "storage", make_authority(directory / "certificates")
    image = make_image(directory / "layout", size)
    with ExitStack() as stack:
        http = stack.enter_context(serving_registry(directory / "http", storage, None))
        https = stack.enter_context(serving_registry(directory / "https", storage, cert_dir))
        push(image, http)
        shutil.rmtree(image.layout)  # the registry has it
        yield Bench(image, policy, http, https)
