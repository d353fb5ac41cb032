"""Which places may have what a reference names: the mirrors and the registry that registries.conf says.

Must not ask any of them. Spec: containers-registries.conf(5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from container_image_proxy.registry.attempts import Attempts
from container_image_proxy.registry.endpoints import Endpoint, Health, Repository, repository_of

if TYPE_CHECKING:
    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.limits import Limits
    from container_image_proxy.config.registries import Registries
    from container_image_proxy.image.reference import Reference
    from container_image_proxy.registry.attempts import Clock

_E = TypeVar("_E", bound=Endpoint)


class Places:
    """The configured places, and which of them failed lately. Thread-safe.

    ``tls_verify`` (``--tls-verify``) overrides ``insecure`` of every registry; None leaves it.
    """

    def __init__(self, registries: Registries, limits: Limits, clock: Clock, *, tls_verify: bool | None) -> None:
        self._registries = registries
        self._limits = limits
        self._clock = clock
        self._tls_verify = tls_verify
        self._health = Health(limits, clock.now)

    def of(self, reference: Reference) -> list[Repository]:
        """All places that may have what ``reference`` names, in the order of the configuration, the origin last.

        Raises :class:`RegistryBlockedError`, and :class:`InvalidReferenceError` for a host that no network has.
        """
        sources = self._registries.pull_sources(reference)
        return [repository_of(source, tls_verify=self._tls_verify) for source in sources]

    def first(self, reference: Reference) -> Repository:
        """The place that is asked first: the first one that has not failed lately. Raises what :meth:`of` raises."""
        return self._health.sort(self.of(reference))[0]

    def attempts(
        self, context: Context, where: Reference | Repository, *, first: Repository | None = None
    ) -> Attempts[Repository]:
        """The places to ask: ``where`` alone if it is one, else all that may have it, ``first`` before the others."""
        # A place that is named is asked alone: what belongs to a manifest is wanted from where the manifest came from.
        places = [where] if isinstance(where, Repository) else self.of(where)
        return Attempts(context, places, self._health, self._limits, self._clock, first=first)

    def attempts_at(self, context: Context, endpoint: _E) -> Attempts[_E]:
        """The same for what lies at ``endpoint`` alone."""
        return Attempts(context, (endpoint,), self._health, self._limits, self._clock)
