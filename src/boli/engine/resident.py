"""How much of a buffer is in memory: the system hands pages out only when they are first touched.

Both calls are the C library's (`man 2 mincore`, `man 2 madvise`).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Callable, Iterable

_IN_MEMORY = 1  # the lowest bit of what mincore says of a page
_AT_ONCE = 1 << 30  # bytes that are asked about in one call
_POPULATE_WRITE = 23  # as if each page were written to, which changes nothing in it; Linux 5.14 and newer
_POPULATED_AT_ONCE = 8 << 20  # bytes that are asked for in one call


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


def populate(address: int, size: int, ended: Callable[[], bool]) -> int:
    """Has the system hand out a buffer's pages now; others may use the buffer meanwhile.

    Args:
        address: Of the buffer.
        size: Its bytes; pages that it shares with others are left alone.
        ended: Asked between two parts; True stops.

    Returns:
        The bytes that are in memory for sure; 0 where the system does not know such a thing.
    """
    if not sys.platform.startswith("linux"):
        return 0
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    page = mmap.PAGESIZE
    place = start = -(-address // page) * page
    end = (address + size) // page * page
    while place < end and not ended():
        length = min(end - place, _POPULATED_AT_ONCE)
        if madvise(place, length, _POPULATE_WRITE):
            break
        place += length
    return place - start
