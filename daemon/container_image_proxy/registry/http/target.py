"""URLs that somebody else wrote: a redirect's ``Location``, a token realm, a lookaside base, a ``Link``. Pure.

Such a URL may be signed, and a signature is over the URL as it stands. So its parts are taken apart and put together
again without a change: no percent-encoding is added, removed or re-written, and no path is tidied up. The exceptions
are characters that no request line can hold: a space and bytes beyond ASCII are percent-encoded, as other clients do,
and control characters are refused. Spec: RFC 3986 section 5.2 and appendix B.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Final
from urllib.parse import unquote_to_bytes

from container_image_proxy.errors import RegistryError
from container_image_proxy.image.confidential import Confidential
from container_image_proxy.registry.http.origin import DEFAULT_PORTS, Origin, split_authority

_PARTS: Final = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(\?[^#]*)?(?:#.*)?", re.DOTALL)
_USERINFO: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:%@-]*")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_UNSENDABLE: Final = re.compile(r"[^\x21-\x7e]")


class Target(Confidential, frozen=True):
    """A URL that can be requested: http or https, absolute, without user information and fragment."""

    origin: Origin
    url: str
    userinfo: str = ""
    """``user:password`` as the URL had it: a secret. No message shows it, and it is sent only if the URL is ours."""

    @property
    def host_header(self) -> str:
        """``Host`` as the URL writes it: a signature may be over that as well."""
        return self._split()[0]

    @property
    def request_target(self) -> str:
        """Path and query as they go into the request line (RFC 9112 section 3.2.1)."""
        _, path, query = self._split()
        return path + query

    @property
    def is_in_api(self) -> bool:
        """Whether it is a resource of the distribution API, all of which lie below ``/v2/``."""
        path = self._split()[1]
        return path == "/v2" or path.startswith("/v2/")

    @property
    def authorization(self) -> str | None:
        """HTTP Basic with the URL's own user information; None without one."""
        if not self.userinfo:
            return None
        user, _, password = self.userinfo.partition(":")
        return "Basic " + b64encode(unquote_to_bytes(user) + b":" + unquote_to_bytes(password)).decode("ascii")

    def _split(self) -> tuple[str, str, str]:
        _, authority, path, query = _split(self.url)
        return authority or "", path, query or ""


def parse_target(url: str, base: Target | None = None) -> Target:
    """Read a URL, which may be relative to ``base``. Characters up to U+00FF stand for bytes, as in headers.

    Raises :class:`RegistryError`, which does not show the URL: it may hold secrets.
    """
    text = url.strip(" \t")
    if _CONTROL.search(text):
        raise RegistryError("it has control characters")
    scheme, authority, path, query = _split(_UNSENDABLE.sub(_percent_encode, text))
    if base is not None and scheme is None:
        if authority is None:
            return Target(base.origin, _resolve(base, path, query))
        scheme = base.origin.scheme
    scheme = (scheme or "").lower()
    if scheme not in DEFAULT_PORTS or not authority:
        raise RegistryError("it is not http:// or https:// with a host")
    userinfo, _, written = authority.rpartition("@")
    try:
        host, port = split_authority(written)
    except ValueError:
        raise RegistryError("its host or port is malformed") from None
    # In "https://one\@two/" some clients see the host "one", others the host "two": whoever checks must not differ from
    # whoever connects.
    if not _USERINFO.fullmatch(userinfo):
        raise RegistryError("its user information is malformed")
    # A colon without a port says nothing, and is left out (RFC 3986 section 6.2.3).
    origin = Origin(scheme, host, DEFAULT_PORTS[scheme] if port is None else port)
    return Target(origin, f"{scheme}://{written.removesuffix(':')}{path or '/'}{query or ''}", userinfo)


def _split(url: str) -> tuple[str | None, str | None, str, str | None]:
    """Scheme, authority, path, and query with its question mark. A part that is absent is None, which is not empty."""
    match = _PARTS.fullmatch(url)
    if match is None:  # cannot be: every part is optional, and together they take any character
        raise RegistryError("the URL is malformed")
    return match[1], match[2], match[3], match[4]


def _percent_encode(match: re.Match[str]) -> str:
    character = match[0]
    # A header's bytes were read as Latin-1. Characters beyond that come from a file of the administrator's.
    return "".join(f"%{byte:02X}" for byte in character.encode("latin-1" if character <= "\xff" else "utf-8"))


def _resolve(base: Target, path: str, query: str | None) -> str:
    """The absolute URL of a reference without host (RFC 3986 section 5.2.2)."""
    scheme, authority, base_path, base_query = _split(base.url)
    if not path:
        path, query = base_path, base_query if query is None else query
    elif not path.startswith("/"):
        path = _remove_dot_segments(f"{base_path.rpartition('/')[0]}/{path}")
    return f"{scheme}://{authority}{path}{query or ''}"


def _remove_dot_segments(path: str) -> str:
    """The path without "." and ".." (RFC 3986 section 5.2.4), after two were put together."""
    kept: list[str] = []
    *segments, last = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if last == "..":
        del kept[-1:]
    return "/".join(["", *kept, "" if last in {".", ".."} else last])
