"""How much of a buffer is in memory: the system hands pages out only when they are first touched."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable

_IN_MEMORY = 1  # the lowest bit of what mincore says of a page
_AT_ONCE = 1 << 30  # bytes that are asked about in one call


def resident_of(buffers: Iterable[tuple[int, int]]) -> int | None:
    """Bytes of some buffers that are in memory, in whole pages within the buffers.

    Args:
        buffers: Address and size of each.

    Returns:
        The bytes; None where the system does not tell.
    """
    if os.name != "posix":
        return None
    mincore = getattr(ctypes.CDLL(None, use_errno=True), "mincore", None)
    if mincore is None:
        return None
    mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    page, found = mmap.PAGESIZE, 0
    for address, size in buffers:
        place, end = address // page * page, address + size
        while place < end:
            length = min(end - place, _AT_ONCE)
            pages = (ctypes.c_ubyte * (-(-length // page)))()
            if mincore(place, length, pages):
                return None
            for number, state in enumerate(pages):
                if state & _IN_MEMORY:
                    start = place + number * page
                    found += min(start + page, end) - max(start, address)
            place += length
    return found
