"""registries.conf(5) as containers/image reads it, over recorded configurations and names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from container_image_proxy.config import short_names
from container_image_proxy.config.registries import Registry, match_prefix, rewrite_reference
from container_image_proxy.config.registries_conf import Location, load_registries
from container_image_proxy.errors import ConfigurationError, Error, InvalidReferenceError
from container_image_proxy.image.reference import parse_reference
from tests.support.conformance import deviation, rows

if TYPE_CHECKING:
    from pathlib import Path

    from container_image_proxy.config.registries import Registries

MODES = {1: "disabled", 2: "permissive", 3: "enforcing"}


def write(directory: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = directory / name.replace("${TMP}", "tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def load(directory: Path, main: str, drop_ins: str, aliases: str) -> Registries:
    learned = directory / "home/.cache/containers/short-name-aliases.conf"
    if (directory / aliases).exists():
        learned.parent.mkdir(parents=True)
        (directory / aliases).rename(learned)
    return load_registries(
        path=directory / main,
        directory=directory / drop_ins,
        environ={},
        home=directory / "home",
        uid=1,
        root=directory,
    )


def described(registry: Registry) -> dict[str, Any]:
    return {
        "prefix": registry.prefix,
        "location": registry.location,
        "insecure": registry.insecure,
        "blocked": registry.blocked,
        "mirror_by_digest_only": registry.mirror_by_digest_only,
        "mirrors": [
            {"location": mirror.location, "insecure": mirror.insecure, "pull_from_mirror": mirror.pull_from_mirror}
            for mirror in registry.mirrors
        ],
    }


def with_default_use(registry: dict[str, Any]) -> dict[str, Any]:
    mirrors = [{**mirror, "pull_from_mirror": mirror["pull_from_mirror"] or "all"} for mirror in registry["mirrors"]]
    return {**registry, "mirrors": mirrors}


def check_lookup(registries: Registries, lookup: dict[str, Any]) -> None:
    reference = parse_reference(lookup["reference"]).with_default_tag()
    assert str(reference) == lookup["normalized"]
    registry = registries.find_registry(reference)
    assert (registry.prefix if registry else None) == lookup["match"]
    if registry is None:
        return
    assert registry.blocked is lookup["blocked"]
    if "pull_sources_error" in lookup:
        with pytest.raises(ConfigurationError):
            registry.pull_sources(reference)
        return
    sources = [(str(source.reference), source.insecure) for source in registry.pull_sources(reference)]
    assert sources == [(source["reference"], source["insecure"]) for source in lookup["pull_sources"]]


def check_alias(registries: Registries, name: str, expected: str | dict[str, str] | None) -> None:
    if isinstance(expected, dict):
        with pytest.raises(InvalidReferenceError):
            short_names.resolve_alias(registries, name)
    else:
        target = short_names.resolve_alias(registries, name)
        assert (str(target) if target else None) == expected


@rows("registries/lookups", keep=lambda row: "config_error" in row)
def test_broken_configurations(row, tmp_path):
    write(tmp_path, row["files"])
    with pytest.raises(ConfigurationError):
        load(tmp_path, "registries.conf", "registries.conf.d", "user-aliases.conf")


@rows("registries/lookups", keep=lambda row: "config_error" not in row)
def test_lookups(row, tmp_path):
    write(tmp_path, row["files"])
    registries = load(tmp_path, "registries.conf", "registries.conf.d", "user-aliases.conf")
    assert [described(registry) for registry in registries.registries] == [*map(with_default_use, row["registries"])]
    assert list(registries.unqualified_search_registries) == (row["unqualified_search_registries"] or [])
    assert list(registries.credential_helpers) == row["credential_helpers"]
    assert registries.short_name_mode == row["short_name_mode"]
    for lookup in row["lookups"]:
        check_lookup(registries, lookup)
    for name, expected in row["aliases"].items():
        check_alias(registries, name, expected)


@rows("registries/parse_location")
def test_locations(row):
    if row["error"]:
        with pytest.raises(ValueError, match="URL"):
            Location.read(row["location"])
    else:
        assert Location.read(row["location"]) == row["result"]


@rows("registries/ref_matching_prefix")
def test_prefixes(row):
    expected = row["expected"]
    assert match_prefix(row["ref"], row["prefix"]) == (None if expected == -1 else expected)


@rows("registries/ref_matching_subdomain_prefix")
def test_wildcard_prefixes(row):
    expected = row["expected"]
    assert match_prefix(row["ref"], row["prefix"]) == (None if expected == -1 else expected)


@rows("registries/rewrite_reference")
def test_rewriting(row):
    reference = parse_reference(row["ref"])
    if row["error"]:
        with pytest.raises(InvalidReferenceError):
            rewrite_reference(reference, row["prefix"], row["location"])
    else:
        assert str(rewrite_reference(reference, row["prefix"], row["location"])) == row["result"]


@rows("registries/short_name_key")
def test_alias_names(row):
    if row["error"]:
        with pytest.raises(InvalidReferenceError):
            short_names.parse_short_name(row["key"])
    else:
        assert short_names.parse_short_name(row["key"]) == row["key"]


@rows("registries/short_name_value")
def test_alias_targets(row):
    if row["error"]:
        with pytest.raises(InvalidReferenceError):
            short_names.parse_alias_target(row["value"])
    else:
        assert str(short_names.parse_alias_target(row["value"])) == row["result"]


def load_for(row: dict[str, Any], directory: Path) -> Registries:
    write(directory, row["files"])
    system = {key: value.replace("${TMP}", "tmp") for key, value in row["sys"].items() if isinstance(value, str)}
    registries = load(
        directory,
        system["SystemRegistriesConfPath"],
        system["SystemRegistriesConfDirPath"],
        system["UserShortNameAliasConfPath"],
    )
    mode = row["sys"].get("ShortNameMode")
    return replace(registries, short_name_mode=MODES[mode]) if mode else registries


def is_about_registries(row: dict[str, Any]) -> bool:
    """Neither a zero value that only Go has, nor podman's order to take every short name for one of Docker Hub."""
    return row["sys"].get("ShortNameMode") != 0 and not is_about_docker_hub(row)


def is_about_docker_hub(row: dict[str, Any]) -> bool:
    return bool(row["sys"].get("PodmanOnlyShortNamesIgnoreRegistriesConfAndForceDockerHub"))


@rows("registries/short_name_resolve", keep=is_about_registries)
@pytest.mark.demand("SHORT-name")
def test_short_names(row, tmp_path):
    registries = load_for(row, tmp_path)
    if row["error"] or deviation("registries/short_name_resolve", row):
        with pytest.raises(Error):
            short_names.resolve_short_name(registries, row["input"])
    else:
        candidates = short_names.resolve_short_name(registries, row["input"])
        assert [str(candidate) for candidate in candidates] == row["candidates"]


@rows("registries/short_name_resolve", keep=is_about_docker_hub)
def test_names_of_docker_hub(row):
    if row["error"]:
        with pytest.raises(InvalidReferenceError):
            parse_reference(row["input"])
    else:
        assert [str(parse_reference(row["input"]).with_default_tag())] == row["candidates"]


@rows("registries/short_name_resolve_locally", keep=is_about_docker_hub)
def test_local_names_of_docker_hub(row):
    assert [str(parse_reference(row["input"]).with_default_tag())] == row["candidates"]
