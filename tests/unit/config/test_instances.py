"""Instance files: what they may say, how drop-ins are merged, and complaints that an administrator can act on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from container_image_proxy.config.instances import InstanceSettings, find_instances, host_platform, load_instance
from container_image_proxy.errors import ConfigurationError
from container_image_proxy.image.platform import Platform
from tests.support.privilege import needs_root

IMAGE = '[images.os]\nreference = "docker://quay.io/example/os:1"\n'
OWNER = 1234


@pytest.fixture
def directories(tmp_path: Path) -> tuple[Path, Path, Path]:
    places = (tmp_path / "etc", tmp_path / "run", tmp_path / "usr")
    for place in places:
        (place / "host.toml.d").mkdir(parents=True)
    return places


def load(directories: tuple[Path, ...], text: str) -> InstanceSettings:
    (directories[0] / "host.toml").write_text(text)
    return load_instance("host", directories, uid=OWNER)


def complaint(directories: tuple[Path, ...], text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(directories, text)
    assert str(caught.value).startswith(str(directories[0] / "host.toml"))
    return str(caught.value).removeprefix(str(directories[0] / "host.toml") + ": ")


def test_a_single_image_is_the_default_and_for_this_host_and_its_owner(directories: tuple[Path, ...]) -> None:
    loaded = load(directories, IMAGE)
    image = loaded.images["os"]
    assert (loaded.default, image.reference, image.platform) == ("os", "docker://quay.io/example/os:1", host_platform())
    assert image.access.users == {0, OWNER}
    assert not image.access.groups
    assert (image.fresh_for, loaded.idle_exit) == (1.0, 300.0)
    assert loaded.trust.verification_timeout == 30


def test_everything_that_may_be_said_is_read(directories: tuple[Path, ...]) -> None:
    loaded = load(
        directories,
        """
        default = "b"
        idle-exit = 0
        [images.a]
        reference = "oci:/srv/a"
        platform = "linux/arm64/v8"
        fresh-for = 2.5
        [images.a.access]
        users = ["daemon", 7]
        [images.b]
        reference = "oci:/srv/b"
        [access]
        groups = ["adm", 12]
        [registry]
        authfile = "/etc/ostree/auth.json"
        cert-dir = "/etc/certs"
        tls-verify = false
        registries-conf = "/etc/r.conf"
        registries-conf-dir = "/etc/r.conf.d"
        token-realms = ["auth.example.org"]
        [trust]
        policy = "/etc/policy.json"
        registries-d = "/etc/registries.d"
        require-instance-signature = true
        accept-unnamed-bundles = true
        verification-timeout = 90
        """,
    )
    a, b = loaded.images["a"], loaded.images["b"]
    assert (loaded.default, loaded.idle_exit) == ("b", 0)
    assert (a.platform, a.fresh_for, a.access.users, a.access.groups) == (
        Platform("linux", "arm64", "v8"),
        2.5,
        {1, 7},
        set(),
    )
    assert (b.access.users, b.access.groups) == (set(), {4, 12})
    assert loaded.registry.tls_verify is False
    assert loaded.registry.authfile == Path("/etc/ostree/auth.json")
    assert loaded.registry.token_realms == ("auth.example.org",)
    assert loaded.trust.policy == Path("/etc/policy.json")
    assert loaded.trust.require_instance_signature
    assert loaded.trust.accept_unnamed_bundles
    assert loaded.trust.verification_timeout == 90


def test_several_images_have_no_default_unless_one_is_named(directories: tuple[Path, ...]) -> None:
    assert load(directories, IMAGE + '[images.two]\nreference = "oci:/srv/two"\n').default is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "images: no image is declared"),
        ("[images]\n", "images: no image is declared"),
        ("[images.os]\n", "images.os.reference: missing"),
        ("[images.os]\nreference = 3\n", "images.os.reference: must be a string, not an integer"),
        (
            IMAGE + 'colour = "red"\n',
            "images.os.colour: unknown key (known here: access, fresh-for, platform, reference)",
        ),
        (IMAGE + 'platform = "linux"\n', "images.os.platform: "),
        (IMAGE + "fresh-for = -1\n", "images.os.fresh-for: must be a number of seconds, 0 or more"),
        (IMAGE + "fresh-for = nan\n", "images.os.fresh-for: must be a number of seconds, 0 or more"),
        (IMAGE + "fresh-for = true\n", "images.os.fresh-for: must be a number of seconds, 0 or more"),
        (IMAGE + '[access]\nusers = ["no-such-user-here"]\n', "access.users: there is no user 'no-such-user-here'"),
        (IMAGE + "[access]\nusers = [1.5]\n", "access.users[1]: must be an integer or a string, not a number"),
        (IMAGE + "[access]\nusers = 0\n", "access.users: must be an array, not an integer"),
        (IMAGE + "[access]\ngroups = [65534]\n", "access.groups: group 65534 is the overflow gid"),
        (IMAGE + '[trust]\npolicy = "policy.json"\n', "trust.policy: must be an absolute path"),
        (
            IMAGE + "[trust]\nrequire-instance-signature = 1\n",
            "trust.require-instance-signature: must be true or false, not an integer",
        ),
        (
            IMAGE + "[trust]\naccept-unnamed-bundles = 1\n",
            "trust.accept-unnamed-bundles: must be true or false, not an integer",
        ),
        (IMAGE + "[trust]\nverification-timeout = 0\n", "trust.verification-timeout: must be more than 0 seconds"),
        (IMAGE + "[trust]\nverification-timeout = -1\n", "trust.verification-timeout: must be a number of seconds"),
        (
            IMAGE + '[registry]\npassword = "x"\n',
            "registry.password: unknown key (known here: authfile, cert-dir, registries-conf, registries-conf-dir, tls",
        ),
        # What the command line alone may say must not come from a file.
        (IMAGE + '[registry]\nuser-agent-prefix = "x"\n', "registry.user-agent-prefix: unknown key"),
        (IMAGE + "[trust]\ninsecure-policy = true\n", "trust.insecure-policy: unknown key"),
        (IMAGE + '[trust]\npolicy = ""\n', "trust.policy: must be an absolute path"),
        (IMAGE + "[trust]\npolicy = 1979-05-27\n", "trust.policy: must be a string, not a date or time"),
        (IMAGE + "[sources]\nspool-limit = 0\n", "sources.spool-limit: must be a number of GiB, 1 or more"),
        ('default = "x"\n' + IMAGE, "default: there is no image 'x' (one of: os)"),
        ('images = "os"\n', "images: must be a table, not a string"),
        ("images.os = 1\n", "images.os: must be a table, not an integer"),
        ('[images."a/b"]\nreference = "oci:/x"\n', "images: 'a/b' is not an image name"),
        (IMAGE + "[images.os]\n", "Cannot declare ('images', 'os') twice (at line 3, column 11)"),
        (IMAGE + 'reference = "oci:/x"\n', "Cannot overwrite a value (at line 3, column 21)"),
        ("x = \n", "Invalid value (at line 1, column 5)"),
    ],
)
def test_a_wrong_file_is_refused_with_file_key_and_reason(
    directories: tuple[Path, ...], text: str, expected: str
) -> None:
    assert complaint(directories, text).startswith(expected)


def test_drop_ins_are_merged_by_name_across_the_directories(directories: tuple[Path, ...]) -> None:
    etc, run, usr = directories
    (usr / "host.toml.d/10-a.toml").write_text("[images.os]\nfresh-for = 10\n")
    (run / "host.toml.d/20-b.toml").write_text("[images.os]\nfresh-for = 20\n")
    (etc / "host.toml.d/15-c.toml").write_text('idle-exit = 7\n[images.os]\nplatform = "linux/arm/v7"\n')
    image = load(directories, IMAGE).images["os"]
    assert (image.fresh_for, image.platform, image.reference) == (
        20,
        Platform("linux", "arm", "v7"),
        "docker://quay.io/example/os:1",
    )


def test_a_drop_in_hides_its_namesake_in_a_later_directory(directories: tuple[Path, ...]) -> None:
    etc, _, usr = directories
    (usr / "host.toml.d/10.toml").write_text("idle-exit = 1\n")
    (etc / "host.toml.d/10.toml").symlink_to("/dev/null")
    assert load(directories, IMAGE).idle_exit == 300


def test_the_first_main_file_wins_and_a_link_to_dev_null_masks(directories: tuple[Path, ...]) -> None:
    etc, run, _ = directories
    (run / "host.toml").write_text(IMAGE)
    assert load_instance("host", directories, uid=OWNER).images
    (etc / "host.toml").symlink_to("/dev/null")
    with pytest.raises(ConfigurationError, match="masked"):
        load_instance("host", directories, uid=OWNER)


def test_a_complaint_names_the_drop_in_that_is_wrong(directories: tuple[Path, ...]) -> None:
    drop_in = directories[1] / "host.toml.d/10.toml"
    drop_in.write_text("[images.os]\nfresh-for = false\n")
    with pytest.raises(ConfigurationError) as caught:
        load(directories, IMAGE)
    assert (caught.value.file, caught.value.key) == (str(drop_in), "images.os.fresh-for")


def test_a_missing_file_and_a_bad_instance_name_are_told_apart(directories: tuple[Path, ...]) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml: no such file in .*etc"):
        load_instance("none", directories, uid=OWNER)
    for name in ("../host", "", "a.b", "-a", "a" * 28):
        with pytest.raises(ConfigurationError, match="not an instance name"):
            load_instance(name, directories, uid=OWNER)


def test_a_link_that_leads_nowhere_hides_the_vendor_s_file_and_is_an_error(directories: tuple[Path, ...]) -> None:
    etc, _, usr = directories
    (usr / "host.toml").write_text(IMAGE)
    (etc / "host.toml").symlink_to("/nonexistent")
    with pytest.raises(ConfigurationError, match=r"etc/host\.toml: cannot be read"):
        load_instance("host", directories, uid=OWNER)


def test_a_loop_of_links_is_a_complaint(directories: tuple[Path, ...]) -> None:
    (directories[1] / "host.toml.d/loop.toml").symlink_to("loop.toml")
    with pytest.raises(ConfigurationError, match=r"loop\.toml"):
        load(directories, IMAGE)


@needs_root
def test_drop_ins_that_cannot_be_read_are_not_passed_over(directories: tuple[Path, ...]) -> None:
    """What a drop-in takes away must not be granted to a daemon that cannot read it."""
    (directories[0] / "host.toml").write_text(IMAGE)
    lockdown = directories[0] / "host.toml.d"
    (lockdown / "99.toml").write_text('[access]\nusers = ["root"]\n')
    for parent in (*reversed(lockdown.parents), lockdown):
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    lockdown.chmod(0o700)
    os.seteuid(1)
    try:
        with pytest.raises(ConfigurationError, match="Permission denied"):
            load_instance("host", directories, uid=OWNER)
    finally:
        os.seteuid(0)


def test_a_wrong_reference_is_blamed_on_the_file_that_wrote_it(directories: tuple[Path, ...]) -> None:
    (directories[1] / "host.toml.d/10.toml").write_text('[images.os]\nplatform = "linux/arm64"\n')
    assert load(directories, IMAGE).images["os"].file == str(directories[0] / "host.toml")


def test_all_instances_are_found(directories: tuple[Path, ...]) -> None:
    (directories[0] / "a.toml").write_text(IMAGE)
    (directories[2] / "b.toml").write_text(IMAGE)
    (directories[2] / "a.toml").write_text(IMAGE)
    assert find_instances(directories) == ("a", "b")


@pytest.mark.demand("CONF-perm")
def test_a_file_that_others_can_write_is_refused(directories: tuple[Path, ...]) -> None:
    load(directories, IMAGE)
    (directories[0] / "host.toml").chmod(0o666)
    with pytest.raises(ConfigurationError, match="other users can write"):
        load_instance("host", directories, uid=OWNER)


@settings(max_examples=150)
@given(raw=st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_settings_or_a_complaint(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    directory = tmp_path_factory.mktemp("fuzz")
    (directory / "x.toml").write_bytes(raw)
    try:
        load_instance("x", (directory,), uid=OWNER)
    except ConfigurationError as error:
        complained_about = error.file
    else:
        complained_about = str(directory / "x.toml")
    assert complained_about == str(directory / "x.toml")
