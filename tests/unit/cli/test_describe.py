"""Who can really connect: the list of an instance, as far as the socket's own mode lets them come."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from container_image_proxy.cli import describe
from container_image_proxy.cli.describe import EVERYBODY_HERE, Door, find_door
from container_image_proxy.config.access import AccessRule

OSTREE, ADM = 901, 902
USERS = {"root": (0, 0), "alice": (701, 701), "bob": (702, 702)}


@pytest.fixture(autouse=True)
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alice is in the group ostree."""

    def user(uid: int) -> pwd.struct_passwd:
        name = next(name for name, ids in USERS.items() if ids[0] == uid)
        return pwd.struct_passwd((name, "x", uid, uid, "", "/", "/bin/sh"))

    def group(gid: int) -> grp.struct_group:
        return grp.struct_group(({OSTREE: "ostree", ADM: "adm", 0: "root"}[gid], "x", gid, []))

    monkeypatch.setattr(pwd, "getpwuid", user)
    monkeypatch.setattr(grp, "getgrgid", group)
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, OSTREE] if name == "alice" else [gid])


def described(door: Door | str) -> dict[str, str]:
    access = AccessRule(frozenset({0, 701, 702}), frozenset({OSTREE, ADM}))
    lines = describe._describe_access(access, door)
    return {line[2:12].strip(): line[13:] for line in lines}


def test_an_open_socket_leaves_it_to_the_list() -> None:
    expected = {"users": "root (0), alice (701), bob (702)", "groups": "ostree (901), adm (902)"}
    assert described(Door(0o666, 0, 0)) == expected


def test_a_socket_for_a_group_lets_in_its_members_and_root() -> None:
    assert described(Door(0o660, 0, OSTREE)) == {
        "users": "root (0), alice (701)",
        "groups": "ostree (901), adm (902) if also in ostree (901)",
        "kept out": "bob (702): the socket has mode 0660 and group ostree (901)",
    }


def test_a_private_socket_lets_in_its_owner_and_root() -> None:
    assert described(Door(0o600, 702, 702)) == {
        "users": "root (0), bob (702)",
        "groups": "none",
        "kept out": "alice (701), ostree (901), adm (902): the socket has mode 0600 and group 702",
    }


def test_the_first_class_that_fits_decides_as_in_the_kernel() -> None:
    assert Door(0o606, 0, OSTREE).lets_in(702)
    assert not Door(0o606, 0, OSTREE).lets_in(701)
    assert not Door(0o066, 702, OSTREE).lets_in(702)


def test_where_nobody_is_asked_nobody_is_listed() -> None:
    assert described(EVERYBODY_HERE) == {"users": EVERYBODY_HERE}


def test_a_user_without_a_name_is_in_no_group_but_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    access = AccessRule(frozenset({4_000_000_000}))
    assert describe._describe_access(access, Door())[0] == "  users      4000000000"


def test_without_a_socket_the_door_is_as_the_unit_makes_it() -> None:
    assert find_door("no-such-instance") == Door(0o666)
