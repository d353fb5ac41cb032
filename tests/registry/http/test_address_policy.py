"""Which addresses an upstream may name."""

from __future__ import annotations

import pytest

from container_image_proxy.errors import RegistryError
from container_image_proxy.registry.http.address_policy import AddressPolicy, is_private, verify_address

NEVER = (
    "169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "0.0.0.0", "::",  # noqa: S104
    "224.0.0.1", "ff02::1", "100.100.100.200", "168.63.129.16", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
)  # fmt: skip
PRIVATE = ("127.0.0.1", "::1", "10.1.2.3", "192.168.1.1", "172.16.0.1", "fc00::1", "::ffff:10.0.0.1", "100.64.0.1")
PUBLIC = ("93.184.216.34", "2606:4700::1111")


@pytest.mark.demand("AUTH-realm-ssrf")
@pytest.mark.parametrize("addresses", [AddressPolicy.PUBLIC, AddressPolicy.PRIVATE])
@pytest.mark.parametrize("address", NEVER)
def test_no_upstream_may_name_metadata_and_link_local_addresses(addresses: AddressPolicy, address: str) -> None:
    with pytest.raises(RegistryError, match="refused to connect to somewhere"):
        verify_address(addresses, "somewhere", address)


@pytest.mark.demand("AUTH-realm-ssrf")
@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_for_private_registries(address: str) -> None:
    assert is_private(address)
    verify_address(AddressPolicy.PRIVATE, "somewhere", address)
    with pytest.raises(RegistryError):
        verify_address(AddressPolicy.PUBLIC, "somewhere", address)


@pytest.mark.parametrize("address", PUBLIC)
def test_global_addresses_are_for_all(address: str) -> None:
    assert not is_private(address)
    verify_address(AddressPolicy.PUBLIC, "somewhere", address)


@pytest.mark.parametrize("address", [*NEVER, *PRIVATE, *PUBLIC])
def test_the_administrator_may_name_anything(address: str) -> None:
    verify_address(AddressPolicy.ANYWHERE, "somewhere", address)
