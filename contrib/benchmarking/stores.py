"""What is measured of stores of containers-storage: layers put together again, beside skopeo's export of the image.

Making a store takes rights that only root has. Who is not root measures nothing here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarking.daemon import serving_daemon
from benchmarking.images import make_image
from benchmarking.keepalive import KeepAliveClient
from benchmarking.measurement import OURS, SKOPEO, Bound, Figure, Probes, measurement
from benchmarking.processes import Transfer, run_measured

if TYPE_CHECKING:
    from benchmarking.bench import Bench
    from benchmarking.images import Image

_FIGURES: Final = (
    Figure("throughput", "MB/s", (Bound(SKOPEO, at_least=0.8),)),
    Figure("CPU", "s/GiB"),
    Figure("peak RSS", "MiB"),
)
_SMALL: Final = 8 << 10
_KIB: Final = 1 << 10


def _large_file(bench: Bench) -> Probes:
    return _layer(bench, bench.image)


def _many_files(bench: Bench) -> Probes:
    with tempfile.TemporaryDirectory(dir=bench.policy.parent) as name:
        image = make_image(Path(name, "layout"), max(_SMALL, bench.image.layer_size // 16), _SMALL)
        yield from _layer(bench, image)


if os.geteuid() == 0:
    measurement("store", "layer of a store", *_FIGURES)(_large_file)
    measurement("store-files", "layer of many files", *_FIGURES)(_many_files)


def _layer(bench: Bench, image: Image) -> Probes:
    """The layer by a daemon that has resolved the image, and by ``skopeo copy`` to a directory.

    The store is one of vfs, whose layers lie as overlay's do, and which needs no mounts.
    """
    with tempfile.TemporaryDirectory(dir=bench.policy.parent) as name:
        place = f"[vfs@{name}/root+{name}/run]localhost/os:latest"
        copy = ["--policy", str(bench.policy), "copy", "--quiet"]
        reference = f"containers-storage:{place}"
        subprocess.run(["skopeo", *copy, f"oci:{image.layout}:latest", reference], check=True)

        def export() -> Transfer:
            start = time.perf_counter()
            _, usage = run_measured([bench.skopeo, *copy, reference, f"dir:{name}/copy"])
            seconds, cpu = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
            size = Path(name, "copy", image.diff_id.partition(":")[2]).stat().st_size
            shutil.rmtree(f"{name}/copy")
            return Transfer(size, seconds, cpu, usage.ru_maxrss * _KIB)

        with serving_daemon(reference, bench.policy) as daemon:
            with closing(daemon.connect()) as connection:
                KeepAliveClient(connection, "/manifest").get()
            yield {OURS: lambda: daemon.fetch_blob(image.diff_id).figures, SKOPEO: lambda: export().figures}
