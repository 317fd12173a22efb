"""The books: every large buffer is entered by category before it is allocated."""

from __future__ import annotations

import math
import mmap
import os
import platform
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from boli.engine.resident import resident_of
from boli.errors import OutOfMemory

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register

_LARGE = 4 << 20  # bytes: from here on NumPy asks for large pages

_STATM = Path("/proc/self/statm")  # Linux

Scalar = TypeVar("Scalar", bound=np.generic)


class _Buffer(NamedTuple):
    category: str
    array: weakref.ref[npt.NDArray[Any]]
    address: int
    nbytes: int


class Ledger:
    """Bytes by category. Safe to use from many threads.

    Categories are `weights/<FORMAT>`, `kv_cache`, `workspace`, `text` and `runtime`; a `/` divides
    a category into parts.

    Args:
        available: How many bytes the machine can still give; `boli.machine.memory_available` if
            left out.
    """

    def __init__(self, available: Callable[[], int] | None = None) -> None:
        self._available = available
        self._lock = threading.Lock()
        self._totals: dict[str, int] = {}
        self._entered = 0
        self._private_at_start = private_bytes()
        self._files = file_bytes()
        self._buffers: list[_Buffer] = []

    def enter(self, category: str, nbytes: int, name: str = "") -> None:
        """Enters bytes that are about to be allocated.

        Args:
            category: Where they belong.
            nbytes: How many.
            name: What they are for, in words; used in the error.

        Raises:
            OutOfMemory: The machine does not have them. Nothing was entered.
        """
        with self._lock:
            free = self._free()
            if nbytes > free:
                raise OutOfMemory(
                    f"{name or category} needs {readable(nbytes)}, but {readable(max(free, 0))} are free",
                    cause="memory that the machine or its container can still give, less what is promised "
                    "to buffers that are not filled yet",
                    remedy="close other programs, choose a smaller context or a smaller model",
                )
            self._add(category, nbytes)
            self._entered += nbytes

    def leave(self, category: str, nbytes: int) -> None:
        """Takes out bytes that were freed.

        Raises:
            ValueError: The category does not hold so many.
        """
        with self._lock:
            if nbytes > self._totals.get(category, 0):
                raise ValueError(f"{category} holds {self._totals.get(category, 0)} bytes, not {nbytes}")
            self._add(category, -nbytes)
            self._entered -= nbytes

    @contextmanager
    def growth(self, category: str) -> Iterator[None]:
        """Enters what the process's own memory grows by meanwhile, buffers of the books excepted."""
        with self._lock:
            before, entered = private_bytes(), self._entered
        yield
        with self._lock:
            grown = private_bytes() - before - (self._entered - entered)
        self.record(category, max(0, grown))

    def record(self, category: str, nbytes: int) -> None:
        """Enters bytes that are already in use, such as the interpreter's: no check, no promise."""
        with self._lock:
            self._add(category, nbytes)

    def record_libraries(self) -> None:
        """Enters, as `runtime`, pages of files that came into memory since this was called last.

        No buffer of the ledger belongs to a file, so these are libraries: counted once, and never a
        buffer that somebody forgot to enter. Files that are mapped for a while must be closed again.
        """
        with self._lock:
            files = file_bytes()
            self._add("runtime", max(0, files - self._files))
            self._files = max(files, self._files)

    def allocate(
        self,
        category: str,
        shape: int | tuple[int, ...],
        dtype: type[Scalar],
        name: str = "",
        *,
        zero: bool = False,
    ) -> npt.NDArray[Scalar]:
        """Enters an array and allocates it, aligned to 64 bytes.

        The system hands out the memory of a large array only when it is first written to, so a big
        cache that stays empty costs nothing. Large arrays that start as zeros, which are filled bit by bit
        or never, get small pages of memory, all others large ones. Up to 63 bytes of alignment are not in
        the books.

        Raises:
            OutOfMemory: The machine does not have the bytes.
        """
        shape = (shape,) if isinstance(shape, int) else shape
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        self.enter(category, nbytes, name)
        try:
            size = nbytes + ALIGNMENT - 1
            raw = _zeros(size) if zero else np.empty(size, np.uint8)
        except (MemoryError, OSError) as error:
            self.leave(category, nbytes)
            raise OutOfMemory(
                f"{name or category} needs {readable(nbytes)}, and the system refused them",
                cause="a limit on the process's address space (ulimit -v), or strict accounting of memory",
                remedy="raise the limit, or choose a smaller context or model",
            ) from error
        start = -raw.ctypes.data % ALIGNMENT
        with self._lock:
            self._buffers = [each for each in self._buffers if each.array() is not None]
            self._buffers.append(_Buffer(category, weakref.ref(raw), raw.ctypes.data, raw.nbytes))
        return raw[start : start + nbytes].view(dtype).reshape(shape)

    def totals(self) -> dict[str, int]:
        """Bytes of each category that is not empty, in order of name."""
        with self._lock:
            return {category: self._totals[category] for category in sorted(self._totals)}

    @property
    def total(self) -> int:
        """Bytes of all categories together."""
        with self._lock:
            return sum(self._totals.values())

    def resident_bytes(self) -> int:
        """Bytes of the whole process that are in memory now; see the module's function."""
        return resident_bytes()

    def resident(self) -> dict[str, int]:
        """Bytes of each category that are in memory.

        Of allocated buffers the pages that were ever touched; what was only entered or recorded counts
        in full, as does everything where the system does not tell.
        """
        with self._lock:
            totals, buffers = dict(sorted(self._totals.items())), list(self._buffers)
        for buffer in buffers:
            array = buffer.array()  # held while it is looked at
            touched = None if array is None else resident_of([(buffer.address, buffer.nbytes)])
            if touched is not None:
                totals[buffer.category] = totals.get(buffer.category, 0) - buffer.nbytes + touched
        return totals

    def _add(self, category: str, nbytes: int) -> None:
        left = self._totals.get(category, 0) + nbytes
        if left:
            self._totals[category] = left
        else:
            self._totals.pop(category, None)

    def _free(self) -> int:
        """What the machine can give, less what was entered but not touched yet."""
        if self._available is None:
            from boli.machine import memory_available  # noqa: PLC0415  # not needed where one is given

            self._available = memory_available
        touched = max(0, private_bytes() - self._private_at_start)
        return self._available() - max(0, self._entered - touched)


def _zeros(nbytes: int) -> npt.NDArray[np.uint8]:
    """Zeros; of large arrays only the small pages that are touched are ever in memory."""
    if nbytes < _LARGE or not hasattr(mmap, "MADV_NOHUGEPAGE"):  # only Linux has it
        return np.zeros(nbytes, np.uint8)
    # NumPy would ask for pages of 2 MiB. Where memory is in pieces the system moves it about to make them:
    # a tenth of a second for the first token, and 100 MB that stay empty.
    memory = mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without large pages
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def resident_bytes() -> int:
    """Bytes of this process that are in memory now; on macOS the most there ever were."""
    if _STATM.exists():
        return _statm()[1] * os.sysconf("SC_PAGE_SIZE")
    import resource  # noqa: PLC0415  # not on every platform

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def readable(nbytes: int) -> str:
    """A number of bytes for people, in powers of 1000: `93.1 MB`."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000.0:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000.0
    return f"{value:.1f} TB"


def private_bytes() -> int:
    """Resident bytes that are not backed by files; all resident ones where that is not known."""
    if _STATM.exists():
        fields = _statm()
        return (fields[1] - fields[2]) * os.sysconf("SC_PAGE_SIZE")
    return resident_bytes()


def file_bytes() -> int:
    """Resident bytes that are backed by files, such as libraries; 0 where that is not known."""
    return _statm()[2] * os.sysconf("SC_PAGE_SIZE") if _STATM.exists() else 0


def _statm() -> list[int]:
    """Sizes in pages: of the address space, of what is resident, of what of that belongs to files, ..."""
    return [int(field) for field in _STATM.read_text().split()]
