"""Files for TLS that cannot be read are told apart from files that are no certificates."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from container_image_proxy.config.certificates import find_tls_files
from container_image_proxy.errors import ConfigurationError
from container_image_proxy.registry.http.tls import client_context
from tests.support.authority import Authority
from tests.support.privilege import ordinary_user, public_directory


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory of certs.d with everything that can be in one."""
    with public_directory() as place:
        (place / "pki").mkdir()
        issued = Authority(place / "pki")
        client = issued.issue("client")
        certs = place / "registry.example"
        certs.mkdir()
        (certs / "ca.crt").write_bytes(issued.certificate.read_bytes())
        (certs / "client.cert").write_bytes(client.certificate.read_bytes())
        (certs / "client.key").write_bytes(client.key.read_bytes())
        yield certs


def complaint(directory: Path) -> str:
    with ordinary_user(), pytest.raises(ConfigurationError) as caught:
        client_context(find_tls_files(directory), verify=True)
    return str(caught.value)


@pytest.mark.parametrize("name", ["ca.crt", "client.cert", "client.key"])
def test_a_file_that_is_closed_says_so(directory: Path, name: str) -> None:
    (directory / name).chmod(0)
    start = f"{directory}/{name}: cannot be read: Permission denied: {directory}/{name} (mode 0000"
    assert complaint(directory).startswith(start)


def test_a_directory_that_is_closed_says_so(directory: Path) -> None:
    directory.chmod(0)
    assert complaint(directory).startswith(f"{directory}: cannot be read: Permission denied: {directory} (mode 0000")
    directory.chmod(0o755)


@pytest.mark.parametrize("name", ["ca.crt", "client.cert", "client.key"])
def test_a_link_that_leads_nowhere_says_so(directory: Path, name: str) -> None:
    (directory / name).unlink()
    (directory / name).symlink_to("gone")
    assert f"{directory}/{name}: cannot be read: No such file or directory" in complaint(directory)


@pytest.mark.parametrize("name", ["ca.crt", "client.cert", "client.key"])
def test_nobody_waits_for_the_writer_of_a_fifo(directory: Path, name: str) -> None:
    (directory / name).unlink()
    os.mkfifo(directory / name)
    assert complaint(directory) == f"{directory}/{name}: is not a regular file"


@pytest.mark.parametrize("name", ["client.cert", "client.key"])
def test_what_is_no_certificate_is_not_called_unreadable(directory: Path, name: str) -> None:
    (directory / name).write_text("no certificate")
    assert "cannot be read" not in complaint(directory)


def test_what_is_readable_is_used(directory: Path) -> None:
    for file in directory.iterdir():
        file.chmod(0o644)
    with ordinary_user():
        client_context(find_tls_files(directory), verify=True)
