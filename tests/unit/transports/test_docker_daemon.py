"""The docker-daemon: transport: references, and where the daemon is."""

from __future__ import annotations

from pathlib import Path

import pytest

from container_image_proxy.config.engine import load_engine_address, parse_engine_host
from container_image_proxy.errors import ConfigurationError, InvalidReferenceError
from container_image_proxy.transports.docker_daemon import DockerDaemonReference, _parse_state

DIGEST = "sha256:" + "0123456789abcdef" * 4


def test_a_name_has_the_scopes_that_it_has_in_a_registry_and_an_id_none() -> None:
    named = DockerDaemonReference.parse("quay.io/a/b:1")
    assert named.policy_identity == "quay.io/a/b:1"
    assert named.policy_namespaces == ("quay.io/a/b", "quay.io/a", "quay.io", "*.io")
    by_id = DockerDaemonReference.parse(DIGEST)
    assert (by_id.policy_identity, by_id.policy_namespaces, by_id.docker_reference) == ("", (), None)
    assert str(by_id) == f"docker-daemon:{DIGEST}"


def test_the_digest_of_a_name_is_not_that_of_the_manifest_which_is_made() -> None:
    assert DockerDaemonReference.parse(f"quay.io/a/b@{DIGEST}").pinned_digest is None


@pytest.mark.parametrize(
    ("within", "reason"),
    [
        ("busybox", "neither a tag nor a digest"),
        (f"busybox:1@{DIGEST}", "both a tag and a digest"),
        ("sha256:abc", "64 hex digits"),
        ("sha512:" + "ab" * 64, "sha256 digests"),
        ("", "is not"),
        ("a" * 64, "image id"),
    ],
)
def test_what_is_no_reference_is_refused(within: str, reason: str) -> None:
    with pytest.raises(InvalidReferenceError, match=reason):
        DockerDaemonReference.parse(within)


@pytest.mark.parametrize(
    ("text", "path", "host", "port", "is_tls"),
    [
        ("unix:///run/podman/podman.sock", "/run/podman/podman.sock", "", 0, False),
        ("tcp://engine.example:2376", None, "engine.example", 2376, True),
        ("tcp://engine.example", None, "engine.example", 2376, True),
        ("https://[::1]:99/", None, "::1", 99, True),
        ("tcp://[::1]", None, "::1", 2376, True),
        ("http://127.0.0.1", None, "127.0.0.1", 2375, False),
    ],
)
def test_where_an_engine_can_be(text: str, path: str | None, host: str, port: int, *, is_tls: bool) -> None:
    found = parse_engine_host(text)
    assert (found.path, found.host, found.port, found.tls is not None) == (path, host, port, is_tls)


@pytest.mark.parametrize(
    "text",
    ["", "unix://", "unix://run/x", "/run/x", "ssh://host", "npipe:////./pipe/x", "fd://", "tcp://", "tcp://host:0",
     "tcp://host:70000", "tcp://host:00000170000", "tcp://host:000001" + "9" * 5000,
     "tcp://user@host", "tcp://host/path", "unix:///" + "x" * 110],
)  # fmt: skip
def test_where_it_cannot_be(text: str) -> None:
    with pytest.raises(InvalidReferenceError):
        parse_engine_host(text)


def test_the_environment_counts_where_nothing_else_is_said(tmp_path: Path) -> None:
    environ = {"DOCKER_HOST": "http://one:1"}
    assert load_engine_address(None, None, environ, tmp_path).host == "one"
    assert load_engine_address("http://two:1", None, environ, tmp_path).host == "two"
    assert load_engine_address(None, None, {}, tmp_path).path == "/var/run/docker.sock"
    with pytest.raises(ConfigurationError, match="the environment: DOCKER_HOST: 'nonsense'"):
        load_engine_address(None, None, {"DOCKER_HOST": "nonsense"}, tmp_path)


def test_half_of_a_client_certificate_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").touch()
    with pytest.raises(ConfigurationError, match=r"key\.pem: is missing beside its other half"):
        parse_engine_host("tcp://host", tmp_path)
    (tmp_path / "key.pem").touch()
    assert parse_engine_host("tcp://host", tmp_path).tls


@pytest.mark.parametrize("state", [b"", b"x", b"[]", b"[" * 100_000, b'{"image_id": "\xff"}', b'{"image_id": 1}'])
def test_a_state_that_is_none_of_ours_is_passed_over(state: bytes) -> None:
    assert _parse_state(state) is None
