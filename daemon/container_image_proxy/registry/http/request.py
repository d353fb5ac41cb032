"""A request to a registry, as ``session`` sends it and ``reply`` remembers it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import field

from container_image_proxy.image.confidential import Confidential

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.registry.endpoints import Endpoint
    from container_image_proxy.registry.http.target import Target


class Request(Confidential, frozen=True):
    """What to ask, and on behalf of which configured place; a POST if there is a ``form``.

    ``authorization`` goes to the first origin alone. A redirect within it that leads out of the API takes it away, too,
    for a signed link takes no other login beside its own; it is ``withheld`` then, for a target that asks for it.
    ``is_named`` says that the administrator named the target, so that it may be in a private network. ``trusts_target``
    says that the target, though it is another host, belongs to the endpoint: it may see our client certificate.
    ``may_leave_origin`` allows redirects to other origins.
    """

    target: Target
    endpoint: Endpoint
    phase: str
    headers: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = None
    withheld: str | None = None
    form: Mapping[str, str] | None = None
    is_named: bool = False
    trusts_target: bool = False
    may_leave_origin: bool = True
