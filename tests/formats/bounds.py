"""Holds a reader to its promise: a typed error or a result, in under a second and 64 MB."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import TypeVar

from boli.errors import BoliError

T = TypeVar("T")

SECONDS = 2.0  # twice what is promised: the machine may be slow
BYTES = 64 << 20


def attempt(read: Callable[[], T]) -> T | BoliError:
    """What `read` returns, or the error of ours that it raises; any other exception passes through.

    It is run twice: once for the time, and once with every allocation of Python and NumPy accounted
    for, which is slow.
    """
    in_time(read)
    tracemalloc.start()
    try:
        result = _result(read)
        nbytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert nbytes < BYTES, f"took {nbytes:,} bytes"
    return result


def in_time(read: Callable[[], T]) -> T | BoliError:
    """The same with a look at the time only: of this process alone, as others may keep the machine busy."""
    start = time.process_time()
    result = _result(read)
    seconds = time.process_time() - start
    assert seconds < SECONDS, f"took {seconds:.2f} s"
    return result


def _result(read: Callable[[], T]) -> T | BoliError:
    try:
        return read()
    except BoliError as error:
        return error
