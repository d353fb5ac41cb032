"""Runs of gpg: where its homes lie, who may not touch them, and how every run ends."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.core.assembly import find_gpg
from container_image_proxy.errors import ConfigurationError, SignatureRejectedError, VerificationTimeoutError
from container_image_proxy.policy import gpg as module
from container_image_proxy.policy.budget import Budget
from container_image_proxy.policy.gpg import Gpg, Job, Run
from tests.support.leaks import holdings, left_behind
from tests.support.requirements import needs_root
from tests.support.script import importing_project
from tests.support.verification import PATIENCE, make_budget

SAY_YES = "cat >output; while [ $1 != --status-fd ]; do shift; done; echo '[GNUPG:] YES it is' >&$2; cat output"
PREFIX = "container-image-proxy-gpg-"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Write a shell script that is run as gpg."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(module, "_PATH", f"{folder}:/usr/bin:/bin")

    def write(script: str) -> None:
        (folder / "gpg").write_text(f"#!/bin/bash\n{script}\n")
        (folder / "gpg").chmod(0o755)

    return write


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files."""
    folder = tmp_path / "place"
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(module, "_TEMPORARY", (folder,))
    return folder


def run(gpg: Gpg, job: Job = Job((), {}, 1000), seconds: float = PATIENCE) -> Run:  # noqa: B008 - frozen
    return gpg.run(job, make_budget(seconds))


def test_a_run_has_its_files_and_gives_its_output_status_and_result(
    program: Callable[[str], None], place: Path
) -> None:
    program(f"{SAY_YES}; cp file result; exit 3")
    ran = run(Gpg(), Job((), {"file": b"content"}, 1000, stdin=b"said", result="result"))
    assert ran == Run(3, b"said", (("YES", "it is"),), b"content")
    assert list(place.iterdir()) == []


def test_a_result_that_was_not_made_is_empty(program: Callable[[str], None], place: Path) -> None:
    program("exit 0")
    assert run(Gpg(), Job((), {}, 1000, result="result")) == Run(0, b"", (), b"")


def test_a_home_is_for_nobody_else_and_is_where_gpg_runs(program: Callable[[str], None], place: Path) -> None:
    program("pwd; stat -c %a .; echo $GNUPGHOME; while [ $1 != --homedir ]; do shift; done; echo $2; ls")
    home, mode, variable, option, *files = run(Gpg(), Job((), {"file": b""}, 1000)).output.decode().split()
    assert Path(home).parent == place
    assert variable == option == "/proc/self/cwd"
    assert (mode, files) == ("700", ["file"])


@pytest.mark.demand("SIG-status-injection")
def test_gpg_reads_no_options_and_asks_nobody(program: Callable[[str], None], place: Path) -> None:
    program('printf "%s\\n" "$@"')
    arguments = run(Gpg(), Job(("--verify", "-"), {}, 1000)).output.decode().split()
    assert {"--no-options", "--no-autostart", "--disable-dirmngr", "--batch"} <= set(arguments)
    assert arguments[-2:] == ["--verify", "-"]


def test_too_much_status_is_a_rejection(program: Callable[[str], None], place: Path) -> None:
    program("while [ $1 != --status-fd ]; do shift; done; yes '[GNUPG:] X' | head -c 2000 >&$2")
    with pytest.raises(SignatureRejectedError, match="more than a signature is worth"):
        run(Gpg())


# --- the end of a run -------------------------------------------------------------------------------------------------

HANG = "sleep 60 & echo >{started}; cat; wait"


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """A FIFO to which a hanging gpg writes when it hangs."""
    path = tmp_path / "started"
    os.mkfifo(path)
    return path


def test_a_gpg_that_hangs_ends_with_its_budget_and_so_does_what_it_started(
    program: Callable[[str], None], place: Path
) -> None:
    program("sleep 60 & sleep 60")
    before = holdings()
    with pytest.raises(VerificationTimeoutError, match=r"did not end within 0\.1 s"):
        run(Gpg(), seconds=0.1)
    assert not left_behind(before)
    assert list(place.iterdir()) == []


def test_a_gpg_that_hangs_ends_when_nobody_waits_any_more(
    program: Callable[[str], None], place: Path, started: Path
) -> None:
    program(HANG.format(started=started))
    before, token = holdings(), Cancellation()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(Gpg().run, Job((), {}, 1000, stdin=b"x" * 1_000_000), Budget(PATIENCE, token))
        started.read_bytes()
        token.cancel()
        with pytest.raises(CancelledError):
            running.result(PATIENCE)
    assert not left_behind(before)
    assert list(place.iterdir()) == []


def test_a_gpg_for_which_there_is_no_time_is_not_started(program: Callable[[str], None], place: Path) -> None:
    program(f"touch {place}/started")
    with pytest.raises(VerificationTimeoutError):
        run(Gpg(), seconds=0)
    assert list(place.iterdir()) == []


def test_a_long_question_and_answer_go_on_where_they_were(program: Callable[[str], None], place: Path) -> None:
    program("sleep 0.6; cat")
    question = os.urandom(1 << 20)
    assert run(Gpg(), Job((), {}, 1000, stdin=question)).output == question


def test_without_gpg_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setattr(module, "_PATH", "/nonexistent")
    with pytest.raises(ConfigurationError, match="install gpg"):
        run(Gpg())
    assert list(place.iterdir()) == []


# --- where homes lie --------------------------------------------------------------------------------------------------


def home_of(gpg: Gpg) -> Path:
    return Path(run(gpg).output.decode().strip()).parent


def test_the_first_place_that_is_safe_is_used(program: Callable[[str], None], place: Path, tmp_path: Path) -> None:
    program("pwd")
    runtime, other = tmp_path / "runtime", tmp_path / "other"
    runtime.mkdir(mode=0o700)
    other.mkdir(mode=0o700)
    gpg = Gpg((runtime, other))
    assert home_of(gpg) == runtime
    runtime.chmod(0o770)
    assert home_of(gpg) == other
    other.chmod(0o707)
    assert home_of(gpg) == place


def test_a_place_that_is_gone_is_no_loss_and_one_that_is_back_is_used_again(
    program: Callable[[str], None], place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program("pwd")
    runtime = tmp_path / "runtime"
    assert home_of(Gpg((runtime,))) == place
    assert f"{runtime} cannot hold gpg's home directory: No such file or directory" in caplog.text
    runtime.mkdir(mode=0o700)
    assert home_of(Gpg((runtime,))) == runtime


def test_a_place_where_all_may_write_is_safe_if_they_can_only_remove_their_own(
    program: Callable[[str], None], place: Path
) -> None:
    program("pwd")
    place.chmod(0o1777)
    assert home_of(Gpg()) == place
    place.chmod(0o777)
    with pytest.raises(SignatureRejectedError, match=r"no place for its home directory .*other users can write there"):
        run(Gpg())


def test_a_place_that_has_two_names_is_objected_to_once(program: Callable[[str], None], place: Path) -> None:
    program("pwd")
    place.chmod(0o777)
    with pytest.raises(SignatureRejectedError) as caught:
        run(Gpg((place,)))
    assert str(caught.value).count(f"{place}: ") == 1


@pytest.mark.demand("disk-full")
def test_a_place_that_is_full_is_passed_over(
    program: Callable[[str], None], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("pwd")
    full, real = tmp_path / "full", os.statvfs
    full.mkdir(mode=0o700)

    def with_one_block(path: Path) -> os.statvfs_result:
        fields = list(real(path))
        fields[4] = 1 if path == full else fields[4]
        return os.statvfs_result(fields)

    monkeypatch.setattr(os, "statvfs", with_one_block)
    assert home_of(Gpg((full,))) == place


def test_homes_lie_where_the_environment_says() -> None:
    environ = {"RUNTIME_DIRECTORY": "/run/unit:/run/more", "XDG_RUNTIME_DIR": "/run/user/1", "TMPDIR": "/scratch"}
    assert find_gpg(environ).places == (Path("/run/unit"), Path("/run/user/1"), Path("/scratch"))
    assert find_gpg({"TMPDIR": "relative"}).places == ()


@needs_root
def test_a_place_of_another_user_is_not_safe(program: Callable[[str], None], place: Path, tmp_path: Path) -> None:
    program("pwd")
    others = tmp_path / "others"
    others.mkdir(mode=0o700)
    os.chown(others, 12345, 12345)
    assert home_of(Gpg((others,))) == place


def fail_with(number: int) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.demand("disk-full")
@pytest.mark.parametrize(
    ("where", "number"),
    [
        ((tempfile, "mkdtemp"), errno.EROFS),
        ((Path, "write_bytes"), errno.ENOSPC),
        ((os, "memfd_create"), errno.EMFILE),
        ((subprocess, "Popen"), errno.EAGAIN),
    ],
)
def test_what_the_system_does_not_give_is_a_rejection_with_the_reason(
    place: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[object, str], number: int
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(*where, fail_with(number))
        with pytest.raises(SignatureRejectedError, match=f"gpg cannot be run: .*{os.strerror(number)}"):
            run(Gpg(), Job((), {"file": b""}, 1000))
    assert list(place.iterdir()) == []


# --- what is left behind ----------------------------------------------------------------------------------------------

KILLED = """
import sys, threading
from pathlib import Path
from container_image_proxy.concurrency.cancellation import Cancellation
from container_image_proxy.policy import gpg
from container_image_proxy.policy.budget import Budget
gpg._PATH = sys.argv[2] + ":/usr/bin:/bin"
gpg.Gpg((Path(sys.argv[1]),)).run(gpg.Job((), {"file": b""}, 1000), Budget(60, Cancellation()))
"""


@contextlib.contextmanager
def another_process(place: Path, program: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One that runs gpg, which hangs."""
    with subprocess.Popen([sys.executable, "-c", importing_project(KILLED), str(place), str(program)]) as process:
        try:
            yield process
        finally:
            process.kill()


def test_what_a_killed_daemon_left_is_removed_and_what_is_in_use_is_not(
    program: Callable[[str], None], place: Path, started: Path, tmp_path: Path
) -> None:
    program(f"trap '' TERM; echo $$ >{started}; exec sleep 60")
    gpg = Gpg((place,))
    with another_process(place, tmp_path / "bin") as process:
        pid = int(started.read_text())
        (home,) = place.iterdir()
        gpg.remove_leftovers()
        assert list(home.iterdir()) == [home / "file"]
        process.kill()
        process.wait()
        os.kill(pid, signal.SIGKILL)  # whom systemd would kill with the daemon
        assert home.exists()
        gpg.remove_leftovers()
    assert list(place.iterdir()) == []


def test_nothing_but_homes_of_ours_is_removed(place: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (place / "other").mkdir()
    (place / f"{PREFIX}file").touch()
    (place / f"{PREFIX}link").symlink_to(tmp_path / "kept")
    (place / f"{PREFIX}home").mkdir()
    expected = {"other", f"{PREFIX}file", f"{PREFIX}link"}
    if os.geteuid() == 0:
        (place / f"{PREFIX}others").mkdir()
        os.chown(place / f"{PREFIX}others", 12345, 12345)
        expected.add(f"{PREFIX}others")
    Gpg((tmp_path / "nonexistent", place)).remove_leftovers()
    assert {path.name for path in place.iterdir()} == expected
    assert (tmp_path / "kept").exists()


def test_runs_are_not_disturbed_by_who_looks_for_leftovers(program: Callable[[str], None], place: Path) -> None:
    program("cat file")
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            Gpg().remove_leftovers()

    with ThreadPoolExecutor(5) as pool:
        looking = pool.submit(look)
        runs = [pool.submit(run, Gpg(), Job((), {"file": b"%d" % number}, 1000)) for number in range(40)]
        try:
            assert [one.result().output for one in runs] == [b"%d" % number for number in range(40)]
        finally:
            over.set()
        looking.result()
    assert list(place.iterdir()) == []
