"""libostree and what it stands on, through GObject introspection: Debian's gir1.2-ostree-1.0 and python3-gi."""

import gi

gi.require_version("OSTree", "1.0")
from gi.repository import Gio, GLib, OSTree  # noqa: E402 - the version is chosen first

__all__ = ["GLib", "Gio", "OSTree"]
