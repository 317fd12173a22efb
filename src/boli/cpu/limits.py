"""What this machine can do at most: read memory, and multiply and add.

Measured with compiled loops (`limit_kernels.py`) on as many threads as the engine uses. What the
engine reaches is to be held against these numbers, not against a data sheet: virtual machines share
their memory and their cores with others, and clocks follow the heat.

A kernel that is in the cache is run without importing Numba, so this module has no part of one.
"""

from __future__ import annotations

import functools
import hashlib
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from boli.cpu import compiler, target
from boli.errors import OutOfMemory
from boli.machine import memory_available

Kind = Literal["int8", "bf16", "f32"]
KINDS: tuple[Kind, ...] = ("int8", "bf16", "f32")

VECTOR_BYTES = 64
READ_STEP = 8 * VECTOR_BYTES  # into as many sums: no addition waits for the one before
OPERAND_STEPS = 8  # a power of two; with them the operands still fit into the innermost cache
OPERATIONS: dict[Kind, int] = {"int8": 128, "bf16": 64, "f32": 32}  # of one product of vectors
REGISTER = 16 * VECTOR_BYTES  # bytes of a tile register; of the product of two:
REGISTER_OPERATIONS = 2 * 16 * 16 * 32

SAMPLES = 9
SAMPLE_SECONDS = 0.012  # of products: long against the start of a thread, short for who waits
LEAST_BUFFER, MOST_BUFFER = 256 << 20, 1 << 30  # bytes, if the memory is there
TIMES_THE_CACHE = 8  # so large is the buffer, and so little of it is found in the cache
_LINE = 4096


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing, at least one."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one: what to believe on a machine that others use too."""
        return statistics.median(self.samples)

    @property
    def min(self) -> float:
        """The least."""
        return min(self.samples)

    @property
    def max(self) -> float:
        """The most."""
        return max(self.samples)

    def __add__(self, other: Spread) -> Spread:
        """The measurements of both."""
        return Spread(self.samples + other.samples)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a number of threads reached together.

    Attributes:
        threads: How many.
        read_bytes_per_s: Reading memory that is in no cache.
        int8_ops_per_s: Products of unsigned and signed bytes, added in 32 bits (`dots.emit_dot`); a
            multiplication and an addition count as two, here and below.
        bf16_ops_per_s: Products of bfloat16 numbers, added in float32 (`dots.emit_dot_bf16`), in tile
            registers where the kernels use them (`amx.py`).
        f32_ops_per_s: Fused multiplication and addition in float32.
        buffer_bytes: How much memory was read.
    """

    threads: int
    read_bytes_per_s: Spread
    int8_ops_per_s: Spread
    bf16_ops_per_s: Spread
    f32_ops_per_s: Spread
    buffer_bytes: int

    def __add__(self, other: Limits) -> Limits:
        """The measurements of both: taken before and after something, they also say what changed.

        Raises:
            ValueError: They are not of the same number of threads.
        """
        if self.threads != other.threads:
            raise ValueError(f"limits of {self.threads} and of {other.threads} threads")
        return Limits(
            self.threads,
            self.read_bytes_per_s + other.read_bytes_per_s,
            self.int8_ops_per_s + other.int8_ops_per_s,
            self.bf16_ops_per_s + other.bf16_ops_per_s,
            self.f32_ops_per_s + other.f32_ops_per_s,
            self.buffer_bytes,
        )


def measure(threads: int, progress: compiler.Progress | None = None) -> Limits:
    """Measures this machine; takes about a second, once its loops are compiled.

    Args:
        threads: How many threads work together, at least 1.
        progress: Told what is being compiled, if anything is.

    Raises:
        OutOfMemory: There is no room for a buffer that is larger than the caches.
    """
    functions = _functions(progress)
    with ThreadPoolExecutor(threads, "boli-limit") as pool:
        crew = _Crew(pool, threads)
        size = _buffer_bytes() // threads // _LINE * _LINE
        reading = _reading(crew, functions["read"], size)
        peaks = {kind: _multiplying(crew, functions[kind], kind) for kind in KINDS}
    return Limits(threads, reading, peaks["int8"], peaks["bf16"], peaks["f32"], size * threads)


class Glances:
    """The memory's speed, looked at again and again beside other work: some 8 ms each time.

    Args:
        threads: How many read together, at least 1.

    Raises:
        OutOfMemory: As `measure`.
    """

    def __init__(self, threads: int) -> None:
        self._function = _functions(None)["read"]
        self._pool = ThreadPoolExecutor(threads, "boli-glance")
        self._crew = _Crew(self._pool, threads)
        self._size = _buffer_bytes() // threads // _LINE * _LINE
        self._parts = _written(self._crew, self._size)
        self._samples: list[float] = []

    def look(self) -> None:
        """Reads a buffer that is larger than the caches, once."""
        places = [part.ctypes.data for part in self._parts]
        spans = self._crew.spans(lambda number: self._function(places[number], self._size))
        # Whose processor is busy begins later: of a single look that would be a part.
        self._samples.append(self._crew.threads * self._size / max(end - start for start, end in spans))

    def close(self) -> tuple[float, ...]:
        """Gives the memory back; returns the bytes a second of each look."""
        self._pool.shutdown()
        self._parts.clear()
        return tuple(self._samples)


def largest_cache_bytes() -> int:
    """The last cache of this processor; 32 MiB if the system does not say."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        if text.endswith("K") and text[:-1].isdecimal():
            sizes.append(int(text[:-1]) * 1024)
    return max(sizes, default=32 << 20)


def _buffer_bytes() -> int:
    wanted = min(max(LEAST_BUFFER, TIMES_THE_CACHE * largest_cache_bytes()), MOST_BUFFER)
    available = memory_available()
    if available < 2 * wanted:
        raise OutOfMemory(
            f"measuring the memory needs {wanted >> 20} MiB, and {available >> 20} MiB are free",
            cause="a smaller buffer would measure the caches",
            remedy="close other programs",
        )
    return wanted


def by_registers(kind: Kind) -> bool:
    """Whether operands are tile registers, not vectors."""
    return kind == "bf16" and target.tile_registers()


def tile_of(kind: Kind) -> tuple[int, int]:
    """Operands by operands whose sums fit into the registers: 8 of tiles, 32 of 512 bits, or 16 of 256."""
    if by_registers(kind):
        return 2, 2
    return (4, 4) if target.features().get("avx512f") else (2, 3)


@functools.cache
def _version() -> str:
    """Names the kernels' text: the compiler's own key covers the engine's kernels only."""
    source = Path(__file__).with_name("limit_kernels.py").read_bytes()
    return hashlib.sha256(source).hexdigest()[:8]


def _functions(progress: compiler.Progress | None) -> dict[str, compiler.Function]:
    def products(kind: Kind) -> Callable[..., Any]:
        from boli.cpu import limit_kernels  # noqa: PLC0415  imports Numba

        return limit_kernels.products(kind, tile_of(kind))

    def read() -> Callable[..., Any]:
        from boli.cpu import limit_kernels  # noqa: PLC0415  imports Numba

        return limit_kernels.read()

    units = [compiler.Unit(f"limit_read_{_version()}", 2, read)]
    for kind in KINDS:
        units.append(compiler.Unit(f"limit_{kind}_{_version()}", 3, functools.partial(products, kind)))
    return dict(zip(("read", *KINDS), compiler.load(units, progress), strict=True))


class _Crew:
    """Threads that start together.

    Args:
        pool: Has at least as many.
        threads: How many.
    """

    def __init__(self, pool: ThreadPoolExecutor, threads: int) -> None:
        self._pool, self.threads = pool, threads

    def seconds(self, call: Callable[[int], object]) -> float:
        """From the first start to the last end of `call(0) … call(threads - 1)`."""
        starts, ends = zip(*self.spans(call), strict=True)
        return float(max(ends) - min(starts))

    def spans(self, call: Callable[[int], object]) -> list[tuple[float, float]]:
        """Start and end of each of `call(0) … call(threads - 1)`."""
        barrier = threading.Barrier(self.threads)

        def one(number: int) -> tuple[float, float]:
            barrier.wait()
            start = time.perf_counter()
            call(number)
            return start, time.perf_counter()

        try:
            jobs = [self._pool.submit(one, number) for number in range(self.threads)]
            return [job.result() for job in jobs]
        except BaseException:  # Ctrl-C: let nobody wait for who will not come
            barrier.abort()
            raise


def _reading(crew: _Crew, function: compiler.Function, size: int) -> Spread:
    """Bytes a second, each thread reading `size` bytes of its own."""
    parts = _written(crew, size)
    places = [part.ctypes.data for part in parts]
    seconds = [crew.seconds(lambda number: function(places[number], size)) for _ in range(SAMPLES)]
    return Spread(tuple(crew.threads * size / taken for taken in seconds))


def _written(crew: _Crew, size: int) -> list[npt.NDArray[np.uint8]]:
    """Memory for each thread to read."""
    parts = [_aligned(size) for _ in range(crew.threads)]
    # Each thread writes what it will read: pages lie near it, and none is the system's page of zeros.
    crew.seconds(lambda number: parts[number].fill(number + 1))
    return parts


def _multiplying(crew: _Crew, function: compiler.Function, kind: Kind) -> Spread:
    """Operations a second."""
    rows, columns = tile_of(kind)
    operand, operations = VECTOR_BYTES, OPERATIONS[kind]
    if by_registers(kind):
        operand, operations = REGISTER, REGISTER_OPERATIONS
    size = OPERAND_STEPS * max(rows, columns) * operand
    operands = [_operands(kind, size) for _ in range(2 * crew.threads)]
    places = [array.ctypes.data for array in operands]

    def seconds(count: int) -> float:
        return crew.seconds(lambda n: function(places[2 * n], places[2 * n + 1], count))

    count = 20_000
    while (taken := seconds(count)) < SAMPLE_SECONDS / 4:
        count *= 4
    count = max(1, int(count * SAMPLE_SECONDS / taken))
    work = crew.threads * count * rows * columns * operations
    return Spread(tuple(work / seconds(count) for _ in range(SAMPLES)))


def _operands(kind: Kind, size: int) -> npt.NDArray[np.uint8]:
    """Numbers of both signs around 1, so that no sum is a denormal or an infinity."""
    raw = _aligned(size)
    numbers = np.random.default_rng(0).uniform(0.5, 1.5, size // 4).astype(np.float32)
    numbers[::2] *= -1
    if kind == "int8":
        raw[...] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    elif kind == "bf16":
        halves = (numbers.view(np.uint32) >> 16).astype(np.uint16)
        raw.view(np.uint16)[...] = np.tile(halves, 2)
    else:
        raw.view(np.float32)[...] = numbers
    return raw


def _aligned(size: int) -> npt.NDArray[np.uint8]:
    """Bytes that start at a page."""
    raw = np.empty(size + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + size]
