"""Which texts name a transport, and what becomes of those whose transport does not exist here."""

from __future__ import annotations

from importlib import import_module

import pytest

from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.transports.table import TRANSPORTS, names_transport, parse_image_reference


@pytest.mark.parametrize(
    "text", ["docker://os", "oci:/srv/os", "dir:v1", "docker-archive:os.tar", "containers-storage:os", "ocy:/srv/os"]
)
def test_what_is_meant_as_a_transport_is_no_short_name(text: str) -> None:
    assert names_transport(text)


@pytest.mark.parametrize("text", ["os", "os:v1", "host:5000/os", "quay.io/os:v1", "os@sha256:x", "oci", ""])
def test_a_bare_name_may_have_a_colon(text: str) -> None:
    assert not names_transport(text)


@pytest.mark.parametrize("text", ["sif:v1", "ocy:/srv/os"])
def test_another_transport_is_named_with_those_that_exist(text: str) -> None:
    name = text.partition(":")[0]
    with pytest.raises(InvalidReferenceError, match=f"transport '{name}' is not supported; docker, .*oci.* are"):
        parse_image_reference(text)


@pytest.mark.parametrize("name", TRANSPORTS)
def test_the_table_names_the_type_that_reads_such_references(name: str) -> None:
    module, _, kind = TRANSPORTS[name].rpartition(".")
    assert getattr(import_module(f"container_image_proxy.transports.{module}"), kind).transport == name
