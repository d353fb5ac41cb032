"""contrib/ostree-update with Debian's ostree: hosts in a sysroot are updated, rolled back, and left as they were."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.functional.test_cip import run_cip
from tests.support.cutter import Cutter
from tests.support.daemon import RunningDaemon, stand_alone, write_policy
from tests.support.gpg import Signer
from tests.support.layouts import Layout, StoredImage
from tests.support.makers.directory import write
from tests.support.privilege import needs_root
from tests.support.requirements import needs_programs, require_introspection, require_mounting
from tests.unit.client.test_unpack import Entry, archive, directory, entry, hard_link, symlink

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "contrib/ostree-update"
NAME = "example.com/os:1"
MIB = 1 << 20
DIGEST_OF_OTHER = f"sha256:{'0' * 64}"
LARGE = random.Random(15).randbytes(3 * MIB)  # noqa: S311 - no secret

pytestmark = [needs_root, needs_programs("ostree", "gpg")]

BASE = archive(
    directory("etc"),
    entry("etc/motd", b"one\n"),
    entry("etc/gone", b"gone\n"),
    directory("usr"),
    directory("usr/bin"),
    entry("usr/bin/su", b"#!su\n", mode=0o4755),
    hard_link("usr/bin/sudo", "usr/bin/su"),
    symlink("bin", "usr/bin"),
    directory("usr/share/private", mode=0o700, uid=12, gid=34),
    entry("usr/share/large", LARGE, uid=12, gid=34, pax_headers={"SCHILY.xattr.user.kind": "large"}),
    entry("usr/lib/modules/6.1/vmlinuz", b"kernel"),
    entry("usr/lib/modules/6.1/initramfs.img", b"initramfs"),
    entry("usr/lib/os-release", b"ID=test\nPRETTY_NAME=Test\n"),
    entry("dev/null", kind=b"3", devmajor=1, devminor=3),
    entry(
        "usr/share/sparse.0",
        b"1\n4096\n5\n".ljust(512, b"\0") + b"hello",
        pax_headers={
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "usr/share/sparse",
            "GNU.sparse.realsize": "10000",
        },
    ),
    directory("sysroot"),
    directory("boot"),
    directory("var"),
    symlink("ostree", "sysroot/ostree"),
)
UPPER = archive(entry("etc/motd", b"one again\n"), entry("etc/.wh.gone"), hard_link("usr/bin/doas", "usr/bin/su"))
OTHER = archive(entry("etc/motd", b"two\n"), entry("usr/bin/.wh..wh..opq"), entry("usr/bin/new", b"#!new\n"))


@pytest.fixture(autouse=True)
def _introspection() -> None:
    require_introspection("OSTree", "1.0")


@dataclass
class Host:
    """A sysroot as ostree makes it, and the directory whose image the daemon serves."""

    sysroot: Path
    place: Path
    layout: Layout
    signer: Signer
    daemon: RunningDaemon

    def publish(self, *layers: bytes, by: Signer | None = None) -> StoredImage:
        """The image at the reference is another from now on."""
        return self.publish_image(self.layout.image(layers), by=by)

    def publish_image(self, image: StoredImage, *, by: Signer | None = None) -> StoredImage:
        shutil.rmtree(self.place, ignore_errors=True)
        write(self.place, image)
        (self.place / "signature-1").write_bytes((by or self.signer).sign_image(NAME, image.digest))
        return image

    def see(self, image: StoredImage) -> None:
        """Wait until the daemon, which may have looked just now, sees it."""
        while self.daemon.get("/manifest").headers.get("manifest-digest") != image.digest:
            pass

    @property
    def who(self) -> str:
        (one,) = self.daemon.get("/verification").json["signed_by"]
        return str(one)

    def command(self, *arguments: str, socket: Path | None = None) -> list[str]:
        place = ["--socket", str(socket or self.daemon.socket), "--sysroot", str(self.sysroot), "--os", "test"]
        return ["/usr/bin/python3", str(PROGRAM), *place, *(arguments or ["--signed-by", self.who])]

    def update(
        self, *arguments: str, socket: Path | None = None, path: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        search = f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]
        return subprocess.run(
            self.command(*arguments, socket=socket),
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PATH": search},
        )

    def admin(self, *arguments: str) -> str:
        return run("ostree", "admin", arguments[0], f"--sysroot={self.sysroot}", *arguments[1:])

    def deployments(self) -> list[Path]:
        """The first one is booted next."""
        names = re.findall(r"^[ *] test (\S+)", self.admin("status"), re.MULTILINE)
        return [self.sysroot / "ostree/deploy/test/deploy" / name for name in names]

    def metadata(self, commit: str, key: str) -> str:
        return run("ostree", f"--repo={self.sysroot}/ostree/repo", "show", f"--print-metadata-key={key}", commit)

    def fsck(self) -> None:
        run("ostree", f"--repo={self.sysroot}/ostree/repo", "fsck", "--quiet")


class Forger(Cutter):
    """A relay that has another answer for /verification."""

    def __init__(self, path: Path, behind: Path, receipt: bytes) -> None:
        super().__init__(path, behind, [])
        self._receipt = receipt

    def _relay(self, client: socket.socket, limit: int | None) -> None:
        head = client.recv(65536, socket.MSG_PEEK)
        if b"/verification" not in head:
            super()._relay(client, limit)
            return
        with client, contextlib.suppress(OSError):
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(self._receipt), self._receipt))


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture
def host(tmp_path: Path, signer: Signer) -> Iterator[Host]:
    sysroot = tmp_path / "sysroot"
    sysroot.mkdir()
    (tmp_path / "key.gpg").write_bytes(signer.public_key)
    requirement = {
        "type": "signedBy",
        "keyType": "GPGKeys",
        "keyPath": f"{tmp_path}/key.gpg",
        "signedIdentity": {"type": "exactReference", "dockerReference": NAME},
    }
    policy = write_policy(tmp_path, {"default": [{"type": "reject"}], "transports": {"dir": {"": [requirement]}}})
    place = tmp_path / "image"
    place.mkdir()
    run("ostree", "admin", "init-fs", str(sysroot))
    run("ostree", "admin", "os-init", f"--sysroot={sysroot}", "test")
    with stand_alone(tmp_path / "daemon", ["--policy", str(policy), f"dir:{place}"]) as daemon:
        yield Host(sysroot, place, Layout(tmp_path / "layout"), signer, daemon)
    # What ostree made immutable could not be removed with the directory for temporary files.
    for deployment in (sysroot / "ostree/deploy/test/deploy").glob("*.[0-9]"):
        subprocess.run(["chattr", "-i", str(deployment)], check=False, capture_output=True)


# --- an image that is no more than a file system ----------------------------------------------------------------------


def test_an_image_is_flattened_into_a_commit_and_deployed(host: Host) -> None:
    image = host.publish(BASE, UPPER)
    said = ok(host.update())
    (deployment,) = host.deployments()
    assert image.digest in said
    assert "left out, since ostree keeps none: character device (1)" in said
    assert (deployment / "etc/motd").read_bytes() == b"one again\n"
    assert not (deployment / "etc/gone").exists()
    assert (deployment / "usr/etc/motd").read_bytes() == b"one again\n"
    assert (deployment / "bin").readlink() == Path("usr/bin")
    su = (deployment / "usr/bin/su").stat()
    assert stat.S_IMODE(su.st_mode) == 0o4755
    assert (deployment / "usr/bin/doas").stat().st_ino == (deployment / "usr/bin/sudo").stat().st_ino == su.st_ino
    large = deployment / "usr/share/large"
    assert large.read_bytes() == LARGE
    assert (large.stat().st_uid, large.stat().st_gid) == (12, 34)
    assert os.getxattr(large, "user.kind") == b"large"
    assert (deployment / "usr/share/sparse").read_bytes() == bytes(4096) + b"hello" + bytes(10000 - 4101)
    private = (deployment / "usr/share/private").stat()
    assert (private.st_uid, private.st_gid, stat.S_IMODE(private.st_mode)) == (12, 34, 0o700)
    assert image.digest in host.metadata(deployment.name.partition(".")[0], "ostree.manifest-digest")
    host.fsck()


def test_layers_come_out_as_when_they_are_unpacked(host: Host, tmp_path: Path) -> None:
    lower = archive(
        *(entry(f"usr/{place}/{name}", name.encode()) for place in ("a", "b", "c", "d/e", "f") for name in "xyz"),
        symlink("usr/link", "a"),
        entry("usr/file", b"file"),
    )
    upper = archive(
        entry("usr/a/.wh.x"),
        entry("usr/b/new", b"new"),
        entry("usr/b/.wh..wh..opq"),  # behind what its own layer has
        entry("usr/.wh.c"),
        entry("usr/c/again", b"again"),
        entry("usr/d", b"no directory any more"),
        entry("usr/link/inside", b"a directory in place of the link"),
        directory("usr/file", mode=0o700),
        entry("usr/f/.wh..wh.aufs"),
        entry("usr/f/x", b"another"),
        hard_link("usr/f/linked", "usr/f/y"),
        hard_link("usr/f/of-this-layer", "usr/f/x"),
    )
    host.publish(BASE, lower, upper)
    ok(host.update())
    assert run_cip("--socket", host.daemon.socket, "unpack", tmp_path / "unpacked").returncode == 0
    (deployment,) = host.deployments()
    assert listing(deployment / "usr") - listing(tmp_path / "unpacked/usr") == listing(deployment / "usr", "etc")
    assert listing(tmp_path / "unpacked/usr") <= listing(deployment / "usr")


def listing(root: Path, below: str = "") -> set[tuple[str, int, int, int, bytes]]:
    """Everything below a directory, with what ostree keeps of it."""
    found = set()
    for path in [root / below, *(root / below).rglob("*")]:
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        content = os.fsencode(path.readlink()) if path.is_symlink() else content
        if path != root:
            name = str(path.relative_to(root))
            found.add((name, status.st_mode, status.st_uid, status.st_gid, content))
    return found


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        (archive(entry("usr/etc/motd", b"two of them")), "/usr/etc"),
        (archive(entry("usr/f\udcff", b"")), "UTF-8"),
        (archive(symlink("usr/lib/x", "/tmp"), entry("usr/lib/x/outside", b"")), "no link is followed"),
        (archive(entry("../outside", b"")), "leads out of the image"),
        (archive(hard_link("usr/x", "usr/none")), "does not have as a file"),
    ],
)
def test_what_ostree_cannot_have_is_refused_with_the_reason(host: Host, layer: bytes, word: str) -> None:
    host.publish(BASE, layer)
    done = host.update()
    assert (done.returncode in (9, 10), host.deployments()) == (True, []), done.stderr
    assert word in done.stderr
    host.fsck()


def test_nothing_is_written_outside_of_the_sysroot(host: Host) -> None:
    require_mounting("all file systems are read-only but for the sysroot")
    host.publish(BASE, UPPER)
    script = """
        set -e
        mount --bind "$0" "$0"
        mount -o remount,bind,ro /
        if mountpoint -q /tmp; then mount -o remount,bind,ro /tmp; fi
        if touch "$0/../outside" 2> /dev/null; then exit 99; fi
        exec "$@"
    """
    command = ["unshare", "--mount", "sh", "-c", script, str(host.sysroot), *host.command()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ok(done)
    assert len(host.deployments()) == 1


def test_two_updates_keep_the_deployment_before_and_a_rollback_is_respected(host: Host) -> None:
    host.publish(BASE, UPPER)
    ok(host.update("--karg", "root=LABEL=x", "--signed-by-anyone"))
    (one,) = host.deployments()
    (one / "etc/local").write_text("of this host\n")
    second = host.publish(BASE, OTHER)
    host.see(second)
    said = ok(host.update())
    assert ("layer 1/2" in said, "layer 2/2" in said) == (False, True)
    two, before = host.deployments()
    assert before == one
    assert (two / "etc/motd").read_bytes() == b"two\n"
    assert (two / "etc/local").read_text() == "of this host\n"
    assert [one.name for one in (two / "usr/bin").iterdir()] == ["new"]
    assert all("root=LABEL=x" in one.read_text() for one in (host.sysroot / "boot/loader/entries").iterdir())
    assert "up to date" in ok(host.update())
    host.admin("undeploy", "0")
    assert host.deployments() == [one]
    assert "up to date" in ok(host.update())  # the administrator's word counts until there is another image
    assert host.deployments() == [one]
    third = host.publish(BASE, UPPER, archive(entry("etc/motd", b"three\n")))
    host.see(third)
    ok(host.update())
    assert (host.deployments()[0] / "etc/motd").read_bytes() == b"three\n"
    assert host.deployments()[1] == one
    host.fsck()


def test_a_poll_is_one_conditional_request(host: Host, tmp_path: Path) -> None:
    host.publish(BASE)
    who = ["--signed-by-anyone"]
    ok(host.update(*who))
    with Cutter(tmp_path / "relay.sock", host.daemon.socket, []) as cutter:
        ok(host.update(*who, socket=cutter.path))
    (request,) = cutter.requests
    assert request.startswith(b"GET /manifest ")
    assert b"If-None-Match" in request


@pytest.mark.parametrize("other", ["signature", "signer"])
def test_what_the_wanted_signer_did_not_sign_is_not_deployed(host: Host, stranger: Signer, other: str) -> None:
    host.publish(BASE, UPPER)
    who = host.who
    ok(host.update("--signed-by", who))
    before = host.deployments()
    if other == "signature":
        host.publish(BASE, OTHER, by=stranger)
        while host.daemon.get("/manifest").status != 403:  # it may have looked just now
            pass
    else:
        host.see(host.publish(BASE, OTHER))
        who = "somebody@example.com"
    done = host.update("--signed-by", who)
    assert done.returncode == 5, done.stderr
    assert "layer" not in done.stderr  # nothing was fetched
    assert host.deployments() == before


def test_nothing_is_deployed_whose_receipt_is_about_another_image(host: Host, tmp_path: Path) -> None:
    host.publish(BASE)
    other = b'{"manifest_digest": "sha256:%s", "signed_by": ["%s"]}' % (b"0" * 64, host.who.encode())
    with Forger(tmp_path / "relay.sock", host.daemon.socket, other) as relay:
        done = host.update(socket=relay.path)
    assert (done.returncode, host.deployments()) == (8, []), done.stderr
    assert "the receipt is about sha256:000" in done.stderr


def test_without_a_word_about_signers_it_does_not_start(host: Host) -> None:
    host.publish(BASE)
    command = [one for one in host.command() if one not in ("--signed-by", host.who)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2


def test_a_directory_that_is_no_sysroot_is_told_with_the_remedy(host: Host, tmp_path: Path) -> None:
    done = host.update("--signed-by-anyone", "--sysroot", str(tmp_path))
    assert (done.returncode, "ostree admin init-fs" in done.stderr + done.stdout) == (1, True)


# --- interruptions ----------------------------------------------------------------------------------------------------


def test_a_transfer_that_is_cut_goes_on(host: Host, tmp_path: Path) -> None:
    image = host.publish(BASE, UPPER)
    who = host.who
    # Manifest, receipt, configuration, and the first layer in three pieces.
    cuts = [100 * MIB, 100 * MIB, 100 * MIB, MIB, MIB]
    with Cutter(tmp_path / "relay.sock", host.daemon.socket, cuts) as cutter:
        ok(host.update("--signed-by", who, socket=cutter.path))
    assert sum(cutter.sent) < sum(map(len, image.layers)) * 1.1
    assert (host.deployments()[0] / "usr/share/large").read_bytes() == LARGE
    host.fsck()


def test_a_run_that_is_killed_within_a_layer_leaves_nothing_that_looks_done(host: Host, tmp_path: Path) -> None:
    host.publish(archive(entry("usr/lib/first", b"first")), BASE)
    who = ["--signed-by", host.who]
    cuts = [100 * MIB, 100 * MIB, 100 * MIB, 100 * MIB, MIB, *[0] * 16]
    with Cutter(tmp_path / "relay.sock", host.daemon.socket, cuts) as cutter:
        process = subprocess.Popen(host.command(*who, socket=cutter.path), stderr=subprocess.DEVNULL)
        # The second layer was cut, and asking for its remainder, too: the client waits before it asks again.
        while len(cutter.sent) < 6 and process.poll() is None:
            pass
        process.kill()
        assert process.wait() in (-signal.SIGKILL, 7)
    assert host.deployments() == []
    host.fsck()
    said = ok(host.update(*who))
    assert ("layer 1/2" in said, "layer 2/2" in said) == (False, True)
    assert (host.deployments()[0] / "usr/share/large").read_bytes() == LARGE
    host.fsck()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_that_is_killed_around_the_deployment_goes_on(host: Host, tmp_path: Path, when: str) -> None:
    host.publish(BASE)
    who = ["--signed-by", host.who]
    programs = tmp_path / "programs"
    programs.mkdir()
    real = f'{shutil.which("ostree")} "$@"' if when == "after" else ":"
    (programs / "ostree").write_text(f"#!/bin/sh\n{real}\nkill -9 $PPID\n")
    (programs / "ostree").chmod(0o755)
    assert host.update(*who, path=programs).returncode == -signal.SIGKILL
    deployments = host.deployments()
    assert len(deployments) == (when == "after")
    said = ok(host.update(*who))
    assert "layer" not in said  # it was imported
    assert len(host.deployments()) == 1
    assert host.deployments()[: len(deployments)] == deployments
    assert "up to date" in ok(host.update(*who))


def test_what_a_layer_has_beside_its_diff_id_is_not_deployed(host: Host) -> None:
    host.publish_image(host.layout.image([BASE], config={"rootfs": {"type": "layers", "diff_ids": [DIGEST_OF_OTHER]}}))
    done = host.update()
    assert (done.returncode, host.deployments()) == (9, []), done.stderr
    assert "DiffID" in done.stderr
    host.fsck()


def test_two_at_a_time_are_refused(host: Host, tmp_path: Path) -> None:
    host.publish(BASE)
    descriptor = os.open(host.sysroot / "ostree/repo", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        done = host.update()
    finally:
        os.close(descriptor)
    assert (done.returncode, "another update" in done.stderr) == (1, True), done.stderr


# --- an ostree commit in an image -------------------------------------------------------------------------------------


@dataclass
class Source:
    """A repository in which a commit is made, and the commit as layers, as ostree-rs-ext writes them."""

    repo: Path
    root: Path
    signer: Signer
    xattrs: str = "link"

    def commit(self, files: Mapping[str, bytes]) -> str:
        """A commit of a host with these files, with a signature in its detached metadata."""
        for place in ("boot", "sysroot", "var", "usr/etc", "usr/lib/modules/6.1"):
            (self.root / place).mkdir(parents=True, exist_ok=True)
        standard = {
            "usr/lib/modules/6.1/vmlinuz": b"kernel",
            "usr/lib/modules/6.1/initramfs.img": b"initramfs",
            "usr/lib/os-release": b"ID=test\n",
            "usr/etc/motd": b"of the commit\n",
        }
        for name, content in {**standard, **files}.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes(content)
        if not (self.root / "ostree").is_symlink():
            (self.root / "ostree").symlink_to("sysroot/ostree")
            os.setxattr(self.root / "usr/lib/os-release", "user.kind", b"release")
            os.chown(self.root / "usr/etc/motd", 12, 34)
        key = [f"--gpg-sign={self.signer.fingerprint}", f"--gpg-homedir={self.signer.home}"]
        return run("ostree", f"--repo={self.repo}", "commit", "-b", "x", f"--tree=dir={self.root}", *key).strip()

    def objects(self, kinds: Sequence[str], names: Callable[[str], bool] = lambda _: True) -> Iterator[Entry]:
        """Objects as members, each file behind its extended attributes, and with a name elsewhere.

        ``xattrs`` says how the attributes are written: as a link; as a copy, where a file could have no more links; or
        as in version 0.
        """
        found = [path for path in self.repo.glob("objects/*/*") if path.suffix[1:] in kinds and names(path.name)]
        for path in sorted(found, key=lambda path: (kinds.index(path.suffix[1:]), path)):
            name = f"sysroot/ostree/repo/{path.relative_to(self.repo)}"
            if path.suffix != ".file":
                yield entry(name, path.read_bytes())
                continue
            if path.is_symlink():
                link = symlink(name, os.fspath(path.readlink()))
                link[0].uid, link[0].gid = path.lstat().st_uid, path.lstat().st_gid
                yield link
                continue
            if keys := os.listxattr(path):
                xattrs = serialized({key: os.getxattr(path, key) for key in keys})
                digest = hashlib.sha256(xattrs).hexdigest()
                former = f"sysroot/ostree/repo/xattrs/{digest}"
                target = f"sysroot/ostree/repo/objects/{digest[:2]}/{digest[2:]}.file-xattrs"
                yield from {
                    "link": [entry(target, xattrs), hard_link(f"{name}-xattrs-link", target)],
                    "copy": [entry(f"{name}-xattrs-link", xattrs)],
                    "former": [entry(former, xattrs), hard_link(f"{name}.xattrs", former)],
                }[self.xattrs]
            status = path.stat()
            yield entry(
                name, path.read_bytes(), mode=stat.S_IMODE(status.st_mode), uid=status.st_uid, gid=status.st_gid
            )
            yield hard_link(f"usr/somewhere/{path.name}", name)

    def layers(self) -> list[bytes]:
        """First what is no file and some of the files, then the others."""
        config = entry("sysroot/ostree/repo/config", b"[core]\nrepo_version=1\nmode=bare-split-xattrs\n")
        first = self.objects(["commit", "commitmeta", "dirmeta", "dirtree", "file"], self._is_first)
        second = self.objects(["file"], lambda name: not self._is_first(name))
        return [archive(config, *first), archive(*second)]

    @staticmethod
    def _is_first(name: str) -> bool:
        return not name.endswith(".file") or int(name[0], 16) < 8


def serialized(xattrs: Mapping[str, bytes]) -> bytes:
    """GVariant of the form a(ayay), as long as all of it is short: each end of something takes one byte."""
    pairs = [(key.encode() + b"\0", value) for key, value in sorted(xattrs.items())]
    tuples = [key + value + bytes([len(key)]) for key, value in pairs]
    return b"".join(tuples) + bytes(itertools.accumulate(map(len, tuples)))


def labels(commit: str, layers: Sequence[bytes]) -> dict[str, object]:
    diff_id = f"sha256:{hashlib.sha256(layers[-1]).hexdigest()}"
    return {"config": {"Labels": {"ostree.commit": commit, "ostree.final-diffid": diff_id}}}


@pytest.fixture
def source(tmp_path: Path, signer: Signer) -> Source:
    run("ostree", f"--repo={tmp_path}/source", "init", "--mode=bare")
    (tmp_path / "root").mkdir()
    return Source(tmp_path / "source", tmp_path / "root", signer)


def content_checksum(repo: Path, commit: str) -> str:
    return next(
        line for line in run("ostree", f"--repo={repo}", "show", commit).splitlines() if "ContentChecksum" in line
    )


@pytest.mark.parametrize("xattrs", ["link", "copy", "former"])
def test_a_commit_in_an_image_comes_out_as_it_was_with_its_signature(host: Host, source: Source, xattrs: str) -> None:
    source.xattrs = xattrs
    commit = source.commit({"usr/share/large": LARGE, "usr/bin/small": b"small"})
    layers = source.layers()
    image = host.publish_image(host.layout.image(layers, config=labels(commit, layers)))
    ok(host.update())
    repo = host.sysroot / "ostree/repo"
    assert run("ostree", f"--repo={repo}", "rev-parse", "container-image/test/encapsulated").strip() == commit
    (deployment,) = host.deployments()
    deployed = deployment.name.partition(".")[0]
    assert content_checksum(repo, deployed) == content_checksum(source.repo, commit)
    assert image.digest in host.metadata(deployed, "ostree.manifest-digest")
    meta = Path("objects", commit[:2], f"{commit[2:]}.commitmeta")
    assert (repo / meta).read_bytes() == (source.repo / meta).read_bytes()
    assert os.getxattr(deployment / "usr/lib/os-release", "user.kind") == b"release"
    assert ((deployment / "etc/motd").stat().st_uid, (deployment / "etc/motd").stat().st_gid) == (12, 34)
    host.fsck()


def test_an_object_layer_that_did_not_change_is_not_fetched_again(host: Host, source: Source) -> None:
    commit = source.commit({"usr/bin/small": b"small"})
    first = source.layers()
    host.publish_image(host.layout.image(first, config=labels(commit, first)))
    ok(host.update())
    run("ostree", f"--repo={source.repo}", "refs", "--delete", "x")
    commit = source.commit({"usr/bin/small": b"another"})
    run("ostree", f"--repo={source.repo}", "prune", "--refs-only")
    layers = [source.layers()[0], first[1], archive(*source.objects(["file"]))]
    host.see(host.publish_image(host.layout.image(layers, config=labels(commit, layers))))
    said = ok(host.update())
    assert "object layer 2/3" not in said
    assert "object layer 3/3" in said
    assert (host.deployments()[0] / "usr/bin/small").read_bytes() == b"another"
    host.fsck()


def test_layers_of_objects_are_taken_for_what_the_labels_say(host: Host, source: Source) -> None:
    commit = source.commit({"usr/bin/small": b"small"})
    layers = source.layers()
    host.publish(*layers)
    assert host.update().returncode == 1  # the same layers without labels: a file system that has no kernel
    host.see(host.publish_image(host.layout.image(layers, config=labels(commit, layers))))
    ok(host.update())
    (deployment,) = host.deployments()
    repo = host.sysroot / "ostree/repo"
    assert content_checksum(repo, deployment.name.partition(".")[0]) == content_checksum(source.repo, commit)


def test_layers_above_a_commit_are_applied_to_it(host: Host, source: Source) -> None:
    commit = source.commit({"usr/bin/small": b"small"})
    layers = source.layers()
    derived = archive(entry("etc/motd", b"derived\n"), entry("usr/bin/.wh.small"), entry("usr/bin/new", b"new"))
    host.publish_image(host.layout.image([*layers, derived], config=labels(commit, layers)))
    ok(host.update())
    (deployment,) = host.deployments()
    assert (deployment / "etc/motd").read_bytes() == (deployment / "usr/etc/motd").read_bytes() == b"derived\n"
    assert [one.name for one in (deployment / "usr/bin").iterdir()] == ["new"]
    more = archive(entry("usr/bin/more", b"more"))
    host.see(host.publish_image(host.layout.image([*layers, derived, more], config=labels(commit, layers))))
    said = ok(host.update())
    assert re.findall(r"layer \d/\d", said) == ["layer 4/4"]
    assert sorted(one.name for one in (host.deployments()[0] / "usr/bin").iterdir()) == ["more", "new"]
    host.fsck()


def test_layers_above_a_commit_with_labels_of_selinux_are_refused_with_the_reason(host: Host, source: Source) -> None:
    commit = source.commit({"usr/etc/selinux/config": b"SELINUX=enforcing\n"})
    layers = source.layers()
    derived = archive(entry("usr/bin/new", b"new"))
    host.publish_image(host.layout.image([*layers, derived], config=labels(commit, layers)))
    done = host.update()
    assert (done.returncode, host.deployments()) == (10, []), done.stderr
    assert "SELinux" in done.stderr


@pytest.mark.parametrize("fault", ["missing", "changed", "another", "unlabelled"])
def test_a_commit_that_is_not_whole_is_not_deployed(host: Host, source: Source, fault: str) -> None:
    commit = source.commit({"usr/bin/small": b"small"})
    layers = source.layers()
    if fault == "missing":
        layers[1] = archive(directory("usr"))
    elif fault == "changed":
        layers = [layer.replace(b"of the commit\n", b"of an enemy!\n") for layer in layers]
    wanted = "0" * 64 if fault == "another" else commit
    config = labels(wanted, layers if fault != "unlabelled" else [b""])
    host.publish_image(host.layout.image(layers, config=config))
    done = host.update()
    code, word = {
        "missing": (9, "is missing"),
        "changed": (1, "checksum"),
        "another": (9, "its label says"),
        "unlabelled": (10, "ostree.final-diffid"),
    }[fault]
    assert (done.returncode, host.deployments()) == (code, []), done.stderr
    assert word in done.stderr


def test_a_run_that_is_killed_within_an_object_layer_goes_on(host: Host, source: Source, tmp_path: Path) -> None:
    commit = source.commit({"usr/share/large": LARGE, "usr/bin/small": b"small"})
    large = next(path for path in source.repo.glob("objects/*/*.file") if path.lstat().st_size == len(LARGE)).name
    first = archive(*source.objects(["commit", "commitmeta", "dirmeta", "dirtree"]))
    layers = [
        first,
        archive(*source.objects(["file"], lambda name: name != large)),
        archive(*source.objects(["file"], lambda name: name == large)),
    ]
    host.publish_image(host.layout.image(layers, config=labels(commit, layers)))
    who = ["--signed-by", host.who]
    # Manifest, receipt, configuration and two layers go through; of the third the beginning does.
    cuts = [*[100 * MIB] * 5, MIB, *[0] * 16]
    with Cutter(tmp_path / "relay.sock", host.daemon.socket, cuts) as cutter:
        process = subprocess.Popen(host.command(*who, socket=cutter.path), stderr=subprocess.DEVNULL)
        while len(cutter.sent) < 7 and process.poll() is None:
            pass
        process.kill()
        assert process.wait() in (-signal.SIGKILL, 7)
    assert host.deployments() == []
    said = ok(host.update(*who))
    assert "object layer 2/3" not in said
    assert (host.deployments()[0] / "usr/share/large").read_bytes() == LARGE
    host.fsck()


# --- the units --------------------------------------------------------------------------------------------------------


@needs_programs("systemd-analyze")
def test_systemd_has_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    for unit in [*(ROOT / "contrib/ostree-update.d").iterdir(), *(ROOT / "systemd").iterdir()]:
        text = re.sub(r"^(Exec\w+=[+!:-]*)/\S+", rf"\1{PROGRAM}", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    units = ["ostree-update@x.service", "ostree-update@x.timer"]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
