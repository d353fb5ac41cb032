"""contrib/benchmark measures all it promises; what the figures are is not a test's business."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOMETIMES = {"second-gzip", "getrawblob", "getrawblob-tls"}
"""What Debian 12's skopeo cannot do: it reads no compressed archive, and does not know GetRawBlob."""


@pytest.mark.usefixtures("no_agent_of_skopeo")
@pytest.mark.timeout(1200)
def test_one_small_run_measures_every_row_for_every_contender(tmp_path: Path) -> None:
    report, chart, scratch = tmp_path / "report.json", tmp_path / "chart.svg", tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarking", "--size", "1", "--rounds", "1"),
            *("--json", str(report), "--chart", str(chart), "--directory", str(scratch)),
        ],
        env=os.environ | {"PYTHONPATH": f"{ROOT}/contrib:{ROOT}/daemon"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(report.read_text())["rows"]
    relayed = {"proxy", "skopeo", "relay"}
    contenders = {
        "http": {*relayed, "direct"},
        "https": {*relayed, "direct"},
        "many": relayed,
        "many-registry": relayed,
        "resume": {"proxy"},
        "pull": {"proxy", "direct"},
        "cip-pull": {"proxy", "direct"},
        "cip-unpack": {"proxy", "skopeo"},
        "cip-plan": {"proxy"},
        "gpg": {"proxy", "skopeo"},
        "getblob": {"proxy", "skopeo"},
        "getblob-tls": {"proxy", "skopeo"},
        "openimage": {"proxy", "skopeo"},
        "openimage-first": {"proxy", "skopeo"},
        "oci-archive": {"proxy", "skopeo", "sha256"},
        "oci": {"proxy", "skopeo", "sha256"},
        "dir": {"proxy", "skopeo", "sha256"},
        "second": {"proxy", "skopeo"},
        "start-oci": {"proxy", "skopeo"},
        "sigstore": {"proxy"},  # Debian 12 builds skopeo without sigstore
    } | ({"store": {"proxy", "skopeo"}, "store-files": {"proxy", "skopeo"}} if os.geteuid() == 0 else {})
    assert {row["measurement"] for row in rows} == {"manifest", "resolve", "start", *SOMETIMES, *contenders}
    for row in rows:
        if row["measurement"] in SOMETIMES:
            assert "proxy" in row["median"]
            continue
        assert set(row["median"]) == contenders.get(row["measurement"], {"proxy", "skopeo", "direct"})
        assert row["figure"].startswith(("added", "blobs")) or all(value > 0 for value in row["median"].values())
    compared = [row for row in rows if "skopeo" in row["median"]]
    assert len(done.stdout.splitlines()) == 1 + len(rows) + 2 + len(compared)
    bars = ET.parse(chart).findall(".//{http://www.w3.org/2000/svg}rect")  # noqa: S314 - we wrote it
    drawn = [set(row["median"]) - {"direct", "sha256"} for row in rows if row["figure"] == "throughput"]
    assert len(bars) == sum(map(len, drawn))
    assert not any(scratch.iterdir()), "something was left behind"
