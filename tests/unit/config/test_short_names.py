"""Short names without a terminal: known, alone, or an error."""

import pytest
from msgspec.structs import replace

from container_image_proxy.config.registries import Registries
from container_image_proxy.config.short_names import resolve_short_name
from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.image.reference import parse_reference

TWO = Registries(
    unqualified_search_registries=("a.example", "b.example"), aliases={"known": parse_reference("c.example/x/known")}
)


@pytest.mark.demand("SHORT-name")
@pytest.mark.parametrize("mode", ["enforcing", "permissive"])
def test_an_ambiguous_name_is_an_error_that_lists_what_it_may_mean(mode):
    registries = replace(TWO, short_name_mode=mode)
    with pytest.raises(InvalidReferenceError, match=r"a\.example/os:1, b\.example/os:1"):
        resolve_short_name(registries, "os:1")


@pytest.mark.demand("SHORT-name")
def test_only_the_disabled_mode_tries_one_registry_after_the_other():
    registries = replace(TWO, short_name_mode="disabled")
    assert [str(name) for name in resolve_short_name(registries, "os")] == [
        "a.example/os:latest",
        "b.example/os:latest",
    ]


@pytest.mark.parametrize("mode", ["enforcing", "permissive", "disabled"])
def test_what_names_its_registry_an_alias_or_a_single_registry_is_not_ambiguous(mode):
    registries = replace(TWO, short_name_mode=mode)
    assert [str(name) for name in resolve_short_name(registries, "known:2")] == ["c.example/x/known:2"]
    assert [str(name) for name in resolve_short_name(registries, "localhost/os")] == ["localhost/os:latest"]
    single = replace(registries, unqualified_search_registries=("a.example:5000",))
    assert [str(name) for name in resolve_short_name(single, "x/os")] == ["a.example:5000/x/os:latest"]


def test_a_name_that_nothing_explains_is_an_error():
    with pytest.raises(InvalidReferenceError, match="say the registry"):
        resolve_short_name(Registries(), "os")
