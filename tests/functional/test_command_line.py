"""The stand-alone modes and --check: what a person types."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from container_image_proxy import __version__
from container_image_proxy.cli.options import build_parser
from tests.support.daemon import command, stand_alone, write_instance, write_policy
from tests.support.gpg import Signer
from tests.support.layouts import StoredImage, multi_arch, single_image
from tests.support.privilege import needs_root, status_for

REQUEST = b"GET /manifest HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
UNKNOWN_UID = 4_000_000_000


@pytest.fixture
def image(tmp_path: Path) -> StoredImage:
    write_policy(tmp_path)
    return single_image(tmp_path / "os")


def options(tmp_path: Path) -> list[str]:
    return ["--policy", str(tmp_path / "policy.json"), f"oci:{tmp_path}/os"]


def run(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=60, **more)  # type: ignore[call-overload]


def test_a_socket_of_our_own_is_private_and_goes_with_the_daemon(tmp_path: Path, image: StoredImage) -> None:
    with stand_alone(tmp_path / "run", options(tmp_path)) as daemon:
        assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o600
        assert daemon.get("/manifest").body == image.manifest
        assert daemon.stop() == 0
        assert not daemon.socket.exists()


def test_a_stale_socket_is_replaced_and_a_served_one_is_not(tmp_path: Path, image: StoredImage) -> None:
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "run/own.sock"))
    with stand_alone(tmp_path / "run", [*options(tmp_path), "--socket-mode", "0660"]) as daemon:
        assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660
        second = run("--socket", str(daemon.socket), *options(tmp_path))
        assert (second.returncode, second.stderr.count("\n")) == (78, 1)
        assert "another process listens" in second.stderr
        assert daemon.get("/manifest").status == 200


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-", "<&- >&- 2>&-"])
def test_a_closed_standard_stream_is_no_file_or_socket_of_the_daemons(
    tmp_path: Path, image: StoredImage, closed: str
) -> None:
    del image
    line = ["sh", "-c", f'"$@" {closed}', "-", *command(*options(tmp_path))]
    done = subprocess.run(line, input=REQUEST, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"Traceback" not in done.stderr


@pytest.mark.demand("HTTP-quit")
@needs_root
def test_quit_ends_a_stand_alone_daemon_for_its_owner_only(tmp_path: Path, image: StoredImage) -> None:
    arguments = [*options(tmp_path), "--socket-mode", "0666", "--allow-user", "daemon"]
    with stand_alone(tmp_path / "run", arguments) as daemon:
        assert status_for(1, daemon, "/manifest") == "200"
        assert status_for(1, daemon, "/quit", "-X", "POST") == "403"
        assert daemon.get("/quit").status == 405
        assert daemon.request("POST", "/quit").status == 200
        assert daemon.process.wait(20) == 0


def test_port_serves_loopback_and_says_that_anybody_here_can_connect(tmp_path: Path, image: StoredImage) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(command("--port", str(port), *options(tmp_path)), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert "any local user can connect" in process.stderr.readline()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/manifest")
        assert connection.getresponse().read() == image.manifest
        connection.request("POST", "/quit")
        assert connection.getresponse().status == 403
        connection.close()
        for host, status in {"evil.example": 403, "localhost:1234": 200, "127.0.0.1.evil.example": 403}.items():
            connection.request("GET", "/images", headers={"Host": host})
            assert connection.getresponse().status == status
            connection.close()
        connection.close()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        process.stderr.close()


@pytest.mark.parametrize("kind", ["connected", "listening"])
def test_sockfd_takes_a_connected_or_a_listening_socket(tmp_path: Path, image: StoredImage, kind: str) -> None:
    if kind == "connected":
        ours, theirs = socket.socketpair()
    else:
        theirs, ours = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        theirs.bind(str(tmp_path / "sock"))
        theirs.listen()
        ours.connect(str(tmp_path / "sock"))
    process = subprocess.Popen(
        command("--sockfd", str(theirs.fileno()), *options(tmp_path)),
        pass_fds=(theirs.fileno(),),
        stderr=subprocess.DEVNULL,
    )
    theirs.close()
    with ours:
        ours.settimeout(30)
        ours.sendall(REQUEST)
        received = _read_all(ours)
    if kind == "listening":
        process.terminate()
    assert process.wait(20) == 0
    assert received.endswith(image.manifest)


def _read_all(sock: socket.socket) -> bytes:
    received = b""
    while chunk := sock.recv(65536):
        received += chunk
    return received


def test_without_any_socket_the_client_is_on_standard_input_and_output(tmp_path: Path, image: StoredImage) -> None:
    result = subprocess.run(command(*options(tmp_path)), input=REQUEST, capture_output=True, check=True, timeout=60)
    head, body = result.stdout.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == image.manifest


def test_the_platform_can_be_overridden(tmp_path: Path) -> None:
    write_policy(tmp_path)
    images = multi_arch(tmp_path / "os", "linux/amd64", "linux/arm/v7")
    arguments = [*options(tmp_path), "--override-arch", "arm", "--override-variant", "v7", "--override-os", "linux"]
    with stand_alone(tmp_path / "run", arguments) as daemon:
        assert daemon.get("/manifest").headers["manifest-digest"] == images["linux/arm/v7"].digest


def test_check_prints_what_would_be_served(tmp_path: Path, image: StoredImage) -> None:
    result = run("--check", *options(tmp_path))
    assert (result.returncode, result.stderr) == (0, "")
    for part in (
        f"oci:{tmp_path}/os",
        "(default)",
        "insecureAcceptAnything",
        "default:",
        str(tmp_path / "policy.json"),
    ):
        assert part in result.stdout


def test_check_prints_every_setting_that_is_not_the_usual_one(tmp_path: Path, image: StoredImage) -> None:
    trust = f'[trust]\npolicy = "{tmp_path}/policy.json"\naccept-unnamed-bundles = true\n'
    trust += "verification-timeout = 12\n"
    registry = '[registry]\ntls-verify = false\ntoken-realms = ["auth.example"]\n'
    users = f'[access]\nusers = ["root", {UNKNOWN_UID}]\n'
    text = f'[images.os]\nreference = "oci:{tmp_path}/os"\n{trust}{registry}{users}'
    write_instance(tmp_path / "config", "os", text)
    lines = run("--check", "--config-dir", str(tmp_path / "config")).stdout.splitlines()
    assert lines[1:6] == [
        "  registry.tls-verify = false",
        '  registry.token-realms = ["auth.example"]',
        f'  trust.policy = "{tmp_path}/policy.json"',
        "  trust.accept-unnamed-bundles = true",
        "  trust.verification-timeout = 12.0",
    ]
    assert f"  users      root (0), {UNKNOWN_UID}" in lines
    assert "  groups     none" in lines


def test_token_services_of_the_command_line_come_on_top_of_those_of_the_file(
    tmp_path: Path, image: StoredImage
) -> None:
    registry = '[registry]\ntoken-realms = ["auth.example"]\n[trust]\n'
    text = f'[images.os]\nreference = "oci:{tmp_path}/os"\n{registry}policy = "{tmp_path}/policy.json"\n'
    write_instance(tmp_path / "config", "os", text)
    named = ("--token-realms", "two.example:5000, three.example", "--token-realms=four.example")
    lines = check(tmp_path, *named).stdout.splitlines()
    assert '  registry.token-realms = ["auth.example", "two.example:5000", "three.example", "four.example"]' in lines
    for wrong in ("https://auth.example", "a b", "", "a.example,"):
        refused = check(tmp_path, "--token-realms", wrong)
        assert refused.returncode == 2
        assert "is not the host or host:port of a token service" in refused.stderr


def check(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("--check", "--config-dir", str(tmp_path / "config"), *arguments)


def write_images(tmp_path: Path, **places: str) -> None:
    """An instance "test" with these images, which are layouts."""
    images = "".join(f'[images.{name}]\nreference = "oci:{place}"\n' for name, place in places.items())
    text = f'default = "{next(iter(places))}"\n{images}[trust]\npolicy = "{tmp_path}/policy.json"\n'
    write_instance(tmp_path / "config", "test", text)


def test_check_tells_every_image_that_is_not_there(tmp_path: Path, image: StoredImage) -> None:
    (tmp_path / "broken").mkdir()
    write_images(
        tmp_path, os=f"{tmp_path}/os", missing="/srv/no/such", tag=f"{tmp_path}/os:9", broken=f"{tmp_path}/broken"
    )
    result = check(tmp_path)
    assert result.returncode == 78
    assert len(result.stdout.splitlines()) > 20  # what would be served is told all the same
    missing, tag, broken = result.stderr.splitlines()
    start = f"error {tmp_path}/config/test.toml: images"
    assert missing.startswith(f"{start}.missing.reference: there is no layout to be read at /srv/no/such: No such file")
    assert tag == f"{start}.tag.reference: index.json of {tmp_path}/os: the layout has no image '9'; it has latest"
    assert broken.startswith(
        f"{start}.broken.reference: the layout is broken: {tmp_path}/broken/index.json: No such file"
    )


def test_check_reads_the_certificates_of_a_registry(tmp_path: Path, image: StoredImage) -> None:
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs/ca.crt").symlink_to("gone")
    result = run("--check", "--insecure-policy", "--cert-dir", str(tmp_path / "certs"), "docker://registry.example/os")
    assert (result.returncode, result.stderr.count("\n")) == (78, 1)
    assert f"{tmp_path}/certs/ca.crt: cannot be read: No such file" in result.stderr


@pytest.mark.parametrize("link", ["/dev/null", "null.toml"])
def test_check_passes_over_a_masked_instance(tmp_path: Path, image: StoredImage, link: str) -> None:
    write_images(tmp_path, os=f"{tmp_path}/os")
    (tmp_path / "config/masked.toml").symlink_to(link)
    (tmp_path / "config/null.toml").symlink_to("/dev/null")
    result = check(tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    named = check(tmp_path, "--instance", "masked")
    assert (named.returncode, named.stderr.count("\n")) == (78, 1)
    assert "masked by a link to /dev/null" in named.stderr


def test_check_says_in_one_line_that_it_cannot_look_for_instances(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("")
    result = check(tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (78, 1)
    assert f"{tmp_path}/config: cannot be read: Not a directory" in result.stderr


@pytest.mark.parametrize(
    ("where", "users"),
    [
        (["--port", "8080"], "everybody on this host (--port)"),
        ([], "whoever is on standard input and output"),
        (["--socket", "/run/x.sock", "--allow-user", "daemon", "--socket-mode", "0666"], "root (0), daemon (1)"),
        (["--socket", "/run/x.sock", "--allow-user", "daemon"], "root (0)"),
    ],
)
def test_check_names_those_who_really_may_connect(
    tmp_path: Path, image: StoredImage, where: list[str], users: str
) -> None:
    lines = run("--check", *where, *options(tmp_path)).stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("  users ")]
    if os.geteuid() == 0 or "root" not in users:
        assert line == f"  users      {users}"
    kept_out = [line for line in lines if line.startswith("  kept out ")]
    assert [line.partition(":")[0] for line in kept_out] == ["  kept out   daemon (1)"] * (
        where[2:] == ["--allow-user", "daemon"]
    )


def signed_images(tmp_path: Path, image: StoredImage, key: str) -> tuple[Path, str]:
    """The policy of an instance of two images, and the option that names the directory of its file."""
    requirement = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": key}
    single_image(tmp_path / "tools")
    scopes = {"oci": {f"{tmp_path}/os": [requirement]}}
    policy = write_policy(tmp_path, {"default": [{"type": "reject"}], "transports": scopes})
    images = "".join(f'[images.{name}]\nreference = "oci:{tmp_path}/{name}"\n' for name in ("os", "tools"))
    write_instance(tmp_path / "config", "test", f'{images}[trust]\npolicy = "{policy}"\n')
    return policy, f"--config-dir={tmp_path}/config"


def test_check_prints_the_trust_scope_of_each_image(tmp_path: Path, image: StoredImage) -> None:
    with Signer() as signer:
        (tmp_path / "key.gpg").write_bytes(signer.public_key)
    _, option = signed_images(tmp_path, image, f"{tmp_path}/key.gpg")
    result = run("--check", option)
    assert (result.returncode, result.stderr) == (0, "")
    trust = [line for line in result.stdout.splitlines() if line.startswith("  trust ")]
    assert trust == [f"  trust      oci|{tmp_path}/os: signedBy", "  trust      default: reject"]


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "cannot be read: No such file"), ("no key", "not all keys are OpenPGP public keys")]
)
def test_check_fails_for_keys_that_cannot_be_used(
    tmp_path: Path, image: StoredImage, content: str | None, reason: str
) -> None:
    key = tmp_path / "key.gpg"
    if content is not None:
        key.write_text(content)
    policy, option = signed_images(tmp_path, image, str(key))
    result = run("--check", option)
    assert (result.returncode, result.stderr.count("\n")) == (78, 1)
    for part in (f"{policy}: oci|{tmp_path}/os: signedBy: ", f"{key}: {reason}"):
        assert part in result.stderr


def test_check_warns_of_scopes_that_can_match_no_image(tmp_path: Path, image: StoredImage) -> None:
    accept = [{"type": "insecureAcceptAnything"}]
    policy = write_policy(tmp_path, {"default": accept, "transports": {"docker": {"quay.io/": accept}}})
    result = run("--check", *options(tmp_path))
    assert (result.returncode, result.stderr.count("\n")) == (0, 1)
    assert f"{policy}: transports.docker: scope 'quay.io/' can match no image" in result.stderr


def test_an_insecure_policy_is_logged(tmp_path: Path, image: StoredImage) -> None:
    result = run("--insecure-policy", f"oci:{tmp_path}/os", stdin=subprocess.DEVNULL)
    assert "no signature is checked" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--instance", "x", "oci:/x"],
        ["--instance", "x", "--port", "1"],
        ["--port", "1", "--socket", "/x", "oci:/x"],
        ["--no-creds", "--creds", "a:b", "oci:/x"],
        ["--socket-mode", "999", "oci:/x"],
        ["--tls-verify=perhaps", "oci:/x"],
        ["--port", "1", "--allow-user", "root", "oci:/x"],
        ["--instance", "x", "--allow-group", "adm"],
        ["--instance", "x", "--socket-mode", "0600"],
        ["--policy", "/x", "--insecure-policy", "oci:/x"],
        ["--insecure", "oci:/x"],
        ["--idle-exit", "-1", "oci:/x"],
        ["--idle-exit", "nan", "oci:/x"],
        ["--colour"],
    ],
)
def test_wrong_usage_is_told_on_the_spot(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert "usage: container-image-proxy" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--socket-mode", "999"], "--socket-mode: '999' is no mode in octal, from 0 to 0777"),
        (["--socket-mode", "1777"], "--socket-mode: '1777' is no mode in octal, from 0 to 0777"),
        (["--socket-mode", "0o600"], "--socket-mode: '0o600' is no mode in octal, from 0 to 0777"),
        (["--idle-exit", "-1"], "--idle-exit: '-1' is no number of seconds, 0 or more"),
        (["--idle-exit", "inf"], "--idle-exit: 'inf' is no number of seconds, 0 or more"),
        (["--verification-timeout", "0"], "--verification-timeout: 0 seconds are not enough for anything"),
        (["--verification-timeout", "-3"], "--verification-timeout: '-3' is no number of seconds, 0 or more"),
        (["--idle-exit", "soon"], "--idle-exit: 'soon' is no number of seconds, 0 or more"),
        (["--tls-verify", "perhaps"], "--tls-verify: 'perhaps' is neither true nor false"),
    ],
)
def test_a_wrong_value_is_told_in_a_sentence(arguments: list[str], complaint: str) -> None:
    assert run(*arguments, "oci:/x").stderr.endswith(f"error: argument {complaint}\n")


def test_help_has_a_word_on_every_option() -> None:
    assert [action.option_strings for action in build_parser()._actions if not action.help] == []


@pytest.mark.parametrize("reference", ["ocy:/x", "docker:busybox", "docker://UPPER", "oci:/no/such/dir/x", ""])
def test_an_unreadable_image_ends_with_78_and_one_line(reference: str) -> None:
    result = run("--insecure-policy", reference)
    assert result.returncode == 78
    assert result.stderr.splitlines()[-1].startswith("error command line: IMAGE: ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--sockfd", "-1"], "--sockfd -1"),
        (["--sockfd", "99"], "--sockfd 99"),
        (["--override-arch", "a b/c"], "--override-"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, image: StoredImage, arguments: list[str], complaint: str) -> None:
    result = run(*arguments, *options(tmp_path))
    assert (result.returncode, result.stderr.count("\n")) == (78, 1)
    assert complaint in result.stderr


@pytest.mark.demand("ENV-proxy")
def test_a_proxy_that_cannot_be_used_is_told_at_once(tmp_path: Path) -> None:
    environ = {**os.environ, "HTTPS_PROXY": "socks4://user:hunter2@127.0.0.1:1"}
    result = run("--check", "--insecure-policy", "docker://quay.io/x/y", env=environ)
    assert (result.returncode, result.stderr.count("\n")) == (78, 1)
    assert "hunter2" not in result.stderr


def test_check_asks_no_registry_and_says_so() -> None:
    result = run("--check", "--insecure-policy", "docker://registry.example/os")
    assert result.returncode == 0, result.stderr
    assert "  found      registry.example was not asked\n" in result.stdout


def test_check_without_a_name_checks_every_instance(tmp_path: Path, image: StoredImage) -> None:
    policy = f'[trust]\npolicy = "{tmp_path}/policy.json"\n'
    write_instance(tmp_path / "config", "good", f'[images.os]\nreference = "oci:{tmp_path}/os"\n{policy}')
    assert run("--check", "--config-dir", str(tmp_path / "config")).returncode == 0
    write_instance(tmp_path / "config", "bad", "colour = 1\n")
    result = run("--check", "--config-dir", str(tmp_path / "config"))
    assert result.returncode == 78
    assert "bad.toml: colour: unknown key" in result.stderr
    assert f"oci:{tmp_path}/os" in result.stdout


def test_a_month_of_idleness_is_a_time_like_any_other(tmp_path: Path, image: StoredImage) -> None:
    with stand_alone(tmp_path / "run", ["--idle-exit", "2592000", *options(tmp_path)]) as daemon:
        assert daemon.get("/manifest").status == 200


def test_a_path_that_is_no_utf_8_is_served_and_named(tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"lay\xff")
    stored = single_image(place)
    with stand_alone(tmp_path / "run", ["--policy", str(write_policy(tmp_path)), f"oci:{place}"]) as daemon:
        reply = daemon.get("/manifest")
        assert (reply.status, reply.body) == (200, stored.manifest)
        assert reply.headers["image-reference"].endswith("/lay%FF:")
        assert daemon.get("/images").status == 200


def test_credentials_of_the_command_line_are_not_in_any_message(tmp_path: Path, image: StoredImage) -> None:
    result = run(
        "--check",
        "--creds",
        "user:hunter2",
        "--policy",
        str(tmp_path / "policy.json"),
        "--log-level",
        "debug",
        "docker://quay.io/x/y",
    )
    assert result.returncode == 0
    assert "hunter2" not in result.stdout + result.stderr


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"container-image-proxy {__version__}\n"
