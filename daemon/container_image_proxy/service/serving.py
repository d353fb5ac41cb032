"""One configuration in force: settings turned into policy, registries, credentials and the proxy over them, whole or not at all.

Made at start, by ``--check``, and by every reload; a reload replaces the old one only when the new one stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

from container_image_proxy.config.certificates import load_certificates
from container_image_proxy.config.keychain import load_keychain
from container_image_proxy.config.limits import Limits
from container_image_proxy.config.registries import load_registries
from container_image_proxy.errors import ConfigurationError, InvalidReferenceError
from container_image_proxy.policy.model import insecure_policy, load_policy
from container_image_proxy.proxy import Proxy, ServedImage
from container_image_proxy.transports.table import open_source, parse_image_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from container_image_proxy.config.access import AccessRule
    from container_image_proxy.config.instances import ImageSettings, InstanceSettings
    from container_image_proxy.config.surroundings import Surroundings
    from container_image_proxy.policy.model import Policy
    from container_image_proxy.registry.client import RegistryClient
    from container_image_proxy.service.peer import Peer
    from container_image_proxy.snapshots import SnapshotStore
