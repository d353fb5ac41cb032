"""registries.conf, its drop-ins and their precedence."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.config import registries_conf
from container_image_proxy.config.registries import Registries
from container_image_proxy.config.registries_conf import load_registries, parse_registries
from container_image_proxy.errors import ConfigurationError
from tests.support.privilege import needs_root, ordinary_user, public_directory

SYSTEM = "etc/containers"
USER = "home/.config/containers"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def searching(registry: str) -> str:
    return f'unqualified-search-registries = ["{registry}"]\n'


def load(root: Path, *, path: Path | None = None, directory: Path | None = None, uid: int = 1000, **environ: str):
    return load_registries(path=path, directory=directory, environ=environ, home=root / "home", uid=uid, root=root)


def searched(root: Path, **arguments) -> tuple[str, ...]:
    return load(root, **arguments).unqualified_search_registries


def test_without_any_file_nothing_is_configured(tmp_path):
    assert load(tmp_path) == Registries()


def test_drop_ins_follow_the_system_file_in_order_and_the_users_come_last(tmp_path):
    write(tmp_path / SYSTEM / "registries.conf", searching("main.example"))
    assert searched(tmp_path) == ("main.example",)
    write(tmp_path / SYSTEM / "registries.conf.d/20.conf", searching("twenty.example"))
    write(tmp_path / SYSTEM / "registries.conf.d/10.conf", searching("ten.example"))
    write(tmp_path / SYSTEM / "registries.conf.d/30.conf.off", "broken [")
    (tmp_path / SYSTEM / "registries.conf.d/40.conf").mkdir()
    assert searched(tmp_path) == ("twenty.example",)
    write(tmp_path / USER / "registries.conf.d/05.conf", searching("user.example"))
    assert searched(tmp_path) == ("user.example",)


def test_an_empty_list_of_helpers_in_a_later_file_means_the_files_alone_again(tmp_path):
    write(tmp_path / SYSTEM / "registries.conf", 'credential-helpers = ["one", "two"]\n')
    assert load(tmp_path).credential_helpers == ("one", "two")
    write(tmp_path / SYSTEM / "registries.conf.d/10.conf", searching("ten.example"))
    assert load(tmp_path).credential_helpers == ("one", "two")
    write(tmp_path / SYSTEM / "registries.conf.d/20.conf", "credential-helpers = []\n")
    assert load(tmp_path).credential_helpers == ("containers-auth.json",)
    write(tmp_path / SYSTEM / "registries.conf.d/30.conf", 'credential-helpers = ["three"]\n')
    assert load(tmp_path).credential_helpers == ("three",)


def test_a_users_own_file_hides_the_system_with_its_drop_ins(tmp_path):
    write(tmp_path / SYSTEM / "registries.conf.d/10.conf", searching("system.example"))
    write(tmp_path / USER / "registries.conf", "")
    assert searched(tmp_path) == ()


def test_the_command_line_counts_before_the_environment_and_both_before_the_usual_files(tmp_path):
    write(tmp_path / USER / "registries.conf", searching("user.example"))
    named = write(tmp_path / "named.conf", searching("environment.example"))
    assert searched(tmp_path, CONTAINERS_REGISTRIES_CONF=str(named)) == ("environment.example",)
    option = write(tmp_path / "option.conf", searching("option.example"))
    assert searched(tmp_path, path=option, CONTAINERS_REGISTRIES_CONF=str(named)) == ("option.example",)
    write(tmp_path / SYSTEM / "registries.conf.d/10.conf", searching("drop-in.example"))
    assert searched(tmp_path, path=option) == ("drop-in.example",)
    assert searched(tmp_path, path=option, directory=tmp_path / "none") == ("option.example",)


def test_a_named_file_has_to_exist_and_an_empty_name_is_none(tmp_path):
    with pytest.raises(ConfigurationError, match=r"absent\.conf: cannot be read"):
        load(tmp_path, CONTAINERS_REGISTRIES_CONF=str(tmp_path / "absent.conf"))
    assert load(tmp_path, CONTAINERS_REGISTRIES_CONF="") == Registries()


@pytest.mark.parametrize("place", [f"{SYSTEM}/registries.conf", f"{USER}/registries.conf"])
def test_a_file_that_cannot_be_read_is_not_taken_for_absent(tmp_path, place):
    path = tmp_path / place
    path.mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="Is a directory"):
        load(tmp_path)
    path.rmdir()
    path.symlink_to(path)
    with pytest.raises(ConfigurationError, match="Too many levels"):
        load(tmp_path)


@pytest.mark.parametrize(
    "place", [f"{SYSTEM}/registries.conf", f"{USER}/registries.conf", f"{SYSTEM}/registries.conf.d"]
)
def test_a_link_that_leads_nowhere_is_not_taken_for_absent(tmp_path, place):
    """What it would say may block a registry."""
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.symlink_to("/nonexistent/file")
    with pytest.raises(ConfigurationError, match=f"{path} is a link that leads nowhere"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["10.conf", ".#10.conf.orig"])
def test_a_drop_in_that_is_a_link_that_leads_nowhere_counts_by_its_name(tmp_path, name):
    path = write(tmp_path / SYSTEM / "registries.conf.d/20.conf", searching("a.example")).with_name(name)
    path.symlink_to("/nonexistent/file")
    if name.endswith(".conf"):
        with pytest.raises(ConfigurationError, match=f"{path} is a link that leads nowhere"):
            load(tmp_path)
    else:
        assert searched(tmp_path) == ("a.example",)


def test_the_lock_that_an_editor_makes_beside_a_drop_in_is_none(tmp_path):
    path = write(tmp_path / SYSTEM / "registries.conf.d/10.conf", searching("a.example"))
    path.with_name(".#10.conf").symlink_to("root@host.example.4711:1764000000")
    assert searched(tmp_path) == ("a.example",)


@pytest.mark.parametrize("home", ["file", "device"])
def test_where_the_home_is_no_directory_there_is_no_file_in_it(tmp_path, home):
    write(tmp_path / SYSTEM / "registries.conf", searching("system.example"))
    place = Path("/dev/null") if home == "device" else write(tmp_path / "home", "")
    found = load_registries(environ={}, home=place, uid=1, root=tmp_path)
    assert found.unqualified_search_registries == ("system.example",)


@needs_root
def test_a_link_into_a_closed_directory_is_told_only_if_its_name_is_one_of_a_drop_in():
    with public_directory() as root:
        path = write(root / SYSTEM / "registries.conf.d/10.conf", searching("a.example"))
        (root / "closed/below").mkdir(parents=True)
        (root / "closed").chmod(0o700)
        path.with_name("notes").symlink_to(root / "closed/below/notes")
        with ordinary_user():
            assert searched(root) == ("a.example",)
        path.with_name("20.conf").symlink_to(root / "closed/below/20.conf")
        with ordinary_user(), pytest.raises(ConfigurationError, match=f"20.conf: cannot be read: .*: {root}/closed "):
            load(root)


def test_a_drop_in_directory_that_is_none_is_an_error(tmp_path):
    write(tmp_path / SYSTEM / "registries.conf.d", "")
    with pytest.raises(ConfigurationError, match=r"registries\.conf\.d: cannot be read: Not a directory"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("uid", "cache", "environ"),
    [
        (0, "var/cache/containers", {}),
        (1000, "home/.cache/containers", {}),
        (1000, "cache/containers", {"XDG_CACHE_HOME": "cache"}),
    ],
)
def test_aliases_that_users_chose_count_before_configured_ones(tmp_path, uid, cache, environ):
    write(tmp_path / SYSTEM / "registries.conf", '[aliases]\nos = "a.example/os"\nother = "a.example/other"')
    write(tmp_path / cache / "short-name-aliases.conf", '[aliases]\nos = "b.example/os"')
    aliases = load(tmp_path, uid=uid, **{key: str(tmp_path / value) for key, value in environ.items()}).aliases
    assert {name: str(target) for name, target in aliases.items()} == {
        "os": "b.example/os",
        "other": "a.example/other",
    }


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("x = 1\ny =", "Invalid value .at end of document"),
        ("x = 1\ny = ?", "line 2, column 5"),
        ("[[registry]]\nlocation = 5", r"registry\[1\]\.location: must be a string"),
        ('[[registry]]\nlocation = "a.b"\n[[registry]]\n', r"registry\[2\]\.location: missing"),
        ('[[registry]]\nlocation = "a.b"\nblocked = "no"', r"registry\[1\]\.blocked: must be true or false"),
        ('[[registry]]\nlocation = "https://a.b"', r"registry\[1\]\.location: .* is a URL"),
        ('[[registry]]\nlocation = "a.b"\npull-from-mirror = "all"', r"registry\[1\]\.pull-from-mirror: belongs"),
        (
            '[[registry]]\nlocation = "a.b"\n[[registry.mirror]]\nlocation = "m.b"\npull-from-mirror = "some"',
            r"registry\[1\]\.mirror\[1\]\.pull-from-mirror: 'some' is none of",
        ),
        ("registry = 5", "registry: must be an array"),
        ("registry = [5]", r"registry\[1\]: must be a table, not an integer"),
        ('short-name-mode = "sometimes"', "short-name-mode: 'sometimes' is none of"),
        ('unqualified-search-registries = ["a b"]', r"unqualified-search-registries\[1\]: 'a b' is not host"),
        ('[aliases]\nos = "os"', "aliases.os: 'os' does not say a registry"),
        ("aliases = 1", "aliases: must be a table"),
        ('[[registry]]\nlocation = "a.b"\nLocation = "c.d"', r"registry\[1\]\.Location: is in the table twice"),
        ("a = " + "9" * 5000, "beyond all bounds"),
        ("a = " + "[" * 5000, "beyond all bounds"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_key(text, place):
    with pytest.raises(ConfigurationError, match=rf"^/r\.conf: .*{place}"):
        parse_registries(text.encode(), "/r.conf")


def test_unknown_keys_are_warned_of_and_known_ones_have_no_case(caplog):
    text = '[[Registry]]\nLocation = "a.b"\nBLOCKED = true\nfuture = 1\n[[registry.Mirror]]\nlocation = "m.b"\nnew = 2'
    conf = parse_registries(text.encode().replace(b"registry.Mirror", b"Registry.Mirror"), "/r.conf")
    assert conf.registries[0].blocked
    assert [record.getMessage() for record in caplog.records] == [
        "/r.conf: registry[1].future: unknown key, ignored",
        "/r.conf: registry[1].mirror[1].new: unknown key, ignored",
    ]


def test_version_1_makes_its_lists_insecure_and_blocked():
    text = "[registries.insecure]\nregistries = ['a.b/']\n[registries.block]\nregistries = ['a.b', 'c.d/e']"
    registries = parse_registries(text.encode(), "/r.conf").registries
    assert [(r.prefix, r.location, r.insecure, r.blocked) for r in registries] == [
        ("a.b", "a.b", True, True),
        ("c.d/e", "c.d/e", False, True),
    ]


def test_version_1_is_no_drop_in_and_does_not_mix():
    text = b"[registries.block]\nregistries = ['a.b']\n"
    with pytest.raises(ConfigurationError, match="a drop-in must have the format of version 2"):
        parse_registries(text, "/r.conf", is_drop_in=True)
    with pytest.raises(ConfigurationError, match="mixed"):
        parse_registries(text + b"[[registry]]\nlocation = 'c.d'", "/r.conf")


@pytest.mark.parametrize("table", ["search", "insecure", "block"])
def test_an_empty_list_of_version_1_is_one(table):
    text = f"[registries.{table}]\nregistries = []\n".encode()
    assert parse_registries(text, "/r.conf").registries == ()
    with pytest.raises(ConfigurationError, match="a drop-in must have the format of version 2"):
        parse_registries(text, "/r.conf", is_drop_in=True)
    with pytest.raises(ConfigurationError, match="mixed"):
        parse_registries(b"[[registry]]\nlocation = 'c.d'\n" + text, "/r.conf")


@pytest.mark.parametrize(
    "line", ["registry = []", "unqualified-search-registries = []", "credential-helpers = []", "aliases = {}"]
)
def test_an_empty_part_of_version_2_does_not_mix_with_version_1_either(line):
    text = f"{line}\n[registries.block]\nregistries = ['a.b']\n"
    with pytest.raises(ConfigurationError, match="mixed"):
        parse_registries(text.encode(), "/r.conf")


@pytest.mark.parametrize("rest", ["[registries]\n", "[registries.search]\n", "[registries.other]\nx = 1\n"])
def test_a_table_of_version_1_without_its_list_says_nothing(rest):
    assert parse_registries(f"[[registry]]\nlocation = 'a.b'\n{rest}".encode(), "/r.conf").registries
    assert parse_registries(rest.encode(), "/r.conf", is_drop_in=True)


def locations(root: Path) -> list[str]:
    return [registry.location for registry in load(root).registries]


def test_of_tables_with_one_prefix_the_first_of_a_file_counts_and_a_later_file_replaces_it(tmp_path):
    def tables(*names: str) -> str:
        return "".join(f'[[registry]]\nprefix = "example.com"\nlocation = "{name}"\n' for name in names)

    write(tmp_path / SYSTEM / "registries.conf", tables("a.example", "b.example"))
    assert locations(tmp_path) == ["a.example"]
    write(tmp_path / SYSTEM / "registries.conf.d/10.conf", "")
    assert locations(tmp_path) == ["a.example"]
    write(tmp_path / SYSTEM / "registries.conf.d/20.conf", tables("c.example", "d.example"))
    assert locations(tmp_path) == ["c.example"]


def test_a_file_may_begin_with_a_byte_order_mark():
    assert parse_registries(b'\xef\xbb\xbf[[registry]]\nlocation = "a.b"\n', "/r.conf").registries


KEYS = st.sampled_from(
    (
        "registry",
        "location",
        "prefix",
        "mirror",
        "blocked",
        "insecure",
        "aliases",
        "registries",
        "search",
        "block",
        "mirror-by-digest-only",
        "pull-from-mirror",
        "short-name-mode",
        "unqualified-search-registries",
        "credential-helpers",
    )
)
VALUES = st.sampled_from(["1", "true", '"a.b"', '"*.b"', '""', "[]", '["a.b"]', "[[1]]", "{}", "1.5", "1979-05-27"])
LINES = st.builds("{} = {}".format, KEYS, VALUES) | st.builds("[[{}]]".format, KEYS) | st.builds("[{}]".format, KEYS)
LINES |= st.builds("[[registry.{}]]".format, KEYS) | st.builds("[registries.{}]".format, KEYS)


@given(st.binary(max_size=200) | st.lists(LINES, max_size=12).map(lambda lines: "\n".join(lines).encode()))
def test_any_bytes_are_a_configuration_or_a_configuration_error(raw):
    try:
        conf = parse_registries(raw, "/r.conf")
    except ConfigurationError as error:
        file = error.file
    else:
        file = "/r.conf"
        assert isinstance(registries_conf.merge_registries([conf]), Registries)
    assert file == "/r.conf"


@pytest.mark.skipif(not Path("/etc/containers/registries.conf.d").is_dir(), reason="no containers configuration here")
def test_this_systems_own_files_are_understood():
    registries = load_registries(environ={}, home=Path("/nonexistent"), uid=os.geteuid())
    assert isinstance(registries, Registries)
