"""Short names (``fedora``), resolved to full references (containers-registries.conf(5), "Short-Name Aliasing").

podman asks its user which registry an ambiguous name means. A daemon has no terminal, so that such a name is an error:
in the wrong registry anybody may own an image of that name. Pure; ``registries_conf`` reads the files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.image.reference import Reference, names_domain, parse_reference

if TYPE_CHECKING:
    from container_image_proxy.config.registries import Registries


def parse_short_name(text: str) -> str:
    """``text`` if it can be the name of an alias.

    :class:`InvalidReferenceError` if it has a registry, tag or digest.
    """
    _refuse_tag_and_digest(parse_reference(text), text)
    if names_domain(text):
        raise InvalidReferenceError(f"{text!r} is not a short name: it names a registry")
    return text


def parse_alias_target(text: str) -> Reference:
    """The value of an alias.

    :class:`InvalidReferenceError` unless it is a registry and repository, without tag, digest.
    """
    target = parse_reference(text)
    _refuse_tag_and_digest(target, text)
    if not names_domain(text):
        raise InvalidReferenceError(f"{text!r} does not say a registry")
    return target


def _refuse_tag_and_digest(reference: Reference, text: str) -> None:
    if not reference.is_name_only:
        raise InvalidReferenceError(f"{text!r} must have neither tag nor digest")


def resolve_alias(registries: Registries, name: str) -> Reference | None:
    """The repository of the alias ``name``, if there is one.

    :class:`InvalidReferenceError` if it cannot be an alias.
    """
    return registries.aliases.get(parse_short_name(name))


def resolve_short_name(registries: Registries, text: str) -> tuple[Reference, ...]:
    """The references that ``text`` may mean, in the order to try them; the default tag is added.

    It is one reference, but with ``short-name-mode`` "disabled" one for each unqualified-search registry.
    :class:`InvalidReferenceError` for a name that is unknown, or ambiguous in the other modes.
    """
    typed = parse_reference(text)
    if names_domain(text):
        return (typed.with_default_tag(),)
    alias = resolve_alias(registries, text.partition("@")[0].partition(":")[0])  # without digest and tag
    if alias is not None:
        return (replace(alias, tag=typed.tag, digest=typed.digest).with_default_tag(),)
    searched = registries.unqualified_search_registries
    if not searched:
        raise InvalidReferenceError(
            f"{text!r} has no alias and there are no unqualified-search-registries: say the registry"
        )
    candidates = tuple(parse_reference(f"{registry}/{text}").with_default_tag() for registry in searched)
    # In the first registry that has the name, it may belong to a stranger: which one is meant is not guessed.
    if len(searched) > 1 and registries.short_name_mode != "disabled":
        choices = ", ".join(map(str, candidates))
        raise InvalidReferenceError(f"{text!r} is ambiguous: say the registry, or add an alias; it may be {choices}")
    return candidates
