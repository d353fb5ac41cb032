"""A request to a registry, as every layer of the way there sends it on, and the answer remembers it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import field

from container_image_proxy.image.confidential import Confidential

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.errors import UpstreamError
    from container_image_proxy.registry.endpoints import Endpoint
    from container_image_proxy.registry.http.target import Target

_E = TypeVar("_E", bound="UpstreamError")


class Request(Confidential, frozen=True):
    """What to ask, and on behalf of which configured place; a POST if there is a ``form``.

    ``repository`` is the path of what it is about at the endpoint, and decides on the login; ``expected`` are the
    statuses that are good for something.

    ``authorization`` goes to the first origin alone. A redirect within it that leads out of the API takes it away, too,
    for a signed link takes no other login beside its own; it is ``withheld`` then, for a target that asks for it.
    ``is_named`` says that the administrator named the target, so that it may be in a private network. ``trusts_target``
    says that the target, though it is another host, belongs to the endpoint: it may see our client certificate.
    ``may_leave_origin`` allows redirects to other origins.
    """

    target: Target
    endpoint: Endpoint
    phase: str
    repository: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    expected: frozenset[int] = frozenset()
    authorization: str | None = None
    withheld: str | None = None
    form: Mapping[str, str] | None = None
    is_named: bool = False
    trusts_target: bool = False
    may_leave_origin: bool = True

    def fault(self, kind: type[_E], reason: str, **more: Any) -> _E:
        """The error of ``kind`` that says what went wrong with this request, and where it went: the one place that
        says so.
        """
        return kind(reason, **{"phase": self.phase, "endpoint": self.target.origin.authority} | more)
