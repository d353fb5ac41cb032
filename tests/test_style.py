"""The tools that hold style, types and layers, run as tests: one closing line says everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["ruff", "check", "--no-cache"], id="ruff-check"),
        pytest.param(["ruff", "format", "--no-cache", "--diff"], id="ruff-format"),
        pytest.param(["mypy"], id="mypy"),
        pytest.param(["lint-imports", "--no-cache"], id="lint-imports"),
    ],
)
def test_tool_is_content(command: list[str]) -> None:
    tool, *arguments = command
    done = subprocess.run([TOOLS / tool, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "script",
    [
        "contrib/carry-image",
        "contrib/quickstart",
        "tests/run",
        "tests/support/bare-debian",
        "tests/support/boot",
        ".ci/run",
        "contrib/completions/container-image-proxy.bash",
        "contrib/completions/cip.bash",
        "contrib/skopeo-shim/skopeo",
    ],
)
def test_shellcheck_is_content(script: str) -> None:
    command = ["shellcheck", "--external-sources", "--source-path=.", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_thread_that_forgets_its_context_does_not_type_check(tmp_path: Path) -> None:
    """Deadline and cancellation are arguments, down to the socket: no default and no ambient value stands in."""
    script = tmp_path / "forgetful.py"
    script.write_text(
        "import threading\n"
        "from container_image_proxy.concurrency.context import Context\n"
        "from container_image_proxy.registry.http.connect import connect\n"
        "Context()\n"
        'threading.Thread(target=lambda: connect("registry.example", 443)).start()\n'
    )
    done = subprocess.run([TOOLS / "mypy", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert 'Missing positional argument "cancellation" in call to "Context"' in done.stdout, done.stdout + done.stderr
    assert 'Missing positional argument "context" in call to "connect"' in done.stdout
