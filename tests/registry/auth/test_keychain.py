"""Which credentials for which registry, from where, and for nobody else."""

import base64
import json
import logging
import os
import socket
from pathlib import Path

import pytest

from container_image_proxy.config import trusted_file
from container_image_proxy.config.once import warn_once
from container_image_proxy.config.registries import Mirror, Registries, Registry
from container_image_proxy.errors import ConfigurationError
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.registry.auth.keychain import Credentials, Keychain, load_keychain
from container_image_proxy.registry.auth.token import basic_authorization
from tests.support.contexts import CONTEXT
from tests.support.privilege import ordinary_user, public_directory

SECRET = "hunter2"
IMAGE = parse_reference("registry.example/ns/os:1")


@pytest.fixture(autouse=True)
def _forget_warnings():
    warn_once.cache_clear()


def auths(**users: str) -> str:
    """The text of a file with the user's credentials for registry.example, or for all the registries given."""
    entries = {
        key.replace("_", "."): {"auth": base64.b64encode(f"{user}:{SECRET}".encode()).decode()}
        for key, user in users.items()
    }
    return json.dumps({"auths": entries})


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def load(root: Path, **arguments) -> Keychain:
    environ = {"PATH": str(root / "bin"), **arguments.pop("environ", {})}
    return load_keychain(environ=environ, home=root / "home", uid=7, root=root, **arguments)


def user_for(keychain: Keychain, text: str = str(IMAGE)) -> str | None:
    credentials = keychain.credentials_for(CONTEXT, parse_reference(text))
    return credentials.username if credentials else None


def test_files_are_searched_in_their_order(tmp_path):
    keychain = load(tmp_path)
    assert user_for(keychain) is None
    write(tmp_path / "home/.dockercfg", json.dumps(json.loads(auths(registry_example="legacy"))["auths"]))
    assert user_for(keychain) == "legacy"
    write(tmp_path / "home/.docker/config.json", auths(registry_example="docker"))
    assert user_for(keychain) == "docker"
    write(tmp_path / "home/.config/containers/auth.json", auths(registry_example="user"))
    assert user_for(keychain) == "user"
    write(tmp_path / "run/containers/7/auth.json", auths(registry_example="runtime"))
    assert user_for(keychain) == "runtime"
    write(tmp_path / "run/containers/7/auth.json", auths(other_example="runtime"))
    assert user_for(keychain) == "user"


@pytest.mark.parametrize(
    ("variable", "file"),
    [
        ("XDG_RUNTIME_DIR", "containers/auth.json"),
        ("XDG_CONFIG_HOME", "containers/auth.json"),
        ("DOCKER_CONFIG", "config.json"),
    ],
)
def test_the_environment_moves_the_usual_places(tmp_path, variable, file):
    write(tmp_path / "moved" / file, auths(registry_example="moved"))
    assert user_for(load(tmp_path, environ={variable: str(tmp_path / "moved")})) == "moved"


def test_a_named_file_is_the_only_one_and_has_to_be_there(tmp_path):
    write(tmp_path / "home/.docker/config.json", auths(registry_example="docker"))
    named = write(tmp_path / "named.json", auths(other_example="named"))
    assert user_for(load(tmp_path, authfile=named)) is None
    assert user_for(load(tmp_path, environ={"REGISTRY_AUTH_FILE": str(named)})) is None
    with pytest.raises(ConfigurationError, match=r"absent\.json: cannot be read: No such file"):
        load(tmp_path, authfile=tmp_path / "absent.json")
    keychain = load(tmp_path, authfile=named)
    named.unlink()
    with pytest.raises(ConfigurationError, match=r"named\.json: cannot be read: No such file"):
        user_for(keychain)


def test_rotated_credentials_count_at_once(tmp_path):
    file = write(tmp_path / "auth.json", auths(registry_example="old"))
    keychain = load(tmp_path, authfile=file)
    assert user_for(keychain) == "old"
    write(tmp_path / "new.json", auths(registry_example="new")).replace(file)
    assert user_for(keychain) == "new"


def test_a_systemd_credential_is_read_once_and_is_the_only_file(tmp_path):
    write(tmp_path / "home/.docker/config.json", auths(other_example="docker"))
    file = write(tmp_path / "credentials/auth.json", auths(registry_example="systemd"))
    keychain = load(tmp_path, environ={"CREDENTIALS_DIRECTORY": str(file.parent)})
    file.unlink()
    assert user_for(keychain) == "systemd"
    assert user_for(keychain, "other.example/x:1") is None
    assert base64.b64encode(f"systemd:{SECRET}".encode()).decode() not in repr(keychain)
    assert (
        user_for(load(tmp_path, environ={"CREDENTIALS_DIRECTORY": str(file.parent)}), "other.example/x:1") == "docker"
    )


DEFAULT_PLACES = ["run/containers/7/auth.json", "home/.config/containers/auth.json", "home/.docker/config.json"]


@pytest.mark.parametrize("place", [*DEFAULT_PLACES, "home/.dockercfg"])
@pytest.mark.parametrize("what_is_closed", ["file", "directory"])
def test_a_default_place_that_is_not_ours_to_read_counts_as_absent(caplog, place, what_is_closed):
    with public_directory() as root:
        file = write(root / place, auths(registry_example="somebody"))
        closed = file if what_is_closed == "file" else file.parent
        closed.chmod(0)
        with ordinary_user():
            assert user_for(load(root, instance="os")) is None
        (record,) = [one for one in caplog.records if one.getMessage().startswith(f"{file}: ")]
        assert record.levelname == "WARNING"
        message = record.getMessage()
        assert message.startswith(f"{file}: cannot be read: Permission denied: {closed} (mode 0000")
        assert "/etc/credstore/container-image-proxy.os.auth.json" in message
        closed.chmod(0o700)


def test_a_default_place_that_leads_where_we_may_not_go_counts_as_absent(caplog):
    with public_directory() as root:
        secret = write(root / "secrets/auth.json", auths(registry_example="somebody"))
        secret.parent.chmod(0)
        place = root / DEFAULT_PLACES[1]
        place.parent.mkdir(parents=True)
        place.symlink_to(secret)
        with ordinary_user():
            assert user_for(load(root)) is None
        (record,) = caplog.records
        assert record.getMessage().startswith(f"{place}: cannot be read: Permission denied: {root}/secrets (mode 0000")
        secret.parent.chmod(0o700)


@pytest.mark.parametrize("variable", ["XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"])
def test_a_default_place_that_the_environment_moved_is_one_still(caplog, variable):
    with public_directory() as root:
        (root / "moved").mkdir(mode=0)
        with ordinary_user():
            assert user_for(load(root, environ={variable: str(root / "moved")})) is None
        (root / "moved").chmod(0o700)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "--authfile" in caplog.text


def _make_socket(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.mkdir(), "Is a directory"),
        (os.mkfifo, "is not a regular file"),
        (_make_socket, "No such device or address"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
        (lambda path: (path.parent.rmdir(), path.parent.write_text("")), "Not a directory"),
        (lambda path: (path.parent.rmdir(), path.parent.symlink_to("/dev/null/x")), "Not a directory"),
    ],
    ids=["loop", "directory", "fifo", "socket", "device", "below-a-file", "below-a-device"],
)
def test_what_cannot_be_read_in_a_default_place_counts_as_absent_whatever_the_reason(tmp_path, caplog, make, reason):
    place = tmp_path / DEFAULT_PLACES[0]
    place.parent.mkdir(parents=True)
    make(place)
    write(tmp_path / DEFAULT_PLACES[2], auths(registry_example="docker"))
    assert user_for(load(tmp_path)) == "docker"
    (record,) = caplog.records
    assert str(place) in record.getMessage()
    assert reason in record.getMessage()


def test_a_link_to_what_is_not_there_is_absent_without_a_word(tmp_path, caplog):
    place = tmp_path / DEFAULT_PLACES[0]
    place.parent.mkdir(parents=True)
    place.symlink_to("nowhere")
    assert user_for(load(tmp_path)) is None
    assert not caplog.records


def test_a_default_place_is_warned_of_once_however_often_it_is_asked(tmp_path, caplog):
    (tmp_path / DEFAULT_PLACES[0]).mkdir(parents=True)
    (tmp_path / DEFAULT_PLACES[1]).mkdir(parents=True)
    for _ in range(2):
        keychain = load(tmp_path)
        assert user_for(keychain) is user_for(keychain) is None
    assert len(caplog.records) == 2


def test_a_default_place_is_used_as_soon_as_it_can_be_read_and_no_longer(tmp_path, caplog):
    place = tmp_path / DEFAULT_PLACES[0]
    place.mkdir(parents=True)
    keychain = load(tmp_path)
    place.rmdir()
    write(place, auths(registry_example="runtime"))
    assert user_for(keychain) == "runtime"
    place.unlink()
    assert user_for(keychain) is None
    place.mkdir()
    assert user_for(keychain) is None
    place.rmdir()
    write(place, "{")
    with pytest.raises(ConfigurationError, match=r"auth\.json: the content is not valid JSON"):
        user_for(keychain)


def test_being_short_of_descriptors_does_not_make_a_file_absent(tmp_path, monkeypatch):
    keychain = load(tmp_path)

    def no_more(*_):
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(trusted_file.os, "open", no_more)
    with pytest.raises(ConfigurationError, match="cannot be read: Too many open files"):
        user_for(keychain)


@pytest.mark.parametrize("named_by", ["option", "environment", "credential"])
def test_what_somebody_named_has_to_be_readable(named_by):
    with public_directory() as root:
        file = write(root / "named/auth.json", auths(registry_example="u"), mode=0)
        environ = {
            "environment": {"REGISTRY_AUTH_FILE": str(file)},
            "credential": {"CREDENTIALS_DIRECTORY": f"{root}/named"},
        }
        authfile = file if named_by == "option" else None
        with (
            ordinary_user(),
            pytest.raises(ConfigurationError, match=r"named/auth\.json: cannot be read: Permission denied") as caught,
        ):
            load(root, authfile=authfile, environ=environ.get(named_by, {}), instance="os")
        if named_by != "credential":  # no remedy shows a secret to everybody
            handed = f"instead of naming it, a drop-in of the unit with LoadCredential=auth.json:{file} hands it over"
            assert caught.value.remedy == handed


def test_what_somebody_named_stays_named_when_it_is_broken_or_closed_later(tmp_path):
    file = write(tmp_path / "auth.json", auths(registry_example="u"))
    write(tmp_path / DEFAULT_PLACES[2], auths(registry_example="docker"))
    keychain = load(tmp_path, authfile=file)
    write(file, "{")
    with pytest.raises(ConfigurationError, match="not valid JSON"):
        user_for(keychain)
    file.unlink()
    file.mkdir()
    with pytest.raises(ConfigurationError, match="Is a directory"):
        user_for(keychain)


def test_a_broken_file_stops_the_start_and_names_itself(tmp_path):
    write(tmp_path / "home/.docker/config.json", "{")
    with pytest.raises(ConfigurationError, match=r"\.docker/config\.json: the content is not valid JSON"):
        load(tmp_path)


@pytest.mark.demand("CONF-perm")
def test_credentials_that_others_can_read_are_used_with_a_warning_once(tmp_path, caplog):
    file = write(tmp_path / "auth.json", auths(registry_example="u"), mode=0o644)
    keychain = load(tmp_path, authfile=file)
    assert user_for(keychain) == user_for(keychain) == "u"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(file) in caplog.text


@pytest.mark.demand("AUTH-logs")
def test_credentials_name_their_origin_and_show_no_secret(tmp_path):
    file = write(tmp_path / "auth.json", auths(registry_example="u"))
    credentials = load(tmp_path, authfile=file).credentials_for(CONTEXT, IMAGE)
    assert credentials == Credentials("u", SECRET, "", str(file))
    assert SECRET not in repr(credentials)
    assert SECRET not in repr(Credentials("u", "", SECRET))


@pytest.mark.demand("AUTH-mirror-isolation")
def test_a_mirror_gets_its_own_credentials_and_never_the_registrys(tmp_path):
    mirrors = Mirror("mirror.example/registry.example"), Mirror("own.example")
    registries = Registries((Registry("registry.example", "registry.example", mirrors=mirrors),))
    file = write(tmp_path / "auth.json", auths(registry_example="primary", own_example="own"))
    keychain = load(tmp_path, authfile=file)
    assert [user_for(keychain, str(source.reference)) for source in registries.pull_sources(IMAGE)] == [
        None,
        "own",
        "primary",
    ]


@pytest.mark.demand("AUTH-mirror-isolation")
def test_credentials_of_the_command_line_are_for_their_registry_alone(tmp_path):
    write(tmp_path / "home/.docker/config.json", auths(registry_example="file", mirror_example="mirror"))
    keychain = load(tmp_path, creds={"registry.example": Credentials("given", SECRET, "", "--creds")})
    assert user_for(keychain) == "given"
    assert user_for(keychain, "registry.example:444/ns/os:1") is None
    assert user_for(keychain, "mirror.example/ns/os:1") == "mirror"
    assert SECRET not in repr(keychain)


def test_to_be_anonymous_means_everywhere(tmp_path):
    file = write(tmp_path / "auth.json", auths(registry_example="u"))
    keychain = load(tmp_path, authfile=file, no_creds=True, creds={"registry.example": Credentials("given", SECRET)})
    assert user_for(keychain) is None


def install(root: Path, name: str) -> None:
    """A helper that knows everybody: the user is the helper's name and the registry that it was asked for."""
    script = f"""#!/bin/sh\nread -r server\nprintf '{{"Username":"{name} for %s","Secret":"s"}}' "$server"\n"""
    write(root / f"bin/docker-credential-{name}", script, mode=0o755)


def test_a_registrys_helper_counts_before_its_entry_and_the_store_after_all(tmp_path):
    for name in ("one", "all"):
        install(tmp_path, name)
    content = json.loads(auths(registry_example="entry", other_example="entry")) | {"credsStore": "all"}
    content["credHelpers"] = {"registry.example": "one"}
    keychain = load(tmp_path, authfile=write(tmp_path / "auth.json", json.dumps(content)))
    found = keychain.credentials_for(CONTEXT, IMAGE)
    assert found is not None
    assert found.username == "one for registry.example"
    assert found.origin == f"docker-credential-one (credHelpers in {tmp_path}/auth.json)"
    assert user_for(keychain, "other.example/x:1") == "entry"
    assert user_for(keychain, "third.example:5000/x:1") == "all for third.example:5000"
    assert user_for(keychain, "docker.io/library/x:1") == "all for https://index.docker.io/v1/"


def install_broken(root: Path, name: str) -> None:
    write(root / f"bin/docker-credential-{name}", "#!/bin/sh\necho no session bus\nexit 1\n", mode=0o755)


@pytest.mark.parametrize("name", ["missing", "broken", "../evil"])
def test_a_store_that_is_missing_or_fails_is_warned_of_once_and_stops_nobody(tmp_path, caplog, name):
    install_broken(tmp_path, "broken")
    write(tmp_path / "run/containers/7/auth.json", json.dumps({"credsStore": name}))
    write(tmp_path / "home/.docker/config.json", auths(registry_example="next"))
    keychain = load(tmp_path)
    assert user_for(keychain) == user_for(keychain) == "next"
    (told,) = caplog.messages
    assert "credsStore: ignored: " in told
    assert name in told


def test_a_store_that_is_no_name_stops_nobody_either(tmp_path, caplog):
    content = json.loads(auths(registry_example="entry")) | {"credsStore": 5}
    keychain = load(tmp_path, authfile=write(tmp_path / "auth.json", json.dumps(content)))
    assert user_for(keychain) == user_for(keychain) == "entry"
    assert [message.partition(": ")[2] for message in caplog.messages] == ["credsStore: must be a string, ignored"]


@pytest.mark.parametrize(("name", "told"), [("missing", "not found in PATH"), ("broken", "failed with status 1")])
def test_a_helper_that_is_missing_or_fails_passes_to_the_next_source(tmp_path, caplog, name, told):
    install_broken(tmp_path, "broken")
    install(tmp_path, "good")
    write(tmp_path / "home/.docker/config.json", auths(registry_example="file"))
    assert user_for(load(tmp_path, credential_helpers=(name, "containers-auth.json"))) == "file"
    keychain = load(tmp_path, credential_helpers=(name, "containers-auth.json", "good"))
    for _ in range(2):
        assert user_for(keychain, "other.example/x:1") == "good for other.example"
    assert len(caplog.messages) == 2, "once for each registry"
    assert all(told in message for message in caplog.messages)
    for helpers in ((name,), ("containers-auth.json", name), (name, "containers-auth.json")):
        with pytest.raises(ConfigurationError, match=told):
            user_for(load(tmp_path, credential_helpers=helpers), "third.example/x:1")
    with pytest.raises(ConfigurationError, match=rf"{told}.*; .*docker-credential-gone: not found"):
        user_for(load(tmp_path, credential_helpers=(name, "gone")))


def test_a_broken_file_passes_to_the_next_helper_too(tmp_path):
    install(tmp_path, "good")
    file = write(tmp_path / "home/.docker/config.json", "{}")
    keychain = load(tmp_path, credential_helpers=("containers-auth.json", "good"))
    file.write_text("{")
    assert user_for(keychain) == "good for registry.example"


def test_the_helper_of_one_registry_decides_for_it_within_the_files(tmp_path):
    """As in containers/image: the entry names this helper, so that no other file stands in for it."""
    write(tmp_path / "run/containers/7/auth.json", json.dumps({"credHelpers": {"registry.example": "missing"}}))
    write(tmp_path / "home/.docker/config.json", auths(registry_example="next"))
    with pytest.raises(ConfigurationError, match="docker-credential-missing: not found in PATH"):
        user_for(load(tmp_path))


def test_configured_helpers_are_asked_in_their_order_among_the_files(tmp_path):
    install(tmp_path, "global")
    write(tmp_path / "home/.docker/config.json", auths(registry_example="file"))
    assert user_for(load(tmp_path, credential_helpers=("containers-auth.json", "global"))) == "file"
    assert (
        user_for(load(tmp_path, credential_helpers=("global", "containers-auth.json"))) == "global for registry.example"
    )
    assert user_for(load(tmp_path, credential_helpers=("global",))) == "global for registry.example"


@pytest.mark.demand("AUTH-helper-injection")
def test_a_helper_that_cannot_be_one_stops_the_start(tmp_path):
    with pytest.raises(ConfigurationError, match="not the name of a credential helper"):
        load(tmp_path, credential_helpers=("../../tmp/evil",))
    file = write(tmp_path / "auth.json", '{"credHelpers": {"registry.example": "../evil"}}')
    with pytest.raises(ConfigurationError, match="not the name of a credential helper"):
        user_for(load(tmp_path, authfile=file))


NULL_USER = "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"auth": "u:p"}, ("u", "p", "", "")),
        ({"auth": "u:p", "identitytoken": "i"}, ("u", "p", "i", "")),
        ({"auth": f"{NULL_USER}:", "identitytoken": "i"}, (NULL_USER, "", "i", "")),
        ({"auth": "", "identitytoken": "i"}, ("", "", "i", "")),
        ({"identitytoken": "i"}, ("", "", "i", "")),
        ({"IdentityToken": "i"}, ("", "", "i", "")),
        ({"auth": "nocolon", "identitytoken": "i"}, ("", "", "i", "")),
        ({"username": "u", "password": "p"}, ("u", "p", "", "")),
        ({"username": "u", "password": "p", "email": "x", "serveraddress": "y", "auth": ""}, ("u", "p", "", "")),
        ({"username": "u", "password": "p", "auth": "u:p"}, ("u", "p", "", "")),
        ({"username": "other", "password": "x", "auth": "u:p"}, ("u", "p", "", "")),
        ({"username": "<token>", "identitytoken": "i"}, ("<token>", "", "i", "")),
        ({"registrytoken": "r"}, ("", "", "", "r")),
        ({"auth": "u:p", "registrytoken": "r"}, ("u", "p", "", "")),
        ({"identitytoken": "i", "registrytoken": "r"}, ("", "", "i", "")),
        ({"auth": None, "identitytoken": None, "username": None}, None),
        ({"auth": "nocolon"}, None),
        ({"auth": ":"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_forms_of_entries(tmp_path, entry, expected):
    if entry.get("auth"):
        entry = entry | {"auth": base64.b64encode(entry["auth"].encode()).decode()}
    file = write(tmp_path / "auth.json", json.dumps({"auths": {"registry.example": entry}}))
    found = load(tmp_path, authfile=file).credentials_for(CONTEXT, IMAGE)
    fields = ("username", "password", "identity_token", "registry_token")
    assert (found and tuple(getattr(found, field) for field in fields)) == expected


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"auth": "bm9jb2xvbg=="}, "auth: has no colon between user and password, ignored"),
        ({"auth": "dTpw", "username": "x", "password": SECRET}, "username and password are not those of auth, ignored"),
        ({"auth": "dTpw", "registrytoken": SECRET}, "registrytoken: ignored beside other credentials"),
    ],
    ids=str,
)
def test_what_is_ignored_is_told_once_without_showing_it(tmp_path, caplog, entry, told):
    file = write(tmp_path / "auth.json", json.dumps({"auths": {"registry.example": entry}}))
    keychain = load(tmp_path, authfile=file)
    for _ in range(2):
        keychain.credentials_for(CONTEXT, IMAGE)
    (message,) = caplog.messages
    assert told in message
    assert "registry.example" in message
    assert SECRET not in message
    assert "nocolon" not in message


def test_a_password_is_the_bytes_that_the_file_has(tmp_path):
    entry = {"auth": base64.b64encode(b"u:\xfc").decode()}
    file = write(tmp_path / "auth.json", json.dumps({"auths": {"registry.example": entry}}))
    found = load(tmp_path, authfile=file).credentials_for(CONTEXT, IMAGE)
    assert found is not None
    assert basic_authorization(found) == f"Basic {entry['auth']}"
