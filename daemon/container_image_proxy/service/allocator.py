"""The C library's allocator, told how this process uses memory.

glibc gives threads arenas of their own, eight for each processor, and a large document that one of them had leaves room
behind that no other arena can use. Threads of Python take turns anyway, so that two arenas serve them as well: what
sixty clients leave behind, each of which had an image of 4 MiB, is then a third.
"""

from __future__ import annotations

from typing import Final

_M_ARENA_MAX: Final = -8  # <malloc.h>
_ARENAS: Final = 2


def use_few_arenas() -> None:
    """Have it so from now on (mallopt(3)); other C libraries have no arenas. To be called before threads are made."""
    import ctypes  # noqa: PLC0415 - 1 ms that only a daemon is worth

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)
