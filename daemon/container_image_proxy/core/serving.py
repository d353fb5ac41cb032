"""The configuration in force: what is served under it, and to whom; or the reason why there is none.

``assembly`` makes it, and a reload replaces it. Must not read files.
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
    from collections.abc import Mapping

    from container_image_proxy.concurrency.lazy import Lazy
    from container_image_proxy.config.access import AccessRule
    from container_image_proxy.config.instances import InstanceSettings
    from container_image_proxy.core.distribution import Distribution
    from container_image_proxy.core.peer import Peer
    from container_image_proxy.core.proxy import Proxy, ServedImage
    from container_image_proxy.policy.model import Policy
    from container_image_proxy.transports.source import Access

_log = logging.getLogger(__name__)


class Serving(Struct, frozen=True):
    """What is served under one configuration, and to whom. ``images`` are by name. Thread-safe."""

    settings: InstanceSettings
    images: Mapping[str, ServedImage]
    policy: Policy
    proxy: Proxy
    sources: Access
    distribution: Lazy[Distribution]
    closing: Cancellation = field(default_factory=Cancellation)
    """Ends work that is done for no request, when the configuration is replaced."""

    @property
    def idle_exit(self) -> float:
        """Seconds without any connection after which the daemon exits; 0 for never."""
        return self.settings.idle_exit

    @property
    def default(self) -> str | None:
        """The name of the image that ``/manifest`` means; None if there is no default."""
        return self.settings.default

    def access(self, name: str) -> AccessRule:
        """Who may have the image."""
        return self.settings.images[name].access

    def permits(self, peer: Peer, name: str) -> bool:
        """Whether the peer may have the image."""
        # A peer without credentials came over a channel that has none: TCP, or stdin and stdout, for trying out.
        return peer.uid is None or self.access(name).permits(peer.uid, peer.groups)

    def admits(self, peer: Peer) -> bool:
        """Whether there is any image that the peer may have."""
        return any(self.permits(peer, name) for name in self.images)

    def warm_up(self) -> None:
        """Do what the first request would wait for: load the HTTP library, trusted certificates, and keys."""
        for image in self.images.values():
            with suppress(Error):  # the first request meets with the same error, and its client is told
                image.reference.prepare(self.sources)
        with suppress(CancelledError):
            try:
                self.verify_keys()
            except ConfigurationError as error:
                _log.warning("images will be rejected: %s", error)

    def verify_keys(self) -> None:
        """Load the keys by which policy judges the images.

        Raises :class:`ConfigurationError`, which names those that are unusable. This is not part of reading the
        configuration, because keys count when an image is judged, and may appear until then.
        """
        scopes = {scope.name: scope for scope in (self.policy.scope_for(one.reference) for one in self.images.values())}
        complaints = []
        for scope in scopes.values():
            budget = Budget(self.settings.trust.verification_timeout, self.closing)
            complaints += [f"{scope.name}: {line}" for line in prepare(self.policy, scope, budget)]
        if complaints:
            raise ConfigurationError(self.policy.file, "; ".join(complaints))

    def close(self) -> None:
        """End work that is done for no request. Close sources and connections, but for those that transfers use."""
        self.closing.cancel()
        self.proxy.close()
        if self.sources.registry.is_made:
            self.sources.registry().close()


class Degraded(Struct, frozen=True):
    """What is in force when no configuration can be used: ``error`` is the answer to every request (contrib/adr/0023).

    ``told`` are the rules for who gets that answer: those of the images, or root and the daemon's own user as long as
    they cannot be read. Everybody else is turned away as always. ``defect`` is set if the daemon itself is to blame.
    """

    error: ConfigurationError
    told: tuple[AccessRule, ...]
    idle_exit: float
    defect: Exception | None = None

    def admits(self, peer: Peer) -> bool:
        """Whether the peer gets the answer."""
        return peer.uid is None or any(rule.permits(peer.uid, peer.groups) for rule in self.told)

    def close(self) -> None:
        """There is nothing to close."""
