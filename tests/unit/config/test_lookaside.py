"""containers-registries.d(5): which section counts, which file, and what is wrong with one."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.config.lookaside import (
    LookasideConfiguration,
    load_lookaside,
    parse_registries_d,
    signature_url,
)
from container_image_proxy.errors import ConfigurationError
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.reference import parse_reference

IMAGE = parse_reference("quay.io/example/os:1")


def read(text: str) -> LookasideConfiguration:
    return parse_registries_d(text.encode(), "a.yaml")


def url(text: str) -> str:
    return read(text).lookaside_base_url(IMAGE)


def section(scope: str, lookaside: str) -> str:
    return f'  "{scope}":\n    lookaside: {lookaside}\n'


def test_the_most_specific_scope_counts() -> None:
    scopes = ["*.io", "quay.io", "quay.io/example", "quay.io/example/os", "quay.io/example/os:1"]
    for number in range(1, len(scopes) + 1):
        sections = [section(scope, f"https://{i}.example") for i, scope in enumerate(scopes[:number])]
        assert url("docker:\n" + "".join(sections)) == f"https://{number - 1}.example/example/os"


def test_a_setting_that_a_section_lacks_comes_from_a_wider_one() -> None:
    text = (
        "default-docker:\n  lookaside: https://default.example\n"
        "docker:\n  quay.io:\n    use-sigstore-attachments: true\n"
        "  quay.io/example:\n    use-sigstore-attachments: false\n"
    )
    assert url(text) == "https://default.example/example/os"
    assert read(text).use_sigstore_attachments(IMAGE) is False
    assert read(text).use_sigstore_attachments(parse_reference("quay.io/other/os")) is True


def test_the_older_name_of_the_setting_is_read() -> None:
    assert url("docker:\n  quay.io:\n    sigstore: https://old.example\n") == "https://old.example/example/os"
    both = "docker:\n  quay.io:\n    sigstore: https://old.example\n    lookaside: https://new.example\n"
    assert url(both) == "https://new.example/example/os"


def test_staging_storage_is_not_read() -> None:
    text = "docker:\n  quay.io:\n    lookaside-staging: file:///staging\n    lookaside: https://l.example\n"
    assert url(text) == "https://l.example/example/os"


@pytest.mark.parametrize(
    ("uid", "home", "expected"),
    [
        (0, "root", "var/lib/containers/sigstore"),
        (1000, "home/a", "home/a/.local/share/containers/sigstore"),
        (61184, "", "var/lib/containers/sigstore"),
    ],
)
def test_the_built_in_storage_depends_on_the_user(tmp_path: Path, uid: int, home: str, expected: str) -> None:
    found = load_lookaside(directory=None, home=tmp_path / home, uid=uid, root=tmp_path)
    assert found.lookaside_base_url(IMAGE) == f"file://{tmp_path}/{expected}/example/os"


def test_the_users_directory_comes_before_the_systems(tmp_path: Path) -> None:
    def write(directory: str, host: str) -> None:
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / "a.yaml").write_text(f"default-docker:\n  lookaside: https://{host}\n")

    def found() -> str:
        return load_lookaside(directory=None, home=tmp_path / "home", uid=1, root=tmp_path).lookaside_base_url(IMAGE)

    write("etc/containers/registries.d", "system.example")
    assert found() == "https://system.example/example/os"
    write("home/.config/containers/registries.d", "user.example")
    assert found() == "https://user.example/example/os"


def test_only_yaml_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("}")
    (tmp_path / "a.yaml.bak").write_text("}")
    assert load_lookaside(directory=tmp_path, home=None, uid=0).docker == {}


def test_two_files_must_not_configure_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("docker:\n  quay.io: {}\n")
    (tmp_path / "b.yaml").write_text("docker:\n  quay.io: {}\n")
    with pytest.raises(ConfigurationError, match=r"b\.yaml: .*'quay\.io'"):
        load_lookaside(directory=tmp_path, home=None, uid=0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("docker:\n  quay.io: {}\n  quay.io: {}\n", "a key appears twice in line 2"),
        ("docker:\n  quay.io:\n    lookaside: a\n    lookaside: b\n", "twice"),
        ("- a", "the document: must be a mapping"),
        ("docker: []", "docker: must be a mapping"),
        ("docker:\n  quay.io: 1\n", "docker.quay.io: must be a mapping"),
        ("docker:\n  quay.io:\n    lookaside: [a]\n", "docker.quay.io.lookaside: must be a string"),
        ("default-docker:\n  use-sigstore-attachments: 'yes'\n", "must be true or false"),
        ("docker: !!python/object:os.system {}", "not usable YAML"),
        ("}", "not usable YAML"),
        ("\x00", "not usable YAML"),
        ("? [a]\n: b\n", "not usable YAML"),
        ("[" * 100_000, "not usable YAML"),
    ],
)
def test_an_unusable_file_is_named_with_place_and_reason(text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(text)
    assert str(caught.value).startswith("a.yaml: ")
    assert complaint in str(caught.value)


def test_anchors_and_merge_keys_are_read() -> None:
    text = (
        "x: &x\n  lookaside: https://l.example\ndocker:\n  quay.io:\n    <<: *x\n    use-sigstore-attachments: true\n"
    )
    assert url(text) == "https://l.example/example/os"


@pytest.mark.parametrize("text", [":no-scheme", "https://[::1", "https://a b", "https://l.example/%zz"])
def test_what_is_no_url_is_an_error(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no URL"):
        url(f"default-docker:\n  lookaside: '{text}'\n")


def test_signatures_are_numbered_from_one() -> None:
    digest = digest_of(b"")
    assert (
        signature_url("https://l.example/a/b?x=1", digest, 0)
        == f"https://l.example/a/b@sha256={digest.hex}/signature-1?x=1"
    )
    assert signature_url("file:///l/a", digest, 9) == f"file:///l/a@sha256={digest.hex}/signature-10"


@given(st.binary(max_size=100) | st.text(alphabet="-:?[]{}&*!|>'\"%@`#, \nab", max_size=60).map(str.encode))
def test_any_bytes_are_a_configuration_or_our_error(raw: bytes) -> None:
    with contextlib.suppress(ConfigurationError):
        parse_registries_d(raw, "a.yaml").use_sigstore_attachments(IMAGE)
