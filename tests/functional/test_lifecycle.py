"""Start, reload, drain, idle exit and crash of the real daemon on an inherited socket."""

from __future__ import annotations

import ctypes
import http.client
import os
import platform
import resource
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon, UnixConnection, activated, command, fill, write_instance, write_policy
from tests.support.layouts import Layout, StoredImage, layer_tar, single_image
from tests.support.waiting import await_true

SIZE = 24 << 20
_SYS_TGKILL = {"x86_64": 234, "aarch64": 131}[platform.machine()]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a policy, a layout with one image and an instance that serves it."""
    single_image(tmp_path / "os")
    write_policy(tmp_path)
    configure(tmp_path)
    return tmp_path


def configure(place: Path, more: str = "", *, image: str = "latest") -> None:
    text = f'{more}\n[images.os]\nreference = "oci:{place}/os:{image}"\n[trust]\npolicy = "{place}/policy.json"\n'
    write_instance(place / "config", "test", text)


def arguments(place: Path, *more: str) -> list[str]:
    return ["--instance", "test", "--config-dir", str(place / "config"), *more]


def big_image(place: Path) -> StoredImage:
    """An image whose layer does not fit into any buffer between daemon and client."""
    return Layout(place / "os").image([layer_tar({"big": bytes(SIZE)})], name="latest", compression="")


def begin_blob(daemon: RunningDaemon, digest: str) -> tuple[UnixConnection, http.client.HTTPResponse]:
    """A transfer that is under way: its head and first bytes are here, the rest waits for us."""
    connection = UnixConnection(daemon.socket)
    connection.request("GET", f"/blobs/{digest}")
    response = connection.getresponse()
    assert len(response.read(1000)) == 1000
    return connection, response


@pytest.mark.demand("sigterm-drain")
def test_sigterm_lets_running_transfers_finish_and_then_exits(place: Path) -> None:
    image = big_image(place)
    with activated(place / "run", arguments(place)) as daemon:
        daemon.get("/manifest")
        connection, response = begin_blob(daemon, image.layer_digests[0])
        daemon.signal(signal.SIGTERM)
        daemon.wait_for_notification("STOPPING=1")
        assert response.read() == image.layers[0][1000:]
        connection.close()
        assert daemon.process.wait(20) == 0


def test_a_signal_that_another_thread_receives_is_not_left_lying(place: Path) -> None:
    """The kernel may hand a signal to any thread; here the main one blocks it, as it does when it sleeps elsewhere."""
    with activated(place / "run", arguments(place)) as daemon:
        connection = UnixConnection(daemon.socket)
        connection.request("GET", "/images")
        connection.getresponse().read()
        (worker,) = [
            int(task.name)
            for task in Path(f"/proc/{daemon.process.pid}/task").iterdir()
            if int(task.name) != daemon.process.pid
        ]
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.syscall(_SYS_TGKILL, daemon.process.pid, worker, signal.SIGTERM) == 0
        assert daemon.process.wait(8) == 0
        connection.close()


@pytest.mark.parametrize("trouble", ["no descriptor left", "manager gone", "manager does not read"])
def test_a_transfer_outlives_a_service_manager_that_cannot_be_told(place: Path, trouble: str) -> None:
    image = big_image(place)
    with activated(place / "run", arguments(place)) as daemon:
        daemon.get("/manifest")
        connection, response = begin_blob(daemon, image.layer_digests[0])
        match trouble:
            case "no descriptor left":
                resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (3, 3))
            case "manager gone":
                daemon.notify.close()
            case _:
                fill(daemon.notify)
        for number in (signal.SIGHUP, signal.SIGTERM):
            daemon.signal(number)
        assert response.read() == image.layers[0][1000:]
        connection.close()
        assert daemon.process.wait(20) == 0


@pytest.mark.demand("sighup")
def test_a_reload_puts_the_new_configuration_in_force_and_leaves_transfers_alone(place: Path) -> None:
    image = big_image(place)
    with activated(place / "run", arguments(place)) as daemon:
        daemon.get("/manifest")
        connection, response = begin_blob(daemon, image.layer_digests[0])
        other = Layout(place / "other").image(name="1")
        write_instance(
            place / "config",
            "test",
            f'[images.new]\nreference = "oci:{place}/other:1"\n[trust]\npolicy = "{place}/policy.json"\n',
        )
        daemon.wait_for_notification("READY=1")
        daemon.signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in daemon.wait_for_notification("RELOADING=1")
        assert "Serving 1 image: new" in daemon.wait_for_notification("READY=1")
        assert daemon.get("/manifest").headers["manifest-digest"] == other.digest
        assert response.read() == image.layers[0][1000:]
        connection.close()


@pytest.mark.demand("POL-reload")
@pytest.mark.parametrize("breakage", ["instance", "policy"])
def test_a_broken_new_configuration_leaves_the_old_one_in_force_whole(place: Path, breakage: str) -> None:
    with activated(place / "run", arguments(place)) as daemon:
        daemon.wait_for_notification("READY=1")
        before = daemon.get("/images").json
        if breakage == "policy":
            (place / "policy.json").write_text('{"default": [{"type": "acceptTheLot"}]}')
            configure(place, image="elsewhere")
        else:
            configure(place, "nonsense = true")
        daemon.signal(signal.SIGHUP)
        assert "Old configuration in force" in daemon.wait_for_notification("READY=1")
        assert daemon.get("/images").json == before
        assert daemon.get("/manifest").status == 200
        assert "the old one stays in force" in daemon.log_text()


def test_who_asks_for_a_reload_learns_what_came_of_it(place: Path) -> None:
    runtime = place / "runtime"
    runtime.mkdir()
    with activated(place / "run", arguments(place), environ={"RUNTIME_DIRECTORY": str(runtime)}) as daemon:
        environ = {**os.environ, "RUNTIME_DIRECTORY": str(runtime), "MAINPID": str(daemon.process.pid)}
        done = []
        for more in ("", "nonsense = true"):
            configure(place, more)
            asker = command("--reload", "--instance", "test")
            done.append(subprocess.run(asker, env=environ, capture_output=True, text=True, check=False))
        assert [one.returncode for one in done] == [0, 78]
        assert done[0].stderr == ""
        assert f"error {place}/config/test.toml: nonsense: unknown key" in done[1].stderr
        assert done[1].stderr.count("\n") == 1
        assert [path.name for path in runtime.iterdir()] == ["health"]


@pytest.mark.parametrize("environ", [{}, {"MAINPID": "1"}, {"MAINPID": "x", "RUNTIME_DIRECTORY": "/"}])
def test_a_reload_outside_of_a_unit_says_how_to_ask_for_it(environ: dict[str, str]) -> None:
    asker = command("--reload", "--instance", "test")
    done = subprocess.run(asker, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "systemctl reload container-image-proxy@test.service" in done.stderr


def test_a_policy_made_stricter_holds_after_the_reload(place: Path) -> None:
    with activated(place / "run", arguments(place)) as daemon:
        daemon.wait_for_notification("READY=1")
        manifest = daemon.get("/manifest").json
        write_policy(place, {"default": [{"type": "reject"}]})
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_notification("READY=1")
        for target in ("/manifest", "/config", f"/blobs/{manifest['layers'][0]['digest']}"):
            assert daemon.get(target).status == 403


def test_an_idle_daemon_exits_and_keeps_its_snapshots(place: Path) -> None:
    """The tag moves while nobody listens; the blobs of the manifest that a client holds are still served after the
    restart.
    """
    old = big_image(place)
    configure(place, "idle-exit = 0.05")
    environ = {"RUNTIME_DIRECTORY": str(place / "runtime")}
    (place / "runtime").mkdir()
    with activated(place / "run", arguments(place), environ=environ) as daemon:
        daemon.get("/manifest")
        assert daemon.process.wait(20) == 0
        daemon.wait_for_notification("STOPPING=1")
    single_image(place / "os")
    configure(place)
    with activated(place / "again", arguments(place), environ=environ) as daemon:
        assert daemon.get(f"/blobs/{old.layer_digests[0]}").status == 200
        assert daemon.get("/config").headers["manifest-digest"] == old.digest
        assert daemon.get("/manifest").headers["manifest-digest"] != old.digest


def test_a_reload_changes_the_time_of_idleness_too(place: Path) -> None:
    configure(place, "idle-exit = 0")
    with activated(place / "run", arguments(place)) as daemon:
        daemon.wait_for_notification("READY=1")
        configure(place, "idle-exit = 0.05")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_notification("READY=1")
        assert daemon.process.wait(20) == 0


@pytest.mark.demand("sigkill")
@pytest.mark.demand("idle-exit-race")
def test_no_connection_is_lost_between_one_process_and_the_next(place: Path) -> None:
    """Processes that exit after 1 ms of idleness, restarted on the same socket as systemd does, under concurrent
    requests.
    """
    configure(place, "idle-exit = 0.001")
    path = place / "proxy.sock"
    statuses: list[int] = []
    done = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(512)
        keeper = threading.Thread(target=_restart_until, args=(place, listener, done))
        keeper.start()
        try:
            with ThreadPoolExecutor(4) as pool:
                statuses += pool.map(lambda _: _get(path), range(60))
        finally:
            done.set()
            with socket.socket(socket.AF_UNIX) as last:  # lets the process that waits for its first connection go
                last.connect(str(path))
            keeper.join()
    assert statuses == [200] * 60


def _restart_until(place: Path, listener: socket.socket, done: threading.Event) -> None:
    code = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3, inheritable=True); "
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); os.execvp(sys.argv[2], sys.argv[2:])"
    )
    with (place / "keeper.log").open("wb") as log:
        while not done.is_set():
            subprocess.run(
                [command()[0], "-S", "-c", code, str(listener.fileno()), *command(*arguments(place))],
                pass_fds=(listener.fileno(),), stdout=log, stderr=log, check=True, timeout=60,
            )  # fmt: skip


def _get(path: Path) -> int:
    connection = UnixConnection(path)
    try:
        connection.request("GET", "/images", headers={"Connection": "close"})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.demand("client-disconnect")
def test_a_client_that_leaves_frees_everything(place: Path) -> None:
    image = big_image(place)
    with activated(place / "run", arguments(place)) as daemon:
        daemon.get("/manifest")
        connection, _ = begin_blob(daemon, image.layer_digests[0])
        connection.sock.close()
        connection.close()
        await_true(lambda: not any("blobs" in file for file in daemon.open_files()), "the blob is closed")
        assert daemon.get("/manifest").status == 200


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[images.os]\nfresh-for = 1\n", "images.os.reference: missing"),
        ("[images.os]\nreferense = 1\n", "images.os.referense: unknown key (known here: access, fresh-for, "),
        (
            '[images.os]\nreference = "ocy:/x"\n',
            "images.os.reference: transport 'ocy' is not supported; ",
        ),
        ('[images.os]\nreference = "oci:x:latest"\n', "images.os.reference: oci:x:latest: the path must be absolute"),
        ('[images.os]\nreference = "docker://UPPER"\n', "images.os.reference: "),
        (
            '[images.os]\nreference = "oci:/x"\n[trust]\npolicy = "/no/such/policy.json"\n',
            "trust.policy: /no/such/policy.json does not exist",
        ),
        (
            '[images.os]\nreference = "docker://x"\n[registry]\nregistries-conf-dir = "/no/such/directory"\n',
            "registry.registries-conf-dir: /no/such/directory does not exist",
        ),
        (
            '[images.os]\nreference = "docker://x"\n[registry]\ntoken-realms = ["https://x"]\n',
            "registry.token-realms: 'https://x' is not the host or host:port",
        ),
        ("=", "Invalid"),
    ],
)
@pytest.mark.demand("POL-missing")
def test_a_broken_configuration_ends_the_start_with_78_and_one_line(tmp_path: Path, text: str, expected: str) -> None:
    write_instance(tmp_path, "test", text)
    run = subprocess.run(
        command("--instance", "test", "--config-dir", str(tmp_path)), capture_output=True, text=True, check=False
    )
    checked = subprocess.run(
        command("--check", "--instance", "test", "--config-dir", str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    for result in (run, checked):
        assert result.returncode == 78
        assert expected in result.stderr
        assert result.stderr.count("\n") == 1
