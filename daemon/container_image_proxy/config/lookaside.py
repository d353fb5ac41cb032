"""Where signatures of images in registries are stored: containers-registries.d(5).

Reads a directory of YAML files, and tells for an image where its signatures are and whether sigstore attachments in the
registry are used. Fetches nothing. Unknown settings belong to other programs and are ignored.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct, field

from container_image_proxy.config.locations import ROOT, exists, list_files
from container_image_proxy.config.trusted_file import load_trusted_file
from container_image_proxy.errors import ConfigurationError, blamed_on
from container_image_proxy.image.documents import YAML, convert
from container_image_proxy.image.reference import Reference, policy_namespaces

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from container_image_proxy.errors import KeyPath
    from container_image_proxy.image.digest import Digest

_T = TypeVar("_T")

MAX_FILE_SIZE: Final = 1 << 20
"""Bytes of a file, which is held in memory while it is read. That is enough for thousands of scopes."""
_SYSTEM_STORAGE: Final = "var/lib/containers/sigstore"
_USER_STORAGE: Final = ".local/share/containers/sigstore"
_NO_URL: Final = re.compile(r"^:|[\x00-\x20\x7f]|%(?![0-9A-Fa-f]{2})")
_MERGE: Final = "tag:yaml.org,2002:merge"


class Section(Struct, frozen=True):
    """The settings for one registry, namespace or image; None if not set."""

    lookaside: str | None = None
    use_sigstore_attachments: bool | None = None


class LookasideConfiguration(Struct, frozen=True):
    """The merged files: ``docker`` by scope, the ``default`` section, and the default storage directory."""

    built_in: str
    default: Section | None = None
    docker: Mapping[str, Section] = field(default_factory=dict)

    def lookaside_base_url(self, reference: Reference) -> str:
        """The URL below which the signatures of the image's repository are stored. It can be of any scheme.

        :class:`ConfigurationError` if the configured text is no URL.
        """
        top = self._find(reference, lambda section: section.lookaside) or Path(self.built_in).as_uri()
        return _extend_path(top, f"/{reference.path}")

    def use_sigstore_attachments(self, reference: Reference) -> bool:
        """Whether to look for signatures that cosign attached to the image in its registry."""
        return bool(self._find(reference, lambda section: section.use_sigstore_attachments))

    def _find(self, reference: Reference, setting: Callable[[Section], _T | None]) -> _T | None:
        """The setting of the most specific section that has it."""
        named = reference.with_default_tag()
        scopes = (str(named), *policy_namespaces(named))
        sections = [*(self.docker.get(scope) for scope in scopes), self.default]
        found = (setting(section) for section in sections if section is not None)
        return next((value for value in found if value is not None), None)


def load_lookaside(*, directory: Path | None, home: Path | None, uid: int, root: Path = ROOT) -> LookasideConfiguration:
    """The merged ``*.yaml`` files of ``directory``, else of the user's directory if it exists, else of the system's.

    :class:`ConfigurationError` names file, key path and reason; a scope in two files is such an error as well.
    """
    # The home of a service with DynamicUser= is "/". It uses the system's storage, as root does.
    storage = root / _SYSTEM_STORAGE if home is None or home == root or uid == 0 else home / _USER_STORAGE
    merged = LookasideConfiguration(built_in=str(storage))
    if directory is None:
        user = home / ".config/containers/registries.d" if home is not None else None
        directory = user if user is not None and exists(user) else root / "etc/containers/registries.d"
    for file in list_files(directory):
        if file.suffix != ".yaml":
            continue
        found = parse_registries_d(load_trusted_file(file, limit=MAX_FILE_SIZE), str(file))
        twice = sorted(merged.docker.keys() & found.docker.keys())
        if merged.default is not None and found.default is not None:
            twice.append("default-docker")
        if twice:
            reason = f"another file in the directory configures {twice[0]!r}, too"
            raise ConfigurationError(str(file), reason, remedy="merge them")
        merged = LookasideConfiguration(
            merged.built_in, merged.default or found.default, {**merged.docker, **found.docker}
        )
    return merged


class _WrittenSection(Struct, frozen=True, rename="kebab"):
    """A section as a file has it. ``sigstore`` is the old name of ``lookaside``."""

    lookaside: str | None = None
    sigstore: str | None = None
    use_sigstore_attachments: bool | None = None


class _File(Struct, frozen=True, rename="kebab"):
    default_docker: Any = None
    docker: Any = None


def parse_registries_d(raw: bytes, file: str) -> LookasideConfiguration:
    """The content of one file; errors as :func:`load_lookaside`."""
    value = parse_yaml(raw, file)
    with blamed_on(file):
        written = convert(_mapping(value, ()), _File, (), YAML)
        default, scopes = written.default_docker, _mapping(written.docker, ("docker",))
        return LookasideConfiguration(
            built_in="",
            default=_parse_section(default, ("default-docker",)) if default is not None else None,
            docker={scope: _parse_section(section, ("docker", scope)) for scope, section in scopes.items()},
        )


def _parse_section(value: object, path: KeyPath) -> Section:
    written = convert(_mapping(value, path), _WrittenSection, path, YAML)
    return Section(written.lookaside or written.sigstore or None, written.use_sigstore_attachments)


def _mapping(value: object, path: KeyPath) -> dict[str, Any]:
    """``value`` as a mapping with text keys. YAML also has keys of other types, and null for an empty mapping."""
    mapping = {} if value is None else convert(value, dict[Any, Any], path, YAML)
    return {str(key): item for key, item in mapping.items()}


def parse_yaml(raw: bytes, file: str) -> object:
    """A YAML document of plain types; :class:`ConfigurationError` if it is malformed or a mapping has a key twice."""
    import yaml  # noqa: PLC0415 - takes 20 ms, and most hosts have nothing to read

    class Loader(yaml.SafeLoader):
        """PyYAML's safe loader, which silently takes the last of two equal keys, made strict about them."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:  # noqa: FBT001, FBT002
            # "<<" may be there several times: it merges other mappings, and is no key.
            keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != _MERGE]
            if len(set(keys)) != len(keys):
                raise yaml.constructor.ConstructorError(None, None, "a key appears twice", node.start_mark)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(raw, Loader)  # noqa: S506 - the loader is a safe one
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        problem = getattr(error, "problem", None) or type(error).__name__
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark is not None else ""
        raise ConfigurationError(file, f"is not usable YAML: {problem}{place}") from error


def signature_url(base: str, digest: Digest, index: int) -> str:
    """The URL of signature number ``index`` (from 0) of the manifest with ``digest``, below a repository's ``base``."""
    return _extend_path(base, f"@{digest.algorithm}={digest.hex}/signature-{index + 1}")


def _extend_path(url: str, suffix: str) -> str:
    try:
        scheme, netloc, path, query, fragment = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(url, "is no URL of a signature storage") from error
    if _NO_URL.search(url):
        raise ConfigurationError(url, "is no URL of a signature storage")
    return urlunsplit((scheme, netloc, path + suffix, query, fragment))
