from __future__ import annotations

import grp
import pwd

import pytest

from container_image_proxy.config import access
from container_image_proxy.config.access import AccessRule, owner_access, resolve_groups, resolve_users
from container_image_proxy.errors import ConfigurationError

NOBODY: frozenset[int] = frozenset()


def test_a_rule_permits_its_users_and_the_members_of_its_groups() -> None:
    rule = AccessRule(users=frozenset({1000}), groups=frozenset({50}))
    assert rule.permits(1000, NOBODY)
    assert rule.permits(1001, frozenset({49, 50}))
    assert not rule.permits(1001, frozenset({49, 1000}))
    assert not rule.permits(50, NOBODY)


def test_an_empty_rule_permits_nobody_not_even_root() -> None:
    assert not AccessRule().permits(0, frozenset({0}))


def test_a_peer_without_credentials_is_never_permitted() -> None:
    assert not AccessRule(frozenset({0}), frozenset({0})).permits(None, frozenset({0}))


@pytest.mark.demand("PEER-privateusers")
def test_the_overflow_ids_are_never_permitted_even_if_a_rule_has_them() -> None:
    rule = AccessRule(users=frozenset({65534}), groups=frozenset({65534, 50}))
    assert not rule.permits(65534, frozenset({65534, 50}))
    assert not rule.permits(1000, frozenset({65534}))
    assert rule.permits(1000, frozenset({65534, 50}))


@pytest.mark.demand("PEER-privateusers")
@pytest.mark.parametrize("entry", ["nobody", 65534, "65534"])
def test_the_overflow_user_cannot_be_allowed(entry: str | int) -> None:
    with pytest.raises(ConfigurationError, match=r"os\.toml: access\.users: .*overflow uid"):
        resolve_users([entry], "os.toml", "access.users")


@pytest.mark.demand("PEER-privateusers")
def test_a_user_that_this_namespace_cannot_tell_apart_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "load_id_map", lambda _identifier: (range(1), range(500, 501)))
    assert resolve_users([0, 500], "f", "k") == {0, 500}
    with pytest.raises(ConfigurationError, match="PrivateUsers"):
        resolve_users([1000], "f", "k")


def test_names_and_numbers_become_ids() -> None:
    daemon, games = pwd.getpwnam("daemon"), grp.getgrnam("games")
    assert resolve_users(["root", "daemon", 1234, "4321"], "f", "k") == {0, daemon.pw_uid, 1234, 4321}
    assert resolve_groups(["root", "games", 1234], "f", "k") == {0, games.gr_gid, 1234}


@pytest.mark.parametrize("name", ["no-such-user", "", "-1", "99999999999", "ro\0ot", "٣"])
def test_an_unknown_name_is_an_error_that_says_where(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"os\.toml: access\.users: there is no user"):
        resolve_users([name], "os.toml", "access.users")
    with pytest.raises(ConfigurationError, match=r"os\.toml: access\.groups: there is no group"):
        resolve_groups([name], "os.toml", "access.groups")


@pytest.mark.parametrize("number", [-1, 2**32 - 1, 2**40])
def test_a_number_that_is_no_id_is_an_error(number: int) -> None:
    with pytest.raises(ConfigurationError, match=f"f: k: {number} is no uid"):
        resolve_users([number], "f", "k")


def test_the_default_is_root_and_ourselves() -> None:
    rule = owner_access(1234)
    assert rule.users == {0, 1234}
    assert not rule.groups
