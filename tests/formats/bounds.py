"""Holds a reader to its promise: a typed error or a result, in under a second and 64 MB."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from boli.errors import BoliError

T = TypeVar("T")

SECONDS = 1.0
BYTES = 64 << 20


@contextmanager
def measured() -> Iterator[None]:
    """Switches the accounting of Python's and NumPy's allocations on."""
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def attempt(read: Callable[[], T]) -> T | BoliError:
    """What `read` returns, or the error of ours that it raises; any other exception passes through.

    Checks the time that it takes, of this process alone, as machines may be busy with others; and
    within `measured`, which slows it down, the memory too.
    """
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    start = time.process_time()
    result: T | BoliError
    try:
        result = read()
    except BoliError as error:
        result = error
    seconds = time.process_time() - start
    nbytes = tracemalloc.get_traced_memory()[1] - before
    assert seconds < SECONDS, f"took {seconds:.2f} s"
    assert nbytes < BYTES, f"took {nbytes:,} bytes"
    return result
