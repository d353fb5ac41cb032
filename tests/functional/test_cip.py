"""cip against the real daemon: each command, what it prints, and that nothing half-done ever looks done."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon, activated, on_port, stand_alone, write_instance, write_policy
from tests.support.gpg import Signer
from tests.support.layouts import Layout, StoredImage, layer_tar, multi_arch, single_image
from tests.support.makers.directory import write
from tests.support.privilege import ORDINARY_UID, needs_root, open_the_way
from tests.support.requirements import needs_programs
from tests.unit.client.test_unpack import archive, directory, entry, hard_link, symlink

LOWER = archive(
    directory("etc"),
    entry("etc/motd", b"hello\n"),
    entry("etc/gone", b"gone\n"),
    directory("usr"),
    directory("usr/bin"),
    entry("usr/bin/sh", b"#!sh\n", mode=0o755),
    symlink("bin", "usr/bin"),
    symlink("etc/os-release", "../usr/lib/os-release"),
    directory("usr/lib"),
    entry("usr/lib/os-release", b"NAME=x\n"),
)
UPPER = archive(
    entry("etc/.wh.gone"),
    entry("etc/motd", b"hello again\n"),
    hard_link("usr/bin/bash", "usr/bin/sh"),
    entry("big", bytes(3 << 20)),
)


class Bench:
    """The daemon, the layout that it serves, and cip."""

    def __init__(self, daemon: RunningDaemon, layout: Layout, image: StoredImage) -> None:
        self.daemon = daemon
        self.layout = layout
        self.image = image

    def move_to(self, image: StoredImage) -> None:
        """Wait until the daemon, which has looked just now, sees that the tag has moved."""
        while self.daemon.get("/manifest").headers["manifest-digest"] != image.digest:
            pass

    def cip(self, *arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        return run_cip("--socket", self.daemon.socket, *arguments, **options)


def command(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "container_image_client", *arguments]


def run_cip(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    layout = Layout(tmp_path / "layout")
    image = layout.image([LOWER, UPPER], name="1")
    policy = write_policy(tmp_path)
    with stand_alone(tmp_path / "daemon", ["--policy", str(policy), f"oci:{layout.path}:1"]) as daemon:
        yield Bench(daemon, layout, image)


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# --- documents --------------------------------------------------------------------------------------------------------


def test_a_configuration_may_have_a_history_that_is_no_utf_8(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    made = layout.image([LOWER], config={"history": [{"created_by": "XX"}]})
    config = made.config.replace(b"XX", b"caf\xe9")
    named = layout.blob(config, json.loads(made.manifest)["config"]["mediaType"])
    layout.manifest(json.loads(made.manifest) | {"config": named}, config, made.layers, name="1")
    with stand_alone(tmp_path / "run", ["--policy", str(write_policy(tmp_path)), f"oci:{layout.path}:1"]) as daemon:
        assert "motd" in ok(run_cip("--socket", daemon.socket, "--quiet", "ls", "etc"))


def test_manifest_and_config_are_printed_byte_for_byte(bench: Bench) -> None:
    assert ok(bench.cip("manifest")).encode() == bench.image.manifest
    assert ok(bench.cip("config")).encode() == bench.image.config


def test_images_are_listed_in_words_and_as_json(bench: Bench) -> None:
    lines = ok(bench.cip("images")).splitlines()
    assert lines[0].split() == ["NAME", "PLATFORM", "REFERENCE"]
    assert lines[1].endswith(f"oci:{bench.layout.path}:1")
    assert json.loads(ok(bench.cip("images", "--json"))) == bench.daemon.get("/images").json


def test_verify_says_which_rule_allowed_the_image(bench: Bench) -> None:
    words = ok(bench.cip("verify"))
    assert bench.image.digest in words
    assert "insecureAcceptAnything is met" in words
    assert "nobody had to sign it" in words
    assert json.loads(ok(bench.cip("verify", "--json")))["manifest_digest"] == bench.image.digest


def test_verify_fails_unless_the_wanted_signer_signed(bench: Bench) -> None:
    done = bench.cip("verify", "--signed-by", "openpgp:00")
    assert (done.returncode, "not signed by openpgp:00" in done.stderr) == (5, True)


def test_another_platform_and_another_image_are_chosen(tmp_path: Path) -> None:
    images = multi_arch(tmp_path / "layout")
    policy = write_policy(tmp_path)
    text = "".join(
        f'[images.{name}]\nreference = "oci:{tmp_path}/layout:latest"\nplatform = "{platform}"\n'
        for name, platform in (("one", "linux/amd64"), ("two", "linux/arm64/v8"))
    )
    write_instance(tmp_path / "config", "test", f'default = "one"\n{text}[trust]\npolicy = "{policy}"\n')
    arguments = ["--instance", "test", "--config-dir", str(tmp_path / "config")]
    with activated(tmp_path / "run", arguments) as daemon:
        place = ("--socket", daemon.socket)
        for options, platform in (
            ([], "linux/amd64"),
            (["--image", "two"], "linux/arm64/v8"),
            (["--platform", "linux/arm/v7"], "linux/arm/v7"),
        ):
            assert ok(run_cip(*place, *options, "manifest")).encode() == images[platform].manifest
            assert ok(run_cip(*place, "manifest", *options)).encode() == images[platform].manifest
        assert ok(run_cip(*place, "--image", "two", "cat", "platform")) == "linux/arm64/v8"


# --- blobs ------------------------------------------------------------------------------------------------------------


def test_a_blob_goes_to_a_file_or_a_pipe_by_a_beginning_of_its_digest(bench: Bench, tmp_path: Path) -> None:
    digest = bench.image.layer_digests[1]
    assert ok(bench.cip("blob", digest[:14], "-o", tmp_path / "blob")) == ""
    assert (tmp_path / "blob").read_bytes() == bench.image.layers[1]
    piped = subprocess.run(
        command("--socket", bench.daemon.socket, "blob", digest.removeprefix("sha256:")),
        capture_output=True,
        check=True,
    )
    assert piped.stdout == bench.image.layers[1]


@pytest.mark.demand("DIG-blob-mismatch")
def test_a_blob_that_turns_out_wrong_leaves_no_file(bench: Bench, tmp_path: Path) -> None:
    digest = bench.image.layer_digests[1]
    ok(bench.cip("manifest"))
    bench.layout.blob_path(digest).write_bytes(bytes(len(bench.image.layers[1])))
    (tmp_path / "to").mkdir()
    done = bench.cip("blob", digest, "-o", tmp_path / "to" / "blob")
    assert done.returncode in (7, 8), done.stderr
    assert list((tmp_path / "to").iterdir()) == []


def test_a_digest_that_is_no_blob_of_the_image_or_too_short_is_not_found(bench: Bench) -> None:
    for digest in ("sha256:" + 64 * "0", "sha256:0000000", "00"):
        assert bench.cip("blob", digest).returncode == 6


def test_a_whole_digest_may_be_of_an_earlier_image(bench: Bench) -> None:
    ok(bench.cip("manifest"))
    bench.move_to(bench.layout.image([LOWER], name="1"))
    digest = bench.image.layer_digests[1]
    assert bench.cip("blob", digest[:20]).returncode == 6
    piped = subprocess.run(
        command("--socket", bench.daemon.socket, "blob", digest),
        capture_output=True,
        check=True,
    )
    assert piped.stdout == bench.image.layers[1]


# --- pull -------------------------------------------------------------------------------------------------------------


@needs_programs("skopeo")
def test_what_was_pulled_is_a_layout_that_others_read(bench: Bench, tmp_path: Path) -> None:
    done = bench.cip("pull", f"oci:{tmp_path}/pulled:name")
    assert bench.image.digest in ok(done)
    assert [line.split(":")[0] for line in sorted(done.stderr.splitlines())] == ["config", "layer 1/2", "layer 2/2"]
    inspected = subprocess.run(
        ["skopeo", "inspect", f"oci:{tmp_path}/pulled:name"], capture_output=True, text=True, check=True
    )
    assert json.loads(inspected.stdout)["Digest"] == bench.image.digest
    assert sorted(os.listdir(tmp_path / "pulled")) == ["blobs", "index.json", "oci-layout"]  # noqa: PTH208 - names
    for digest, blob in bench.image.blobs.items():
        assert (tmp_path / "pulled/blobs" / digest.replace(":", "/")).read_bytes() == blob


def test_blobs_that_are_there_are_kept_and_only_verify_looks_into_them(bench: Bench, tmp_path: Path) -> None:
    layout = f"oci:{tmp_path}/pulled"
    ok(bench.cip("pull", layout))
    spoiled = tmp_path / "pulled/blobs" / bench.image.layer_digests[0].replace(":", "/")
    spoiled.write_bytes(bytes(len(bench.image.layers[0])))
    again = json.loads(ok(bench.cip("pull", layout, "--json")))
    assert (again["fetched"], len(again["kept"])) == ([], 3)
    verified = json.loads(ok(bench.cip("pull", layout, "--json", "--verify")))
    assert [blob["digest"] for blob in verified["fetched"]] == [bench.image.layer_digests[0]]
    assert spoiled.read_bytes() == bench.image.layers[0]


def test_a_name_of_a_layout_moves_to_the_newest_image_and_others_stay(bench: Bench, tmp_path: Path) -> None:
    for name in (":a", ":b", ""):
        ok(bench.cip("pull", f"oci:{tmp_path}/pulled{name}"))
    newer = bench.layout.image([LOWER], name="1")
    bench.move_to(newer)
    for name in (":a", ""):
        ok(bench.cip("pull", f"oci:{tmp_path}/pulled{name}"))
    entries = json.loads((tmp_path / "pulled/index.json").read_text())["manifests"]
    names = {
        entry.get("annotations", {}).get("org.opencontainers.image.ref.name"): entry["digest"] for entry in entries
    }
    assert names == {"a": newer.digest, "b": bench.image.digest, None: newer.digest}
    assert len(entries) == 3


@pytest.mark.parametrize("left", [0, 1000, 1 << 20])
def test_what_an_interrupted_pull_left_is_used_if_it_is_right_and_thrown_away_if_not(
    bench: Bench, tmp_path: Path, left: int
) -> None:
    layout = bench.layout
    image = layout.image([layer_tar({"big": os.urandom(2 << 20)})], name="1", compression="")
    for number, beginning in enumerate((image.layers[0][:left], bytes(left))):
        work = tmp_path / f"pulled{number}/.cip"
        work.mkdir(parents=True)
        (work / image.layer_digests[0].replace(":", "-")).write_bytes(beginning)
        ok(bench.cip("pull", f"oci:{work.parent}"))
        assert (work.parent / "blobs" / image.layer_digests[0].replace(":", "/")).read_bytes() == image.layers[0]


@pytest.mark.demand("DIG-blob-mismatch")
def test_a_pull_that_fails_leaves_no_layout(bench: Bench, tmp_path: Path) -> None:
    digest = bench.image.layer_digests[1]
    ok(bench.cip("manifest"))
    bench.layout.blob_path(digest).write_bytes(bytes(len(bench.image.layers[1])))
    done = bench.cip("pull", f"oci:{tmp_path}/pulled")
    assert done.returncode in (7, 8), done.stderr
    assert not (tmp_path / "pulled/index.json").exists()
    assert not (tmp_path / "pulled/blobs" / digest.replace(":", "/")).exists()


def test_a_directory_that_is_something_else_is_left_alone(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    done = bench.cip("pull", f"oci:{tmp_path}/mine")
    assert (done.returncode, "is not empty" in done.stderr) == (1, True)
    assert snapshot(tmp_path / "mine") == {"file": b"x"}


def test_a_pull_while_another_is_at_work_is_refused(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "pulled/.cip").mkdir(parents=True)
    lock = os.open(tmp_path / "pulled/.cip", os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = bench.cip("pull", f"oci:{tmp_path}/pulled")
    finally:
        os.close(lock)
    assert (done.returncode, "another cip" in done.stderr) == (1, True)


# --- unpack -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_the_root_file_system_is_there_whatever_the_compression(bench: Bench, tmp_path: Path, compression: str) -> None:
    image = bench.layout.image([LOWER, UPPER], name="1", compression=compression)
    done = bench.cip("unpack", tmp_path / "root")
    assert image.digest in ok(done)
    assert snapshot(tmp_path / "root") == {
        "big": bytes(3 << 20),
        "etc/motd": b"hello again\n",
        "etc/os-release": b"NAME=x\n",
        "usr/bin/bash": b"#!sh\n",
        "usr/bin/sh": b"#!sh\n",
        "usr/lib/os-release": b"NAME=x\n",
    }
    assert (tmp_path / "root/usr/bin/bash").samefile(tmp_path / "root/usr/bin/sh")
    assert (tmp_path / "root").stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@needs_programs("umoci")
def test_the_root_file_system_is_the_one_that_umoci_makes(bench: Bench, tmp_path: Path) -> None:
    ok(bench.cip("unpack", tmp_path / "root"))
    subprocess.run(
        ["umoci", "unpack", "--rootless", "--image", f"{bench.layout.path}:1", tmp_path / "bundle"],
        check=True,
        capture_output=True,
    )

    def listing(root: Path) -> list[tuple[object, ...]]:
        found = []
        for path in sorted(root.rglob("*")):
            status = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
            target = str(path.readlink()) if path.is_symlink() else None
            found.append((str(path.relative_to(root)), status.st_mode, status.st_mtime, content, target))
        return found

    assert listing(tmp_path / "root") == listing(tmp_path / "bundle/rootfs")


def test_a_directory_with_something_in_it_is_replaced_only_if_that_is_asked_for(bench: Bench, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    ok(bench.cip("unpack", root))
    (root / "mine").write_text("x")
    refused = bench.cip("unpack", root)
    assert (refused.returncode, "--replace" in refused.stderr) == (1, True)
    assert (root / "mine").exists()
    ok(bench.cip("unpack", "--replace", "--no-sync", root))
    assert not (root / "mine").exists()
    assert (root / "big").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.demand("DIG-blob-mismatch")
@pytest.mark.parametrize("wrong", ["diff id", "blob", "archive", "gzip"])
def test_a_layer_that_is_wrong_leaves_no_directory(bench: Bench, tmp_path: Path, wrong: str) -> None:
    tars, config = [LOWER, UPPER], None
    if wrong == "diff id":
        diff_ids = [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in (LOWER, LOWER)]
        config = {"rootfs": {"type": "layers", "diff_ids": diff_ids}}
    if wrong == "archive":
        tars = [LOWER, UPPER[:-700_000]]
    image = bench.layout.image(tars, name="1", config=config)
    if wrong == "blob":
        ok(bench.cip("manifest"))
        path = bench.layout.blob_path(image.layer_digests[1])
        path.write_bytes(path.read_bytes()[:-9] + bytes(9))
    if wrong == "gzip":
        tar = hashlib.sha256(UPPER).hexdigest()
        image = bench.layout.image(
            [b"\x1f\x8b no gzip"], name="1", compression="", config={"rootfs": {"diff_ids": [f"sha256:{tar}"]}}
        )
    (tmp_path / "to").mkdir()
    done = bench.cip("unpack", tmp_path / "to/root")
    assert done.returncode in (7, 8, 9), done.stderr
    assert done.stderr
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_unpack_that_is_interrupted_leaves_nothing_that_looks_done(
    bench: Bench, tmp_path: Path, number: signal.Signals
) -> None:
    """It hangs at a FIFO in place of its standard error, since the first layer is told there."""
    (tmp_path / "to").mkdir()
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(writing, fcntl.F_SETFL, os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(4096))
        fcntl.fcntl(writing, fcntl.F_SETFL, 0)
        process = subprocess.Popen(
            command("--socket", bench.daemon.socket, "unpack", tmp_path / "to/root"), stderr=writing
        )
        while not list((tmp_path / "to").glob(".root.cip/etc/motd")) and process.poll() is None:
            pass
        assert not (tmp_path / "to/root").exists()
        process.send_signal(number)
        os.set_blocking(reading, False)
        while process.poll() is None:
            with contextlib.suppress(BlockingIOError):
                os.read(reading, 65536)
    finally:
        os.close(reading)
        os.close(writing)
    assert not (tmp_path / "to/root").exists()
    if number != signal.SIGKILL:
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
        assert list((tmp_path / "to").iterdir()) == []
    ok(bench.cip("unpack", tmp_path / "to/root"))
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["root"]


def test_an_artifact_is_no_root_file_system(bench: Bench, tmp_path: Path) -> None:
    bench.layout.artifact(name="1")
    done = bench.cip("unpack", tmp_path / "root")
    assert (done.returncode, "cip blob" in done.stderr) == (10, True)


# --- ls and cat -------------------------------------------------------------------------------------------------------


def test_files_are_listed_as_the_layers_taken_together_have_them(bench: Bench) -> None:
    assert ok(bench.cip("ls")).splitlines() == ["big", "bin", "etc", "usr"]
    assert ok(bench.cip("ls", "etc/")).splitlines() == ["etc/motd", "etc/os-release"]
    assert ok(bench.cip("ls", "bin")).splitlines() == ["usr/bin/bash", "usr/bin/sh"]
    assert ok(bench.cip("ls", "-R", "/usr")).splitlines() == [
        *("usr/bin", "usr/bin/bash", "usr/bin/sh", "usr/lib", "usr/lib/os-release"),
    ]
    long = ok(bench.cip("ls", "-l", "-R", "/")).splitlines()
    assert next(line for line in long if line.endswith("bin -> usr/bin")).startswith("lrw")
    assert [line for line in long if line.endswith("usr/bin/bash link to usr/bin/sh")]
    listed = json.loads(ok(bench.cip("ls", "--json", "etc")))
    assert next((one["path"], one["type"], one["size"]) for one in listed) == ("etc/motd", "file", 12)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("etc/motd", "hello again\n"),
        ("/etc/os-release", "NAME=x\n"),
        ("bin/bash", "#!sh\n"),
        ("/bin/../bin/./sh", "#!sh\n"),
        ("../../etc/motd", "hello again\n"),
    ],
)
def test_cat_prints_a_file_links_followed_within_the_image(bench: Bench, path: str, content: str) -> None:
    assert ok(bench.cip("cat", path)) == content


@pytest.mark.parametrize(
    ("path", "says"), [("etc/gone", "there is no"), ("etc", "directory"), ("etc/motd/x", "no directory")]
)
def test_cat_says_why_a_path_is_no_file(bench: Bench, path: str, says: str) -> None:
    done = bench.cip("cat", path)
    assert (done.returncode, done.stdout, says in done.stderr) == (6, "", True)


@pytest.mark.demand("TAR-traversal")
def test_links_of_an_image_lead_to_nothing_of_this_host(bench: Bench) -> None:
    bench.layout.image(
        [archive(symlink("a", "/etc/passwd"), symlink("b", "../../etc"), symlink("loop", "loop"))], name="1"
    )
    for path in ("a", "b/passwd", "loop"):
        done = bench.cip("cat", path)
        assert (done.returncode, done.stdout) == (6, "")


@pytest.mark.demand("DIG-blob-mismatch")
def test_cat_prints_nothing_of_a_layer_that_is_wrong(bench: Bench) -> None:
    diff_ids = [f"sha256:{hashlib.sha256(b'other').hexdigest()}"]
    bench.layout.image([LOWER], name="1", config={"rootfs": {"diff_ids": diff_ids}})
    done = bench.cip("cat", "etc/motd")
    assert (done.returncode, done.stdout) == (9, "")


# --- plan -------------------------------------------------------------------------------------------------------------


def test_a_plan_tells_layers_added_kept_and_removed_and_fetches_manifests_only(bench: Bench, tmp_path: Path) -> None:
    ok(bench.cip("pull", f"oci:{tmp_path}/have"))
    (tmp_path / "manifest.json").write_bytes(bench.image.manifest)
    newer = bench.layout.image([LOWER, archive(entry("new", b"n" * 5000))], name="1")
    bench.move_to(newer)
    have_digest = bench.image.digest  # of a snapshot that the daemon still has
    for digest in newer.blobs:
        bench.layout.blob_path(digest).unlink()  # a plan that fetched one would fail
    for have in (f"oci:{tmp_path}/have", str(tmp_path / "manifest.json"), have_digest):
        plan = json.loads(ok(bench.cip("plan", "--json", "--have", have)))
        changes = {word: [layer["digest"] for layer in plan[word]] for word in ("added", "kept", "removed")}
        assert changes == {
            "added": [newer.layer_digests[1]],
            "kept": [newer.layer_digests[0]],
            "removed": [bench.image.layer_digests[1]],
        }
        assert plan["size"] == len(newer.layers[1]) + len(newer.config)
        assert [line.split()[0] for line in ok(bench.cip("plan", "--have", have)).splitlines()] == [
            *("add", "keep", "remove", "to"),
        ]


def test_a_digest_that_the_daemon_does_not_know_any_more_is_not_found(bench: Bench) -> None:
    assert bench.cip("plan", "--have", f"sha256:{64 * '0'}").returncode == 6


def test_a_plan_for_a_layout_counts_what_it_lacks(bench: Bench, tmp_path: Path) -> None:
    ok(bench.cip("pull", f"oci:{tmp_path}/have"))
    (tmp_path / "have/blobs" / bench.image.layer_digests[0].replace(":", "/")).unlink()
    plan = json.loads(ok(bench.cip("plan", "--json", "--have", f"oci:{tmp_path}/have")))
    assert [layer["digest"] for layer in plan["added"]] == [bench.image.layer_digests[0]]


# --- watch ------------------------------------------------------------------------------------------------------------


def test_watch_tells_a_change_and_runs_a_command_with_it(bench: Bench, tmp_path: Path) -> None:
    arguments = command("--socket", bench.daemon.socket, "watch", "--interval", "0.05", "--once")
    script = 'echo "$CIP_PREVIOUS_DIGEST $CIP_DIGEST" >>"$1"; test "$(wc -l <"$1")" = 2'
    running = [*arguments, "--", "sh", "-c", script, "-", str(tmp_path / "told")]
    with (
        subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as printing,
        subprocess.Popen(running, stderr=subprocess.PIPE, text=True) as acting,
    ):
        assert printing.stderr is not None
        assert acting.stderr is not None
        for stream in (printing.stderr, acting.stderr):
            assert stream.readline().endswith(f"which is {bench.image.digest}\n")
        newer = bench.layout.image([LOWER], name="1")
        assert printing.communicate()[0].split()[1:] == [newer.digest, f"oci:{bench.layout.path}:1"]
        assert "it is run again" in acting.communicate()[1]
    assert (printing.returncode, acting.returncode) == (0, 0)
    assert (tmp_path / "told").read_text().splitlines() == [f"{bench.image.digest} {newer.digest}"] * 2


def test_watch_asks_once_a_poll_and_conditionally(bench: Bench) -> None:
    arguments = command("--socket", bench.daemon.socket, "watch", "--interval", "0.01", "--since", bench.image.digest)
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
        while bench.daemon.log_text().count("GET /manifest 304") < 5:
            assert process.poll() is None
        process.terminate()
    assert process.returncode == 143
    assert "GET /manifest 200" not in bench.daemon.log_text()


def test_watch_survives_what_fails_later(bench: Bench, tmp_path: Path) -> None:
    arguments = command("--socket", bench.daemon.socket, "watch", "--interval", "0.05", "--json", "--once")
    index = bench.layout.path / "index.json"
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while "GET /manifest" not in bench.daemon.log_text():
            assert process.poll() is None
        whole = index.read_bytes()
        index.write_bytes(b"{")
        while "GET /manifest 502" not in bench.daemon.log_text():
            assert process.poll() is None
        index.write_bytes(whole)
        newer = bench.layout.image([LOWER], name="1")
        told = json.loads(process.communicate()[0])
    assert (told["digest"], told["previous"]) == (newer.digest, bench.image.digest)


# --- what all have in common ------------------------------------------------------------------------------------------


def test_over_tcp_the_same_is_served(tmp_path: Path) -> None:
    image = Layout(tmp_path / "layout").image([LOWER], name="1")
    policy = write_policy(tmp_path)
    with on_port(tmp_path / "daemon", ["--policy", str(policy), f"oci:{tmp_path}/layout:1"]) as (_, port):
        done = run_cip("--url", f"http://127.0.0.1:{port}", "manifest")
    assert ok(done).encode() == image.manifest


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--socket", "/nowhere", "images"], 3, "start the daemon"),
        (["--instance", "no-such", "images"], 3, "systemctl enable --now container-image-proxy@no-such.socket"),
        (["--url", "http://127.0.0.1:1", "images"], 3, "container-image-proxy --port"),
        (["--url", "ftp://x", "images"], 3, "write http://127.0.0.1:PORT"),
        (["images"], 3, "--instance NAME"),
        (["--socket", "/nowhere", "pull", "nowhere"], 1, "write oci:DIR"),
        (["nonsense"], 2, "invalid choice"),
        (["watch", "--interval", "-1"], 2, "invalid"),
    ],
)
def test_what_cannot_be_done_says_what_to_do_next(arguments: list[str], code: int, says: str) -> None:
    done = run_cip(*arguments)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr


def test_errors_are_json_for_programs(bench: Bench) -> None:
    done = bench.cip("--json", "--image", "other", "manifest")
    error = json.loads(done.stderr)["error"]
    assert (done.returncode, error["exit"], error["problem"]["code"]) == (6, 6, "NAME_UNKNOWN")


def test_who_is_not_allowed_and_what_policy_rejects_have_codes_of_their_own(tmp_path: Path) -> None:
    Layout(tmp_path / "layout").image(name="1")
    policy = write_policy(tmp_path, {"default": [{"type": "reject"}]})
    with stand_alone(tmp_path / "daemon", ["--policy", str(policy), f"oci:{tmp_path}/layout:1"]) as daemon:
        done = run_cip("--socket", daemon.socket, "verify")
    assert done.returncode == 5
    assert "reject" in done.stderr


@needs_root
def test_a_user_whom_nobody_allowed_is_told(bench: Bench) -> None:
    bench.daemon.socket.chmod(0o666)
    open_the_way(bench.daemon)
    done = bench.cip("manifest", user=ORDINARY_UID, group=ORDINARY_UID, extra_groups=[])
    assert (done.returncode, "[access]" in done.stderr) == (4, True), done.stderr


def test_a_configuration_that_cannot_be_used_is_told_with_its_remedy(tmp_path: Path) -> None:
    write_instance(tmp_path / "config", "test", "[images.os]\nreferense = 1\n")
    arguments = ["--instance", "test", "--config-dir", str(tmp_path / "config")]
    with activated(tmp_path / "run", arguments) as daemon:
        done = run_cip("--socket", daemon.socket, "manifest")
    assert (done.returncode, "referense" in done.stderr) == (8, True), done.stderr


def test_verify_says_who_signed(tmp_path: Path, signer: Signer) -> None:
    name = "example.com/os:1"
    write(tmp_path / "image", image := single_image(tmp_path / "layout"))
    (tmp_path / "image/signature-1").write_bytes(signer.sign_image(name, image.digest))
    (tmp_path / "key.gpg").write_bytes(signer.public_key)
    identity = {"type": "exactReference", "dockerReference": name}
    requirement = {
        "type": "signedBy",
        "keyType": "GPGKeys",
        "keyPath": f"{tmp_path}/key.gpg",
        "signedIdentity": identity,
    }
    policy = write_policy(tmp_path, {"default": [{"type": "reject"}], "transports": {"dir": {"": [requirement]}}})
    with stand_alone(tmp_path / "run", ["--policy", str(policy), f"dir:{tmp_path}/image"]) as daemon:
        words = ok(run_cip("--socket", daemon.socket, "verify")).splitlines()
        (line,) = [one for one in words if one.startswith("it is signed by ")]
        who = line.removeprefix("it is signed by ")
        assert signer.fingerprint.lower() in who.lower()
        assert any(one.startswith("  signedBy is met: ") for one in words)
        assert run_cip("--socket", daemon.socket, "verify", "--signed-by", who).returncode == 0
        assert run_cip("--socket", daemon.socket, "verify", "--signed-by", "other").returncode == 5


def test_on_a_terminal_there_are_bars_with_rate_and_time_left(bench: Bench, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    try:
        process = subprocess.Popen(
            command("--socket", bench.daemon.socket, "pull", f"oci:{tmp_path}/pulled"),
            stdout=subprocess.DEVNULL,
            stderr=theirs,
        )
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO, when the other side has closed
            while piece := os.read(ours, 4096):
                shown += piece
        assert process.wait() == 0
    finally:
        os.close(ours)
    assert b"layer 2/2" in shown
    assert b"B/s" in shown


def test_without_standard_streams_it_does_what_needs_none(bench: Bench, tmp_path: Path) -> None:
    for number, closed in enumerate(("<&-", "2>&-", "<&- 2>&-")):
        line = command("--socket", bench.daemon.socket, "pull", f"oci:{tmp_path}/pulled{number}")
        assert ok(
            subprocess.run(["sh", "-c", f'"$@" {closed}', "-", *line], capture_output=True, text=True, check=False)
        )
        assert (tmp_path / f"pulled{number}/index.json").exists()


@pytest.mark.parametrize("arguments", [["manifest"], ["ls"], ["images"], ["blob", "CONFIG"], ["cat", "etc/motd"]])
@pytest.mark.parametrize(
    ("stdout", "reason"), [("&-", "Bad file descriptor"), ("/dev/full", "No space left on device")]
)
def test_output_that_cannot_be_written_is_an_error(
    bench: Bench, arguments: list[str], stdout: str, reason: str
) -> None:
    line = command("--socket", bench.daemon.socket, "--quiet", *arguments)
    line = [bench.image.config_digest if one == "CONFIG" else one for one in line]
    done = subprocess.run(["sh", "-c", f'"$@" >{stdout}', "-", *line], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"cip: {reason}\n")


def test_a_reader_that_leaves_ends_it_quietly(bench: Bench) -> None:
    bench.layout.image([archive(*(entry(f"{number:05}") for number in range(20_000)))], name="1")
    process = subprocess.Popen(
        command("--socket", bench.daemon.socket, "-q", "ls", "-R"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() == 141
