"""One configuration in force: what is served under it, and to whom. ``assembly`` makes it, a reload replaces it.

Or, in its place, the reason why there is none.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec import Struct, field

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.errors import ConfigurationError, Error
from container_image_proxy.policy.budget import Budget
from container_image_proxy.policy.evaluate import prepare

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from container_image_proxy.concurrency.lazy import Lazy
    from container_image_proxy.config.access import AccessRule
    from container_image_proxy.config.instances import InstanceSettings
    from container_image_proxy.core.distribution import Distribution
    from container_image_proxy.core.peer import Peer
    from container_image_proxy.core.proxy import Proxy, ServedImage
    from container_image_proxy.policy.model import Policy, Scope
    from container_image_proxy.transports.source import Access, SourceReference

_log = logging.getLogger(__name__)


class Serving(Struct, frozen=True):
    """What is served under one configuration, and to whom."""

    settings: InstanceSettings
    images: Mapping[str, ServedImage]
    policy: Policy
    proxy: Proxy
    sources: Access
    distribution: Lazy[Distribution]
    closing: Cancellation = field(default_factory=Cancellation)
    """What ends the work that is done for no request when the configuration goes."""

    @property
    def idle_exit(self) -> float:
        """Seconds without any connection after which the daemon leaves; 0: never."""
        return self.settings.idle_exit

    @property
    def default(self) -> str | None:
        """The name of the image that ``/manifest`` means."""
        return self.settings.default

    def access(self, name: str) -> AccessRule:
        """Who may have the image."""
        return self.settings.images[name].access

    def permits(self, peer: Peer, name: str) -> bool:
        """Whether the peer may have the image. A peer without credentials can only come over a channel that asks for
        none.
        """
        return peer.uid is None or self.access(name).permits(peer.uid, peer.groups)

    def admits(self, peer: Peer) -> bool:
        """Whether there is any image that the peer may have."""
        return any(self.permits(peer, name) for name in self.images)

    def warm_up(self) -> None:
        """Do what the first request would wait for: load the HTTP library, trusted certificates, and keys."""
        for reference in self._references():
            with suppress(Error):  # the first request will meet it again and tell
                reference.prepare(self.sources)
        with suppress(CancelledError):
            try:
                self.verify_keys()
            except ConfigurationError as error:
                _log.warning("images will be rejected: %s", error)

    def verify_keys(self) -> None:
        """Load the keys by which policy judges the images; :class:`ConfigurationError` names those that are unusable.

        Not part of reading the configuration: keys count when an image is judged, and may appear until then.
        """
        scopes = {scope.name: scope for scope in map(self.policy.scope_for, self._references())}
        complaints = [f"{scope.name}: {line}" for scope in scopes.values() for line in self._prepare(scope)]
        if complaints:
            raise ConfigurationError(self.policy.file, "; ".join(complaints))

    def _prepare(self, scope: Scope) -> tuple[str, ...]:
        return prepare(self.policy, scope, Budget(self.settings.trust.verification_timeout, self.closing))

    def _references(self) -> Iterator[SourceReference]:
        return (image.reference for image in self.images.values())

    def close(self) -> None:
        """End what is done for no request, and close the sources and the connections to registries that nobody uses;
        those in use close with their transfers.
        """
        self.closing.cancel()
        self.proxy.close()
        if self.sources.registry.is_made:
            self.sources.registry().close()


class Degraded(Struct, frozen=True):
    """What is in force when no configuration can be used: ``error`` is the answer to every request.

    ``told`` says who may know of it: whoever may connect, or as long as that cannot be read root and the daemon's own
    user. Everybody else is turned away as ever. ``defect`` is what the daemon itself is to blame for.
    """

    error: ConfigurationError
    told: tuple[AccessRule, ...]
    idle_exit: float
    defect: Exception | None = None

    def admits(self, peer: Peer) -> bool:
        """Whether the peer may know."""
        return peer.uid is None or any(rule.permits(peer.uid, peer.groups) for rule in self.told)

    def close(self) -> None:
        """There is nothing to close."""
