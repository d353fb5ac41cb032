"""Each registry's certificates, and pairs that are none."""

from pathlib import Path

import pytest

from container_image_proxy.config.certificates import (
    CertificateDirectories,
    ClientCertificate,
    TlsFiles,
    load_certificates,
)
from container_image_proxy.errors import ConfigurationError, InvalidReferenceError

HOST = "registry.example:5000"
BASES = ("home/.config/containers/certs.d", "etc/containers/certs.d", "etc/docker/certs.d")


def fill(directory: Path, *names: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).touch()
    return directory


def load(root: Path, **arguments) -> CertificateDirectories:
    return load_certificates(home=root / "home", root=root, **arguments)


def test_files_are_sorted_by_their_suffix_and_others_are_left_alone(tmp_path):
    names = ("b.crt", "a.crt", "2.key", "2.cert", "1.x.cert", "1.x.key", "README", "ca.pem")
    directory = fill(tmp_path / BASES[1] / HOST, *names)
    assert load(tmp_path).for_host(HOST) == TlsFiles(
        authorities=(directory / "a.crt", directory / "b.crt"),
        client=(
            ClientCertificate(directory / "1.x.cert", directory / "1.x.key"),
            ClientCertificate(directory / "2.cert", directory / "2.key"),
        ),
    )


def test_the_first_directory_that_exists_is_the_only_one(tmp_path):
    directories = load(tmp_path)
    assert directories.for_host(HOST) == TlsFiles()
    for base in reversed(BASES):
        fill(tmp_path / base / HOST, "ca.crt")
        assert directories.for_host(HOST).authorities == (tmp_path / base / HOST / "ca.crt",)
    assert directories.for_host("registry.example") == TlsFiles()


@pytest.mark.parametrize(
    ("directory", "domain"),
    [
        ("registry.example:443", "registry.example:443"),
        ("registry.example:443", "registry.example"),
        ("registry.example", "registry.example:443"),
        ("[2001:db8::1]:5000", "[2001:db8::1]:5000"),
        ("[2001:db8::1]:443", "[2001:db8::1]"),
    ],
)
def test_a_registry_is_known_by_its_port_or_without_it_where_that_is_443(tmp_path, directory, domain):
    fill(tmp_path / BASES[1] / directory, "ca.crt")
    assert load(tmp_path).for_host(domain).authorities == (tmp_path / BASES[1] / directory / "ca.crt",)


def test_of_two_names_for_one_place_the_one_that_is_used_counts(tmp_path):
    fill(tmp_path / BASES[0] / "registry.example", "user.crt")
    fill(tmp_path / BASES[1] / "registry.example:443", "system.crt")
    directories = load(tmp_path)
    assert [file.name for file in directories.for_host("registry.example").authorities] == ["user.crt"]
    assert [file.name for file in directories.for_host("registry.example:443").authorities] == ["system.crt"]
    assert directories.for_host("registry.example:5000") == TlsFiles()
    assert directories.for_host("registry.example:4430") == TlsFiles()


@pytest.mark.demand("TLS-basics")
@pytest.mark.parametrize(("present", "missing"), [("me.cert", "me.key"), ("me.key", "me.cert")])
def test_half_a_pair_is_an_error_that_names_both_halves(tmp_path, present, missing):
    directory = fill(tmp_path / BASES[1] / HOST, present, "other.cert", "other.key")
    with pytest.raises(ConfigurationError, match=rf"{directory}/{present}: {missing} is missing"):
        load(tmp_path).for_host(HOST)


def test_the_command_lines_directory_counts_for_every_registry(tmp_path):
    fill(tmp_path / BASES[0] / HOST, "ca.crt")
    directory = fill(tmp_path / "mine", "my.crt")
    assert load(tmp_path, cert_dir=directory).for_host(HOST).authorities == (directory / "my.crt",)


def test_the_command_lines_directory_has_to_be_there_and_in_order(tmp_path):
    with pytest.raises(ConfigurationError, match="mine: no such directory"):
        load(tmp_path, cert_dir=tmp_path / "mine")
    fill(tmp_path, "file")
    with pytest.raises(ConfigurationError, match="file: cannot be read: Not a directory"):
        load(tmp_path, cert_dir=tmp_path / "file")
    with pytest.raises(ConfigurationError, match=r"me\.key is missing"):
        load(tmp_path, cert_dir=fill(tmp_path / "half", "me.cert"))


def test_a_directory_that_cannot_be_read_is_not_taken_for_absent(tmp_path):
    fill(tmp_path / BASES[0], HOST)
    with pytest.raises(ConfigurationError, match="Not a directory"):
        load(tmp_path).for_host(HOST)


@pytest.mark.parametrize("domain", ["", ".", "..", "a.example/../b.example", "/etc", "a.example\n"])
def test_a_host_name_is_no_path(tmp_path, domain):
    with pytest.raises(InvalidReferenceError):
        load(tmp_path).for_host(domain)
