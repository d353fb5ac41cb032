"""The signature policy: reads policy.json and finds the scope that applies to an image (containers-policy.json(5)).

It does not decide about images: ``evaluate`` does, by the requirements of the scope that is found here.
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
from container_image_proxy.policy.scope import verify_scope, warn_about_docker_scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.image.image_reference import ImageReference
    from container_image_proxy.image.signature import SignatureKind

SYSTEM_POLICY: Final = "/etc/containers/policy.json"
USER_POLICY: Final = ".config/containers/policy.json"
MAX_POLICY_SIZE: Final = 4 << 20
"""Bytes of policy.json, which may contain keys. Its values stay in memory for as long as the configuration."""

_NO_POLICY: Final = (
    "install your distribution's containers-common, or write one after containers-policy.json(5); "
    "--insecure-policy is there for trying things out"
)


class Scope(Struct, frozen=True):
    """The requirements of one scope, all of which an image must satisfy.

    ``name`` is ``transport|scope``, or ``transport`` for the transport's default scope, or ``default``.
    """

    name: str
    requirements: tuple[Requirement, ...]

    @property
    def needs_signatures(self) -> frozenset[SignatureKind]:
        """The kinds of signatures to fetch; none if the image is rejected whatever is fetched."""
        # All requirements must be satisfied, so that one "reject" decides. Fetching would cost requests for nothing.
        if any(isinstance(requirement, Reject) for requirement in self.requirements):
            return frozenset()
        signed = (
            requirement for requirement in self.requirements if isinstance(requirement, SignedBy | SigstoreSigned)
        )
        return frozenset(requirement.signature_kind for requirement in signed)


class Policy(Struct, frozen=True):
    """A parsed policy.json. ``file`` is its path, for receipts and errors.

    ``transports`` maps a transport and a scope to requirements. ``keyrings`` are the OpenPGP keys that were used so
    far, in gpg's own format.
    """

    file: str
    default: tuple[Requirement, ...]
    transports: Mapping[str, Mapping[str, tuple[Requirement, ...]]] = field(default_factory=dict)
    keyrings: Keyrings = field(default_factory=Keyrings)

    def scope_for(self, reference: ImageReference) -> Scope:
        """The scope that applies to the image: the first of its identity, its namespaces from the longest to the
        shortest, the transport's default scope, and the default of the policy.
        """
        scopes = self.transports.get(reference.transport, {})
        for name in (reference.policy_identity, *reference.policy_namespaces, ""):
            if name in scopes:
                return Scope(f"{reference.transport}|{name}" if name else reference.transport, scopes[name])
        return Scope("default", self.default)

    def warnings(self) -> tuple[str, ...]:
        """One line for each scope of the transport docker that is legal but matches no image."""
        return tuple(filter(None, map(warn_about_docker_scope, self.transports.get("docker", {}))))


def insecure_policy() -> Policy:
    """The policy of ``--insecure-policy``, which accepts every image."""
    return Policy("--insecure-policy", (InsecureAcceptAnything(),))


class _Written(Strict, frozen=True):
    default: Any
    transports: dict[str, Any] = field(default_factory=dict)


def parse_policy(raw: bytes, file: str) -> Policy:
    """A policy from the bytes of policy.json; unknown keys and requirements are errors (contrib/adr/0008).

    :class:`ConfigurationError` names ``file``, the key path and the reason.
    """
    with remedied_by("see containers-policy.json(5)"), blamed_on(file):
        written = parse_strict(raw, _Written, "policy")
        default = parse_requirements(written.default, ("default",))
        transports = {}
        for transport, value in written.transports.items():
            path = ("transports", transport)
            scopes = convert(value, dict[str, Any], path)
            for scope in scopes:
                verify_scope(transport, scope)
            transports[transport] = {
                scope: parse_requirements(requirements, (*path, scope)) for scope, requirements in scopes.items()
            }
        return Policy(file, default, transports)


def load_policy(configured: str | None, *, home: str | None, system: str = SYSTEM_POLICY) -> Policy:
    """The policy in force: the file ``configured``, else the user's below ``home`` if it exists, else ``system``.

    :class:`ConfigurationError` if that file is missing, malformed, or writable by other users. The caller must not fall
    back to another policy: without one, nothing may be served (contrib/adr/0007).
    """
    # A policy that somebody named is never replaced by another one, which might allow more.
    user = [f"{home}/{USER_POLICY}"] if home else []
    paths = [configured] if configured is not None else [*user, system]
    for path in paths:
        raw = load_trusted_file_if_present(
            Path(path), limit=MAX_POLICY_SIZE, refuse_writable_by_others=True, restricts=True
        )
        if raw is not None:
            return parse_policy(raw, path)
    raise ConfigurationError(paths[-1], "there is no signature policy", remedy=_NO_POLICY)
