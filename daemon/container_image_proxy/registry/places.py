"""Which places may have what a reference names: the registry itself and its mirrors, in the order of their health."""

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
    """What registries.conf says, and what is remembered of the places that it names. Thread-safe.

    ``tls_verify`` overrides ``insecure`` of every registry.
    """

    def __init__(self, registries: Registries, limits: Limits, clock: Clock, *, tls_verify: bool | None) -> None:
        self._registries = registries
        self._limits = limits
        self._clock = clock
        self._tls_verify = tls_verify
        self._health = Health(limits, clock.now)

    def of(self, reference: Reference) -> list[Repository]:
        """All that may have it, in the order of the configuration."""
        sources = self._registries.pull_sources(reference)
        return [repository_of(source, tls_verify=self._tls_verify) for source in sources]

    def first(self, reference: Reference) -> Repository:
        """The one that is asked first."""
        return self._health.sort(self.of(reference))[0]

    def attempts(
        self, context: Context, where: Reference | Repository, *, first: Repository | None = None
    ) -> Attempts[Repository]:
        """Whom to ask: the one place, or all that may have the reference, ``first`` before the others."""
        places = [where] if isinstance(where, Repository) else self.of(where)
        return Attempts(context, places, self._health, self._limits, self._clock, first=first)

    def attempts_at(self, context: Context, endpoint: _E) -> Attempts[_E]:
        """The same for what is at ``endpoint`` alone."""
        return Attempts(context, (endpoint,), self._health, self._limits, self._clock)
