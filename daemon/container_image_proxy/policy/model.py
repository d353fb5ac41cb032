"""The signature policy as a whole: reading it, and choosing what applies to an image (containers-policy.json(5)).

Decides nothing about an image by itself; ``evaluate`` does, with the requirements of the scope that is chosen here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field

from container_image_proxy.config.trusted_file import load_trusted_file_if_present
from container_image_proxy.errors import ConfigurationError, blamed_on, remedied_by
from container_image_proxy.image.documents import Strict, convert, parse_strict
from container_image_proxy.policy.openpgp import Keyrings
from container_image_proxy.policy.requirement import (
    InsecureAcceptAnything,
    Reject,
    Requirement,
    SignedBy,
    SigstoreSigned,
    parse_requirements,
)
from container_image_proxy.policy.scope import doubt_docker_scope, verify_scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.image.image_reference import ImageReference
    from container_image_proxy.image.signature import SignatureKind

SYSTEM_POLICY: Final = "/etc/containers/policy.json"
USER_POLICY: Final = ".config/containers/policy.json"
MAX_POLICY_SIZE: Final = 4 << 20
"""Bytes of policy.json, which may carry keys itself; it is held in memory as long as the configuration."""

_NO_POLICY: Final = (
    "install your distribution's containers-common, or write one after containers-policy.json(5); "
    "--insecure-policy is there for trying things out"
)


class Scope(Struct, frozen=True):
    """What the policy asks of an image, all of it. ``name`` is ``transport|scope``, the ``transport`` for its default
    scope, or ``default``.
    """

    name: str
    requirements: tuple[Requirement, ...]

    @property
    def needs_signatures(self) -> frozenset[SignatureKind]:
        """The kinds of signatures worth fetching; none if the image is rejected anyway."""
        if any(isinstance(requirement, Reject) for requirement in self.requirements):
            return frozenset()
        signed = (
            requirement for requirement in self.requirements if isinstance(requirement, SignedBy | SigstoreSigned)
        )
        return frozenset(requirement.signature_kind for requirement in signed)


class Policy(Struct, frozen=True):
    """A parsed policy.json; ``file`` is where it came from, as receipts and errors name it.

    ``keyrings`` keeps the OpenPGP keys that were needed so far in a form that gpg can use, for as long as the policy
    lives.
    """

    file: str
    default: tuple[Requirement, ...]
    transports: Mapping[str, Mapping[str, tuple[Requirement, ...]]] = field(default_factory=dict)
    keyrings: Keyrings = field(default_factory=Keyrings)

    def scope_for(self, reference: ImageReference) -> Scope:
        """The most specific scope that holds the image: identity, namespaces, the transport's default, the default."""
        scopes = self.transports.get(reference.transport, {})
        for name in (reference.policy_identity, *reference.policy_namespaces, ""):
            if name in scopes:
                return Scope(f"{reference.transport}|{name}" if name else reference.transport, scopes[name])
        return Scope("default", self.default)

    def warnings(self) -> tuple[str, ...]:
        """What is allowed but cannot be meant: scopes under docker that match no image, one line each."""
        return tuple(filter(None, map(doubt_docker_scope, self.transports.get("docker", {}))))


def insecure_policy() -> Policy:
    """The policy of ``--insecure-policy``: anything goes."""
    return Policy("--insecure-policy", (InsecureAcceptAnything(),))


class _Written(Strict, frozen=True):
    default: Any
    transports: dict[str, Any] = field(default_factory=dict)


def parse_policy(raw: bytes, file: str) -> Policy:
    """Read a policy.json strictly; :class:`ConfigurationError` names ``file``, the place in it and what is wrong."""
    with remedied_by("see containers-policy.json(5)"), blamed_on(file):
        written = parse_strict(raw, _Written, "policy")
        return Policy(
            file=file,
            default=parse_requirements(written.default, ("default",)),
            transports={name: _parse_scopes(name, scopes) for name, scopes in written.transports.items()},
        )


def _parse_scopes(transport: str, value: object) -> dict[str, tuple[Requirement, ...]]:
    path = ("transports", transport)
    scopes = convert(value, dict[str, Any], path)
    for scope in scopes:
        verify_scope(transport, scope)
    return {scope: parse_requirements(requirements, (*path, scope)) for scope, requirements in scopes.items()}


def load_policy(configured: str | None, *, home: str | None, system: str = SYSTEM_POLICY) -> Policy:
    """Read the policy that applies: the file configured, else the user's if it exists, else the system's.

    There is nothing to fall back to: a file that is missing, unusable, or that others could have written is a
    :class:`ConfigurationError`, and nothing may be served.
    """
    user = [f"{home}/{USER_POLICY}"] if home else []
    paths = [configured] if configured is not None else [*user, system]
    for path in paths:
        raw = load_trusted_file_if_present(Path(path), limit=MAX_POLICY_SIZE, refuse_writable_by_others=True)
        if raw is not None:
            return parse_policy(raw, path)
    raise ConfigurationError(paths[-1], "there is no signature policy", remedy=_NO_POLICY)
