"""The machine's limits: that the loops do the work they are timed for, and that the numbers make sense."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from numpy.typing import NDArray

from boli.cpu import limits
from boli.cpu.limits import KINDS, OPERAND_STEPS, READ_STEP, Kind, Limits, Spread
from boli.errors import OutOfMemory


@functools.cache
def measured(threads: int) -> Limits:
    return limits.measure(threads)


def digest(sums: NDArray[np.generic]) -> int:
    """What the kernels return: the lanes of all sums, as bits, one upon the other."""
    return int(np.bitwise_xor.reduce(np.ascontiguousarray(sums).view(np.uint32).reshape(-1)))


def test_the_reading_loop_reads_every_byte() -> None:
    random = np.random.default_rng(0)
    memory = limits._aligned(5 * READ_STEP)
    memory[...] = random.integers(0, 256, len(memory), np.uint8)
    read = limits._functions(None)["read"]
    words = memory.view(np.uint32).reshape(5, -1)
    assert read(memory.ctypes.data, len(memory)) == digest(words.sum(axis=0, dtype=np.uint32))
    before = read(memory.ctypes.data, len(memory))
    for place in (0, 1234, len(memory) - 1):
        memory[place] ^= 1
        assert read(memory.ctypes.data, len(memory)) != before
        memory[place] ^= 1


def operands(kind: Kind, vectors: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Whole numbers, so that every sum is exact: as the kernel reads them, and `[steps, vectors, 16, n]`."""
    random, size = np.random.default_rng(seed), OPERAND_STEPS * vectors * 64
    raw = limits._aligned(size)
    if kind == "int8":
        raw[...] = random.integers(0, 256, size, np.uint8)
        numbers = raw.astype(np.float64) if seed == 0 else raw.view(np.int8).astype(np.float64)
    else:
        numbers = random.integers(-9, 10, size // (2 if kind == "bf16" else 4)).astype(np.float64)
        single = numbers.astype(np.float32)
        if kind == "bf16":
            raw.view(np.uint16)[...] = (single.view(np.uint32) >> 16).astype(np.uint16)
        else:
            raw.view(np.float32)[...] = single
    return raw, numbers.reshape(OPERAND_STEPS, vectors, 16, -1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, OPERAND_STEPS + 3])
def test_the_loops_of_products_do_all_products(kind: Kind, count: int) -> None:
    rows, columns = limits.tile_of(kind)
    if limits.by_registers(kind):  # 16 rows of pairs times 16 rows of pairs, transposed
        products, vectors = "iakp,jklp->ijal", 16
    else:
        products, vectors = "ialp,jalp->ijl", 1
    left, x = operands(kind, rows * vectors, 0)
    right, y = operands(kind, columns * vectors, 1)
    x, y = (part.reshape(OPERAND_STEPS, -1, vectors, *part.shape[2:]) for part in (x, y))
    steps = np.arange(count) % OPERAND_STEPS
    sums = np.sum([np.einsum(products, x[step], y[step]) for step in steps], axis=0)
    multiply = limits._functions(None)[kind]
    expected = sums.astype(np.int32 if kind == "int8" else np.float32)
    assert multiply(left.ctypes.data, right.ctypes.data, count) == digest(expected)


def test_the_numbers_make_sense() -> None:
    one = measured(1)
    assert one.threads == 1
    assert one.buffer_bytes >= 4 * limits.largest_cache_bytes() or one.buffer_bytes > 900 << 20
    for spread in (one.read_bytes_per_s, one.int8_ops_per_s, one.bf16_ops_per_s, one.f32_ops_per_s):
        assert 0 < spread.min <= spread.median <= spread.max < 1e16
    assert one.int8_ops_per_s.max > 1e9


def test_two_threads_do_not_stand_in_each_others_way() -> None:
    assert measured(2).int8_ops_per_s.max > 0.5 * measured(1).int8_ops_per_s.max
    assert measured(2).read_bytes_per_s.max > 0.5 * measured(1).read_bytes_per_s.max


def test_measurements_are_put_together() -> None:
    both = Spread((1.0, 5.0)) + Spread((3.0,))
    assert (both.median, both.min, both.max) == (3.0, 1.0, 5.0)
    whole = measured(1) + measured(1)
    assert len(whole.f32_ops_per_s.samples) == 2 * limits.SAMPLES
    with pytest.raises(ValueError, match="1 and of 2"):
        measured(1) + measured(2)


def test_a_machine_without_memory_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "memory_available", lambda: 1 << 20)
    with pytest.raises(OutOfMemory, match="1 MiB are free"):
        limits.measure(1)
