"""Helpers are asked without a shell, within bounds, and about nothing that is no registry."""

import os
import stat
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.concurrency.context import Context
from container_image_proxy.errors import ConfigurationError, InvalidReferenceError
from container_image_proxy.image import docker_hub
from container_image_proxy.registry.auth.helpers import (
    MAX_OUTPUT,
    CredentialHelpers,
    HelperAnswer,
)
from tests.support.contexts import CONTEXT

PATIENCE = 10.0


@pytest.fixture
def helper(tmp_path: Path):
    """Installs a shell script as docker-credential-test; answers with the helpers of an environment that has it."""

    def install(script: str, *, timeout: float = 10.0, **environ: str) -> CredentialHelpers:
        program = tmp_path / "docker-credential-test"
        program.write_text(f"#!/bin/sh\n{textwrap.dedent(script)}\n")
        program.chmod(0o755)
        return CredentialHelpers({"PATH": f"{tmp_path}:/usr/bin:/bin", **environ}, timeout)

    return install


def test_the_registry_goes_in_and_credentials_come_out(helper, tmp_path):
    helpers = helper(f"""
        [ "$#:$1" = 1:get ] && cat > {tmp_path}/asked && echo '{{"ServerURL":"x","Username":"u","Secret":"s"}}'
    """)
    assert helpers.get(CONTEXT, "test", "a.example:5000") == HelperAnswer("u", "s")
    assert (tmp_path / "asked").read_text() == "a.example:5000"
    assert helpers.get(CONTEXT, "test", docker_hub.SERVER_URL) == HelperAnswer("u", "s")
    assert (tmp_path / "asked").read_text() == docker_hub.SERVER_URL


def test_a_token_comes_as_a_secret_of_a_special_user(helper):
    helpers = helper("""echo '{"username":"<token>","SECRET":"t"}'""")
    assert helpers.get(CONTEXT, "test", "a.example") == HelperAnswer(identity_token="t")
    assert "'t'" not in repr(helpers.get(CONTEXT, "test", "a.example"))


@pytest.mark.parametrize("script", ["echo '{}'", "echo credentials not found in native keychain; exit 1"])
def test_to_have_nothing_is_no_failure(helper, script):
    assert helper(script).get(CONTEXT, "test", "a.example") is None


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo s3cret; exit 3", "failed with status 3"),
        ("echo s3cret", "its answer is not valid JSON"),
        ("echo '[\"s3cret\"]'", "must be an object, not an array"),
        ('echo \'{"Username":"u","Secret":["s3cret"]}\'', "Secret: must be a string, not an array"),
        ("kill -9 $$", "failed with status -9"),
        ("", "its answer is not valid JSON"),
    ],
)
def test_a_failing_helper_is_named_and_not_quoted(helper, script, complaint, capfd):
    with pytest.raises(ConfigurationError, match=f"docker-credential-test: .*{complaint}") as raised:
        helper(script + "\necho s3cret >&2").get(CONTEXT, "test", "a.example")
    assert "s3cret" not in str(raised.value)
    assert "s3cret" not in "".join(capfd.readouterr())


@pytest.mark.demand("AUTH-helper-injection")
@pytest.mark.parametrize("name", ["../evil", "/bin/sh", "a/b", "", "-x", "..", "a b", "a\n", "x" * 65, "a;b", "$(id)"])
def test_a_helper_name_that_is_none_is_refused_before_anything_runs(name):
    with pytest.raises(ConfigurationError, match="not the name of a credential helper"):
        CredentialHelpers({"PATH": "/bin"}).get(CONTEXT, name, "a.example")


@pytest.mark.demand("AUTH-helper-injection")
@pytest.mark.parametrize(
    "server",
    ["a.example\nb.example", "a.example\n", "..", "a..b", "-a.example", "--help", "a.example/x", "https://a.example",
     "", "a b", "x." * 200 + "x", f"{docker_hub.SERVER_URL}\n"],
)  # fmt: skip
def test_a_registry_name_that_is_none_is_refused_before_anything_runs(helper, tmp_path, server):
    helpers = helper(f"touch {tmp_path}/ran; echo '{{}}'")
    with pytest.raises(InvalidReferenceError):
        helpers.get(CONTEXT, "test", server)
    assert not (tmp_path / "ran").exists()


@pytest.mark.demand("AUTH-helper-injection")
@pytest.mark.parametrize("endless", ["yes s3cret", "cat /dev/zero"])
def test_a_helper_that_says_too_much_is_cut_off(helper, endless):
    with pytest.raises(ConfigurationError, match=f"more than {MAX_OUTPUT} bytes"):
        helper(endless).get(CONTEXT, "test", "a.example")


@pytest.mark.demand("AUTH-helper-injection")
def test_an_answer_of_the_full_size_is_read_whole(helper):
    password = "x" * (MAX_OUTPUT - 100)
    helpers = helper(f"""printf '{{"Username":"u","Secret":"%0{len(password)}d"}}' 7""")
    answer = helpers.get(CONTEXT, "test", "a.example")
    assert answer is not None
    assert len(answer.password) == len(password)


@pytest.mark.demand("client-disconnect")
def test_a_helper_is_killed_when_nobody_waits_for_its_answer_any_more(helper, tmp_path):
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    token = Cancellation()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(helper(f"exec 9>{fifo}\nexec sleep 600").get, Context(token), "test", "a.example")
        with fifo.open("rb") as reader:  # once the helper has opened it, too
            token.cancel()
            with pytest.raises(CancelledError):
                asked.result(PATIENCE)
            assert reader.read() == b""  # its end: no process is left that holds it open


@pytest.mark.demand("AUTH-helper-injection")
@pytest.mark.parametrize(
    "script",
    [
        "exec sleep 600",
        "sleep 600 & echo '{}'",
        "exec >&-; exec sleep 600",
        "trap '' TERM; while :; do sleep 600; done",
    ],
)
def test_a_helper_that_takes_too_long_is_killed_with_its_children(helper, tmp_path, script):
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(ConfigurationError, match=r"no answer within 0\.3 s"):
            helper(f"exec 9>{fifo}\n{script}", timeout=0.3).get(CONTEXT, "test", "a.example")
        os.set_blocking(reader, True)
        assert os.read(reader, 1) == b""  # the end of the FIFO: no process is left that holds it open
    finally:
        os.close(reader)


def test_a_helper_knows_its_user_but_not_what_systemd_told_the_daemon(helper):
    helpers = helper(
        """printf '{"Username":"%s","Secret":"%s"}' "$HOME" "$NOTIFY_SOCKET$LISTEN_FDS$CREDENTIALS_DIRECTORY$MINE" """,
        HOME="/home/me", NOTIFY_SOCKET="/run/notify", LISTEN_FDS="1", CREDENTIALS_DIRECTORY="/run/c", MINE="x",
    )  # fmt: skip
    assert helpers.get(CONTEXT, "test", "a.example") == HelperAnswer("/home/me", "")


def test_only_absolute_directories_of_the_path_are_searched(helper, tmp_path, monkeypatch):
    helper("echo '{}'")
    monkeypatch.chdir(tmp_path)
    assert CredentialHelpers({"PATH": ".::relative"}).find("test") is None
    with pytest.raises(ConfigurationError, match="docker-credential-test: not found in PATH"):
        CredentialHelpers({"PATH": "."}).get(CONTEXT, "test", "a.example")
    assert CredentialHelpers({"PATH": f".:{tmp_path}"}).find("test") == str(tmp_path / "docker-credential-test")


def test_a_program_that_cannot_be_run_is_a_configuration_error(tmp_path):
    program = tmp_path / "docker-credential-test"
    program.write_bytes(b"\x7fELF, but no program")
    program.chmod(stat.S_IRWXU)
    with pytest.raises(ConfigurationError, match="docker-credential-test: cannot be run"):
        CredentialHelpers({"PATH": str(tmp_path)}).get(CONTEXT, "test", "a.example")
