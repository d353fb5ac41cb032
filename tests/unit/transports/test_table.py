"""Which texts name a transport, and what becomes of those whose transport does not exist here."""

from __future__ import annotations

from importlib import import_module

import pytest

from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.policy import scope
from container_image_proxy.transports.table import INSTEAD, TRANSPORTS, names_transport, parse_image_reference


@pytest.mark.parametrize(
    "text", ["docker://os", "oci:/srv/os", "dir:v1", "docker-archive:os.tar", "containers-storage:os", "ocy:/srv/os"]
)
def test_what_is_meant_as_a_transport_is_no_short_name(text: str) -> None:
    assert names_transport(text)


@pytest.mark.parametrize("text", ["os", "os:v1", "host:5000/os", "quay.io/os:v1", "os@sha256:x", "oci", ""])
def test_a_bare_name_may_have_a_colon(text: str) -> None:
    assert not names_transport(text)


def test_another_transport_is_named_with_those_that_exist() -> None:
    with pytest.raises(InvalidReferenceError, match=r"transport 'ocy' is not supported; docker, .*oci.* are"):
        parse_image_reference("ocy:/srv/os")


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("atomic:registry.example:5000/ns/stream:1", "docker://registry.example/namespace/name"),
        ("ostree:os@/repo", "tarball:FILE"),
        ("sif:/srv/os.sif", "skopeo copy sif:FILE oci:DIRECTORY"),
    ],
)
def test_a_transport_that_is_not_served_is_refused_with_what_to_use_instead(text: str, instead: str) -> None:
    with pytest.raises(InvalidReferenceError, match="is not supported: ") as told:
        parse_image_reference(text)
    assert instead in str(told.value)


def test_every_transport_of_the_ecosystem_is_served_or_refused_by_name() -> None:
    assert TRANSPORTS.keys() | INSTEAD.keys() == scope.TRANSPORTS


@pytest.mark.parametrize("name", TRANSPORTS)
def test_the_table_names_the_type_that_reads_such_references(name: str) -> None:
    row = TRANSPORTS[name]
    module = import_module(f"container_image_proxy.transports.{row.module}")
    assert getattr(module, row.reference_type).transport == name
