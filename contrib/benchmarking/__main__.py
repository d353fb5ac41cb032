"""The command line of ``contrib/benchmark``."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarking import (  # noqa: F401 - they enter their measurements
    archives,
    clients,
    image_proxies,
    manifests,
    pulls,
    stores,
    transfers,
)
from benchmarking.bench import set_up
from benchmarking.chart import draw, format_markdown
from benchmarking.measurement import MEASUREMENTS
from benchmarking.processes import MIB
from benchmarking.report import Row, describe_host, format_table, measure, to_json

_PROGRAMS: Final = ("curl", "docker-registry", "nginx", "openssl", "skopeo")  # Debian packages of the same names


def _options() -> argparse.Namespace:
    measurements = "\n".join(f"  {each.name:<10}{each.title}" for each in MEASUREMENTS.values())
    parser = argparse.ArgumentParser(
        prog="contrib/benchmark",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure container-image-proxy beside skopeo's proxy and plain curl; registries run on loopback.",
        epilog=f"measurements:\n{measurements}\n\nEach figure is the median of the rounds, which take turns.",
    )
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of the layer (default 1024)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default 5")
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, metavar="NAME", help="may be repeated")
    parser.add_argument("--json", type=Path, default=Path("benchmark.json"), metavar="FILE", help="default %(default)s")
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="for five times the size; default $TMPDIR or /tmp"
    )
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw throughput as SVG, print a table in Markdown")
    parser.add_argument("--skopeo", default="skopeo", metavar="PATH", help="another skopeo than the installed one")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    options = _options()
    if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
        sys.exit(f"contrib/benchmark: not installed: {' '.join(missing)}; Debian has packages of these names")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unwinds, so that everything is stopped and removed
    host = describe_host(options.skopeo)
    print("\n".join(f"{name}: {value}" for name, value in host.items()), file=sys.stderr)
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory(dir=options.directory) as name,
        set_up(Path(name), options.size * MIB, options.skopeo) as bench,
    ):
        for measurement in MEASUREMENTS.values():
            if not options.only or measurement.name in options.only:
                print(f"{measurement.title} ...", file=sys.stderr)
                rows += measure(measurement, bench, options.rounds)
    print("\n".join(format_table(rows)))
    if options.chart:
        options.chart.write_text(draw(rows, host))
        print("\n".join(format_markdown(rows)))
    document = {"host": host, "size_mib": options.size, "rows": [to_json(row) for row in rows]}
    options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
