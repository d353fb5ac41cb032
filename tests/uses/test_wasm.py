"""contrib/run-wasm: modules out of artifacts, of each type that is in use, run by wasmtime."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import stand_alone, write_policy
from tests.support.layouts import OCI_CONFIG, OCI_EMPTY, OCI_LAYER, OCI_MANIFEST, JSONObject, Layout

wasmtime = pytest.importorskip("wasmtime", reason="needs wasmtime from PyPI, one of the tests' own requirements")

PROGRAM = Path(__file__).resolve().parents[2] / "contrib/run-wasm"
MODULE_TYPE = "application/wasm"

# Prints a greeting, and exits with the number of its arguments.
PROGRAM_TEXT = r"""
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "hello from an artifact\n")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 23))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (drop (call $sizes (i32.const 16) (i32.const 20)))
    (call $exit (i32.load (i32.const 16)))))
"""
GREETING = "hello from an artifact\n"


def code(text: str = PROGRAM_TEXT) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def working_group(layout: Layout, module: bytes) -> JSONObject:
    """As the WebAssembly working group's guidance for OCI artifacts has it."""
    config = {
        "created": "2026-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip1",
        "layerDigests": [layout.blob(module, MODULE_TYPE)["digest"]],
    }
    raw = json.dumps(config).encode()
    return {
        "config": layout.blob(raw, "application/vnd.wasm.config.v0+json"),
        "layers": [layout.blob(module, MODULE_TYPE)],
    }


def oras(layout: Layout, module: bytes) -> JSONObject:
    """As "oras push --artifact-type application/vnd.wasm.config.v0+json app.wasm:application/wasm" writes it."""
    title = {"org.opencontainers.image.title": "app.wasm"}
    return {
        "artifactType": "application/vnd.wasm.config.v0+json",
        "config": layout.blob(b"{}", OCI_EMPTY) | {"data": "e30="},
        "layers": [layout.blob(module, MODULE_TYPE) | {"annotations": title}],
        "annotations": {"org.opencontainers.image.created": "2026-01-01T00:00:00Z"},
    }


def older(layout: Layout, module: bytes) -> JSONObject:
    """As wasm-to-oci wrote it."""
    return {
        "config": layout.blob(b"", "application/vnd.wasm.config.v1+json"),
        "layers": [layout.blob(module, "application/vnd.wasm.content.layer.v1+wasm")],
    }


@contextmanager
def served(tmp_path: Path, form: Callable[[Layout, bytes], JSONObject], module: bytes) -> Iterator[tuple[Path, Layout]]:
    layout = Layout(tmp_path / "layout")
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST} | form(layout, module)
    layout.manifest(manifest, b"", (), name="1")
    policy = write_policy(tmp_path)
    with stand_alone(tmp_path / "run", ["--policy", str(policy), f"oci:{layout.path}:1"]) as daemon:
        yield daemon.socket, layout


def run(socket: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PROGRAM, "--socket", socket, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("form", [working_group, oras, older])
def test_a_module_runs(tmp_path: Path, form: Callable[[Layout, bytes], JSONObject]) -> None:
    with served(tmp_path, form, code()) as (socket, _):
        done = run(socket, "--", "--one", "two", "three")
    assert (done.returncode, done.stdout, done.stderr) == (4, GREETING, "")


def test_a_module_that_is_wrong_never_runs(tmp_path: Path) -> None:
    """Its greeting is changed where it lies, so that it is a module all the same."""
    with served(tmp_path, working_group, code()) as (socket, layout):
        path = next(one for one in (layout.path / "blobs/sha256").iterdir() if one.read_bytes().startswith(b"\0asm"))
        path.write_bytes(path.read_bytes().replace(b"hello", b"jello"))
        done = run(socket)
    assert (done.returncode, done.stdout) == (1, "")
    assert "other content" in done.stderr, done.stderr


def test_a_directory_is_there_only_if_it_was_given(tmp_path: Path) -> None:
    text = """
    (module
      (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (func (export "_start") (call $exit (call $prestat (i32.const 3) (i32.const 0)))))
    """
    bad_descriptor = 8  # EBADF of WASI
    with served(tmp_path, oras, code(text)) as (socket, _):
        assert run(socket).returncode == bad_descriptor
        assert run(socket, "--dir", f"{tmp_path}::/data").returncode == 0


def test_an_image_of_a_root_file_system_is_no_program(tmp_path: Path) -> None:
    def image(layout: Layout, module: bytes) -> JSONObject:
        return {"config": layout.blob(b"{}", OCI_CONFIG), "layers": [layout.blob(module, OCI_LAYER)]}

    with served(tmp_path, image, bytes(1024)) as (socket, _):
        done = run(socket)
    assert done.returncode == 1
    assert f"0 WebAssembly modules, not one; its layers are: {OCI_LAYER}" in done.stderr


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (b"\0asm\x0d\0\1\0", "this is a component"),
        (b"no module", "run-wasm: "),
        (b"\0asm\1\0\0\0", "exports no _start"),
        (code('(module (func (export "_start") unreachable))'), "unreachable"),
    ],
    ids=["a component", "something else", "a library", "a trap"],
)
def test_what_cannot_be_run_is_told(tmp_path: Path, module: bytes, reason: str) -> None:
    with served(tmp_path, working_group, module) as (socket, _):
        done = run(socket)
    assert (done.returncode, reason in done.stderr, "Traceback" in done.stderr) == (1, True, False), done.stderr


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with served(tmp_path, oras, code()) as (socket, _):
        done = run(socket, "--dir", f"{tmp_path}/nowhere")
    assert (done.returncode, "run-wasm: " in done.stderr, "Traceback" in done.stderr) == (1, True, False), done.stderr


def test_no_daemon_is_told(tmp_path: Path) -> None:
    done = run(tmp_path / "nobody.sock")
    assert (done.returncode, "nobody.sock" in done.stderr, "Traceback" in done.stderr) == (1, True, False)
