"""Short names: from ``fedora`` to the registries that may be meant, without guessing.

containers-registries.conf(5), "Short-Name Aliasing". There is never a terminal to ask at, so what podman would ask
about is an error here: an image of that name in the wrong registry may be anybody's. Pure; reading the files is the job
of ``registries_conf``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.image.reference import Reference, names_domain, parse_reference

if TYPE_CHECKING:
    from container_image_proxy.config.registries import Registries

_LOCAL: Final = "localhost"


def parse_short_name(text: str) -> str:
    """Check the name of an alias: neither registry nor tag nor digest, :class:`InvalidReferenceError` otherwise."""
    _refuse_tag_and_digest(parse_reference(text), text)
    if names_domain(text):
        raise InvalidReferenceError(f"{text!r} is not a short name: it names a registry")
    return text


def parse_alias_target(text: str) -> Reference:
    """Read the value of an alias: registry and repository alone, :class:`InvalidReferenceError` otherwise."""
    target = parse_reference(text)
    _refuse_tag_and_digest(target, text)
    if not names_domain(text):
        raise InvalidReferenceError(f"{text!r} does not say a registry")
    return target


def _refuse_tag_and_digest(reference: Reference, text: str) -> None:
    if not reference.is_name_only:
        raise InvalidReferenceError(f"{text!r} must have neither tag nor digest")


def resolve_alias(registries: Registries, name: str) -> Reference | None:
    """The repository that a short name is an alias of; :class:`InvalidReferenceError` if it cannot be an alias."""
    return registries.aliases.get(parse_short_name(name))


def resolve_short_name(registries: Registries, text: str) -> tuple[Reference, ...]:
    """The images that ``text`` may mean, in the order to try them, tagged ``latest`` if it has neither tag nor digest.

    That is one, unless ``short-name-mode`` is "disabled": then each of the unqualified-search registries.
    :class:`InvalidReferenceError` for a name that is unknown, or in the other modes ambiguous.
    """
    typed = parse_reference(text)
    if names_domain(text):
        return (typed.with_default_tag(),)
    alias = resolve_alias(registries, _strip(text))
    if alias is not None:
        return (_complete(alias, typed),)
    searched = registries.unqualified_search_registries
    if not searched:
        raise InvalidReferenceError(
            f"{text!r} has no alias and there are no unqualified-search-registries: say the registry"
        )
    if len(searched) > 1 and registries.short_name_mode != "disabled":
        choices = ", ".join(str(candidate) for candidate in _search(searched, text))
        raise InvalidReferenceError(f"{text!r} is ambiguous: say the registry, or add an alias; it may be {choices}")
    return _search(searched, text)


def local_names(registries: Registries, text: str) -> tuple[Reference, ...]:
    """The names that an image typed as ``text`` may have in local storage; to look there is to ask, not to guess."""
    typed = parse_reference(text)
    if names_domain(text):
        return (typed.with_default_tag(),)
    alias = resolve_alias(registries, _strip(text))
    aliased = () if alias is None else (_complete(alias, typed),)
    return (*aliased, *_search((_LOCAL, *registries.unqualified_search_registries), text))


def _strip(text: str) -> str:
    return text.partition("@")[0].partition(":")[0]


def _complete(repository: Reference, typed: Reference) -> Reference:
    return replace(repository, tag=typed.tag, digest=typed.digest).with_default_tag()


def _search(registries: tuple[str, ...], text: str) -> tuple[Reference, ...]:
    return tuple(parse_reference(f"{registry}/{text}").with_default_tag() for registry in registries)
