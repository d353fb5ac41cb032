"""A configuration that cannot be used: whoever connects is told why at once, and mending the files is all it takes."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.daemon import (
    RunningDaemon,
    UnixConnection,
    activated,
    command,
    with_listeners,
    write_instance,
    write_policy,
)
from tests.support.layouts import single_image
from tests.support.privilege import needs_root
from tests.support.socket_server import abstract_listener, exchange_as, listen

GET = b"GET /manifest HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a policy, a layout with one image and an instance that serves it."""
    single_image(tmp_path / "os")
    write_policy(tmp_path)
    configure(tmp_path)
    return tmp_path


def configure(place: Path, more: str = "") -> None:
    text = f'{more}\n[images.os]\nreference = "oci:{place}/os:latest"\n[trust]\npolicy = "{place}/policy.json"\n'
    write_instance(place / "config", "test", text)


def arguments(place: Path, *more: str) -> list[str]:
    return ["--instance", "test", "--config-dir", str(place / "config"), *more]


def remove_policy(place: Path) -> None:
    (place / "policy.json").unlink()


def break_policy(place: Path) -> None:
    (place / "policy.json").write_text('{"default": [\n{"type": "acceptTheLot"}]}')


def cut_policy(place: Path) -> None:
    (place / "policy.json").write_text('{"default": [\n')


def mistype_key(place: Path) -> None:
    configure(place, 'defualt = "os"')


def break_syntax(place: Path) -> None:
    configure(place, "idle-exit = 300\nnonsense")


def remove_instance(place: Path) -> None:
    (place / "config/test.toml").unlink()


def mask_instance(place: Path) -> None:
    remove_instance(place)
    (place / "config/test.toml").symlink_to("/dev/null")


def name_absent_auth_file(place: Path) -> None:
    configure(place, '[registry]\nauthfile = "/no/such/auth.json"')


def break_registries_conf(place: Path) -> None:
    (place / "registries.conf").write_text('[[registry]]\nlocation = "https://x"\n')
    configure(place, f'[registry]\nregistries-conf = "{place}/registries.conf"')


def name_unknown_user(place: Path) -> None:
    configure(place, '[access]\nusers = ["nobody-of-that-name"]')


FAULTS: dict[Callable[[Path], None], tuple[str, ...]] = {
    remove_policy: ("{}/config/test.toml", "trust.policy", "{}/policy.json does not exist"),
    break_policy: ("{}/policy.json", "acceptTheLot"),
    cut_policy: ("{}/policy.json", "line 2"),
    mistype_key: ("{}/config/test.toml", "defualt", "unknown key", "default"),
    break_syntax: ("{}/config/test.toml", "line 2"),
    remove_instance: ("test.toml", "no such file in {}/config", "container-image-proxy.toml(5)"),
    mask_instance: ("{}/config/test.toml", "masked by a link to /dev/null"),
    name_absent_auth_file: ("{}/config/test.toml", "registry.authfile", "/no/such/auth.json does not exist"),
    break_registries_conf: ("{}/registries.conf", "registry[1].location", "is a URL", "write host[:port]"),
    name_unknown_user: ("{}/config/test.toml", "access.users", "nobody-of-that-name", "create the user"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_every_request_is_answered_with_what_is_wrong_and_where(place: Path, fault: Callable[[Path], None]) -> None:
    fault(place)
    said = [text.format(place) for text in FAULTS[fault]]
    with activated(place / "run", arguments(place)) as daemon:
        status = daemon.wait_for_notification("READY=1")
        assert all(text in status for text in ("STATUS=Degraded: ", *said))
        for method, target in [("GET", "/manifest"), ("GET", "/images"), ("GET", "/nothing"), ("POST", "/manifest")]:
            reply = daemon.request(method, target)
            assert reply.status == 500
            assert reply.headers["content-type"] == "application/problem+json"
            assert reply.json["code"] == "CONFIGURATION"
            assert all(text in reply.json["detail"] for text in said)
            assert reply.json["remedy"] in reply.json["detail"]
        assert daemon.request("HEAD", "/manifest").status == 500
        log = daemon.log_text()
        assert log.count("every request is answered with this: ") == 1  # and not once for each reading
        assert all(text in log for text in said)


def test_what_is_wrong_is_told_piece_by_piece_for_programs(place: Path) -> None:
    mistype_key(place)
    with activated(place / "run", arguments(place)) as daemon:
        document = daemon.get("/manifest").json
    assert (document["file"], document["key"]) == (str(place / "config/test.toml"), "defualt")
    assert (document["reason"], document["remedy"][:12]) == ("unknown key", "known here: ")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_who_comes_after_the_mending_is_served(place: Path, fault: Callable[[Path], None]) -> None:
    fault(place)
    with activated(place / "run", arguments(place)) as daemon:
        assert daemon.get("/manifest").status == 500
        (place / "config/test.toml").unlink(missing_ok=True)
        write_policy(place)
        configure(place)
        assert "STATUS=Serving 1 image: os" in daemon.wait_for_notification("READY=1\nSTATUS=Serving")
        assert daemon.get("/manifest").status == 200
        assert "the configuration can be used now" in daemon.log_text()


def test_a_reload_looks_for_the_mending_too(place: Path) -> None:
    mistype_key(place)
    with activated(place / "run", arguments(place)) as daemon:
        daemon.wait_for_notification("READY=1")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_notification("RELOADING=1")
        assert "Degraded" in daemon.wait_for_notification("READY=1")
        configure(place)
        daemon.signal(signal.SIGHUP)
        assert "Serving" in daemon.wait_for_notification("READY=1\nSTATUS=Serving")


def test_another_mistake_is_told_in_place_of_the_first(place: Path) -> None:
    mistype_key(place)
    with activated(place / "run", arguments(place)) as daemon:
        assert "defualt" in daemon.get("/").json["detail"]
        break_syntax(place)
        daemon.wait_for_notification("line 2")
        assert "line 2" in daemon.get("/").json["detail"]


def test_a_connection_that_is_kept_sees_the_mending(place: Path) -> None:
    mistype_key(place)
    with activated(place / "run", arguments(place)) as daemon, closing(UnixConnection(daemon.socket)) as connection:
        statuses = []
        for step in ("broken", "mended"):
            if step == "mended":
                configure(place)
                daemon.wait_for_notification("READY=1\nSTATUS=Serving")
            connection.request("GET", "/manifest")
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
    assert statuses == [500, 200]


def test_a_daemon_that_was_told_to_stop_has_done_its_duty(place: Path) -> None:
    mistype_key(place)
    with activated(place / "run", arguments(place)) as daemon:
        assert daemon.get("/manifest").status == 500
        assert daemon.stop() == 0


def test_a_daemon_that_nobody_asks_any_more_leaves_with_78(place: Path) -> None:
    mistype_key(place)
    with activated(place / "run", arguments(place, "--idle-exit", "0.05")) as daemon:
        assert daemon.process.wait(20) == 78
        assert daemon.log_text().splitlines()[-1].startswith(f"error {place}/config/test.toml: defualt: unknown key")


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--polici", "/x"], "unrecognized arguments: --polici"), (["--port", "1"], "--port serves an IMAGE")],
)
def test_a_wrong_command_line_is_told_to_who_waits(place: Path, options: list[str], said: str) -> None:
    """A drop-in's, for example."""
    with activated(place / "run", arguments(place, *options)) as daemon:
        document = daemon.get("/manifest").json
    assert (document["code"], document["file"]) == ("CONFIGURATION", "command line")
    assert said in document["reason"]
    assert "ExecStart=" in document["remedy"]


def test_a_defect_is_an_answer_as_well(place: Path) -> None:
    """It says nothing of itself; the log does."""
    (place / "sitecustomize.py").write_text(
        "import container_image_proxy.core.assembly as assembly\n"
        "def load_keychain(**_): raise ZeroDivisionError('of the test')\n"
        "assembly.load_keychain = load_keychain\n"
    )
    with activated(place / "run", arguments(place), environ={"PYTHONPATH": str(place)}) as daemon:
        reply = daemon.get("/manifest")
        assert (reply.status, reply.json["code"]) == (500, "CONFIGURATION")
        assert "ZeroDivisionError" not in reply.json["detail"]
        daemon.get("/manifest")
        assert daemon.log_text().count("ZeroDivisionError: of the test") == 1


# --- who is told ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_to_all(place: Path) -> Iterator[tuple[RunningDaemon, Callable[[int], bytes]]]:
    """The daemon on a socket that any user can reach, and a function that asks it as a user."""
    with abstract_listener() as (listener, name), activated(place / "run", arguments(place), more=[listener]) as daemon:

        def ask(uid: int) -> bytes:
            with exchange_as(name, GET, uid, uid) as process:
                return process.communicate(timeout=30)[0]

        yield daemon, ask


def body_of(answer: bytes) -> dict[str, object]:
    document: dict[str, object] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return document


@needs_root
def test_as_long_as_it_is_not_known_who_may_connect_only_root_is_told(place: Path) -> None:
    mistype_key(place)
    with open_to_all(place) as (_, ask):
        told, refused = ask(0), ask(4242)
        assert b"defualt" in told
        configure(place)
        assert ask(0).startswith(b"HTTP/1.1 200")
        assert body_of(ask(4242)) == body_of(refused)  # as a peer that the instance does not name


@needs_root
def test_who_may_connect_is_told_what_else_is_wrong(place: Path) -> None:
    configure(place, "[access]\nusers = [4242]")
    remove_policy(place)
    with open_to_all(place) as (_, ask):
        assert body_of(ask(4242))["code"] == "CONFIGURATION"
        assert [body_of(ask(uid))["code"] for uid in (0, 4243)] == ["DENIED", "DENIED"]


# --- sockets ----------------------------------------------------------------------------------------------------------


def test_beside_a_socket_of_a_kind_that_cannot_be_served_the_others_say_so(place: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        activated(place / "run", arguments(place), more=[tcp]) as daemon,
    ):
        reply = daemon.get("/manifest")
    assert (reply.status, reply.json["code"]) == (500, "CONFIGURATION")
    assert (
        "it is not a listening Unix socket of streams or packets (in the socket unit, ListenStream="
        in reply.json["detail"]
    )


def test_with_sockets_that_cannot_be_served_alone_a_start_fails_in_a_way_that_is_paced(place: Path) -> None:
    """Status 78 would have systemd start it again at once for who waits there."""
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        run = subprocess.run(
            [*with_listeners(tcp), *command(*arguments(place))],
            pass_fds=[tcp.fileno()],
            capture_output=True,
            text=True,
            check=False,
        )
    assert (run.returncode, run.stderr.count("\n")) == (1, 1)
    assert "it is not a listening Unix socket of streams or packets" in run.stderr


def test_without_sockets_a_start_fails_with_what_is_wrong(place: Path) -> None:
    for fault, said in ((None, "systemd passed no socket"), (mistype_key, "defualt")):
        if fault:
            fault(place)
        run = subprocess.run(command(*arguments(place)), capture_output=True, text=True, check=False)
        assert (run.returncode, run.stderr.count("\n")) == (78, 1)
        assert said in run.stderr


@pytest.mark.parametrize("where", ["socket", "check"])
def test_standing_alone_and_checking_fail_at_once_in_one_line(place: Path, where: str) -> None:
    mode = ["--socket", str(place / "own.sock")] if where == "socket" else ["--check"]
    run = subprocess.run(
        command(*mode, "--policy", "/no/such/policy.json", f"oci:{place}/os:latest"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr.count("\n")) == (78, 1)
    assert not (place / "own.sock").exists()


def test_who_waited_while_the_daemon_was_away_is_told(place: Path) -> None:
    mistype_key(place)
    path = place / "waiting.sock"
    with listen(path) as listener, closing(UnixConnection(path)) as client:
        client.request("GET", "/manifest")
        with activated(place / "run", arguments(place), more=[listener]):
            assert client.getresponse().status == 500


def test_reading_again_and_again_takes_nothing(place: Path) -> None:
    mistype_key(place)
    with activated(place / "run", arguments(place)) as daemon:
        daemon.get("/manifest")
        before = len(daemon.open_files())
        for _ in range(60):
            assert daemon.get("/manifest").status == 500
        assert len(daemon.open_files()) < before + 30  # the last connections may still be open
