"""containers-auth.json(5) as containers/image reads it, over recorded files and names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from container_image_proxy.config.auth_file import lookup_keys, normalize_key
from container_image_proxy.config.registries_conf import load_registries
from container_image_proxy.errors import Error, InvalidReferenceError
from container_image_proxy.registry.auth.helpers import CredentialHelpers
from container_image_proxy.registry.auth.keychain import AuthFile, Keychain, find_auth_files, load_keychain
from tests.support.conformance import DIRECTORY, deviation, rows
from tests.support.contexts import CONTEXT

if TYPE_CHECKING:
    from collections.abc import Mapping

UID = 0
NAMED = ("AUTHFILE", "DOCKER_COMPAT_AUTHFILE")


def environment(files: Mapping[str, str], directory: Path) -> dict[str, str]:
    environ = {
        "PATH": f"{DIRECTORY / 'auth/bin'}:{os.environ['PATH']}",
        "XDG_RUNTIME_DIR": str(directory / "XDG_RUNTIME_DIR"),
    }
    docker = {"DOCKER_CONFIG": str(directory / "DOCKER_CONFIG")} if "DOCKER_CONFIG/config.json" in files else {}
    return environ | docker


def keychain(files: Mapping[str, str], directory: Path) -> Keychain:
    for role, content in files.items():
        path = directory / role
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o600)
    environ, home = environment(files, directory), directory / "HOME"
    conf = directory / "REGISTRIES_CONF" if "REGISTRIES_CONF" in files else None
    registries = load_registries(path=conf, environ=environ, home=home, uid=UID, root=directory)
    if "LEGACY_AUTHFILE" in files:
        legacy = AuthFile(directory / "LEGACY_AUTHFILE", is_required=True, is_legacy=True)
        return Keychain((legacy,), registries.credential_helpers, CredentialHelpers(environ))
    return load_keychain(
        authfile=next((directory / role for role in NAMED if role in files), None),
        environ=environ,
        home=home,
        uid=UID,
        root=directory,
        credential_helpers=registries.credential_helpers,
    )


def expected(row: dict[str, Any]) -> tuple[str, str, str] | None:
    found = row["username"], row["password"], row["identity_token"]
    return found if any(found) else None


def found(row: dict[str, Any], directory: Path) -> tuple[str, str, str] | None:
    credentials = keychain(row["files"], directory).find(CONTEXT, row["key"])
    return (credentials.username, credentials.password, credentials.identity_token) if credentials else None


@rows("auth/lookups", keep=lambda row: "error" in row)
def test_failing_lookups(row, tmp_path):
    with pytest.raises(Error):
        found(row, tmp_path)


@rows("auth/lookups", keep=lambda row: "error" not in row)
@pytest.mark.demand("AUTH-prefix-confusion")
def test_lookups(row, tmp_path):
    rule = deviation("auth/lookups", row)
    if rule:
        assert expected(row) is None
        assert found(row, tmp_path) is not None
    else:
        assert found(row, tmp_path) == expected(row)


@rows("auth/key_lookup_order")
def test_keys(row):
    if row["error"]:
        with pytest.raises(InvalidReferenceError):
            lookup_keys(row["key"])
    else:
        assert (len(lookup_keys(row["key"])) > 1) is row["namespaced"]


@rows("auth/normalize_key")
def test_old_keys(row):
    assert normalize_key(row["key"], is_legacy=row["legacy"]) == row["expected"]


def can_be_asked_for(row: dict[str, Any]) -> bool:
    """Other systems have other places, and there is no option for a file in the old format."""
    return row["goos"] == "linux" and "LegacyFormatAuthFilePath" not in row["sys"]


@rows("auth/default_path", keep=can_be_asked_for)
def test_first_file(row, tmp_path):
    options = row["sys"]
    named = options.get("AuthFilePath") or options.get("DockerCompatAuthFilePath")
    runtime = row["xdg_runtime_dir"].replace("${TMP}", str(tmp_path))
    first, *others = find_auth_files(
        authfile=Path(named) if named else None,
        environ={"XDG_RUNTIME_DIR": runtime} if runtime else {},
        home=tmp_path,
        uid=UID,
        root=Path(options.get("RootForImplicitAbsolutePaths", "/")),
    )
    rule = deviation("auth/default_path", row)
    path = f"{runtime}/containers/auth.json" if rule else row["path"].replace("${TMP}", str(tmp_path))
    assert str(first.path).replace("${TMP}", str(tmp_path)) == path
    assert first.is_required is not bool(others)
    assert first.is_required is row["user_specified"]
