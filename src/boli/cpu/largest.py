"""The head: logits, and the likeliest token of each row, found by the threads that compute them.

A thread looks through some blocks of each row as soon as it has computed them, while they are in its cache.
A finding is an index, and two findings become one by comparing the logits that they point to. So neither
the number of threads nor who computed what changes the result, which is that of NumPy's `argmax`.

`DOUBT` says that a logit is NaN or infinite: it is for the sampler to say what is wrong.
"""

from __future__ import annotations

from llvmlite import ir

from boli.cpu import plan as p
from boli.cpu.lanes import broadcast, fma, keep_lanes, maximum, reduce_add, reduce_max, small_int
from boli.cpu.layouts import ROWS_PER_BLOCK
from boli.cpu.simd import (
    F32X16,
    I32,
    I32X16,
    I64,
    LANES,
    Builder,
    Value,
    declare,
    f32,
    f32x16,
    i32x16,
    i64,
    kernel,
    load,
    load_f32,
    load_i64,
    operation,
    splat,
    store_i64,
)
from boli.cpu.sizes import F4
from boli.cpu.stages import project_blocks, streams
from boli.cpu.sync import first_share, next_share

NOTHING, DOUBT = -2, -1
LEAST = float("-inf")
BLOCKS_AT_ONCE = 256  # of all rows together: 32 KiB


@operation(i32x16, f32x16, f32x16, i64, i32x16)
def place_of_larger(b: Builder, x: Value, best: Value, place: Value, before: Value) -> Value:
    """`place` in the lanes in which `x` is larger than `best`, and `before` in the others."""
    return b.select(b.fcmp_ordered(">", x, best), splat(b, b.trunc(place, I32), I32X16), before)


@operation(i64, f32x16, i32x16, f32)
def lowest_place(b: Builder, best: Value, places: Value, largest: Value) -> Value:
    """The lowest of `places`, each counted from its lane, among the lanes that hold `largest`."""
    numbers = b.add(places, ir.Constant(I32X16, list(range(LANES))))
    holds = b.fcmp_ordered("==", best, splat(b, largest, F32X16))
    numbers = b.select(holds, numbers, ir.Constant(I32X16, [0x7FFFFFFF] * LANES))
    lowest = declare(b, "llvm.vector.reduce.smin.v16i32", I32, I32X16)
    return b.sext(b.call(lowest, [numbers]), I64)


@kernel
def largest_of(row, first, end):
    """The index of the largest of logits `first … end - 1` of a row, the lowest of equals."""
    best, places = broadcast(LEAST), small_int(broadcast(0.0))
    doubt = broadcast(0.0)
    whole = end - end % LANES
    for at in range(first, whole, LANES):
        x = load(row + at * F4)
        doubt = fma(x, broadcast(0.0), doubt)  # 0 as long as all are finite, then NaN
        places = place_of_larger(x, best, at, places)
        best = maximum(x, best)
    if whole < end:  # what pads the vocabulary is a logit, too, of 0, and might be the largest
        x = load(row + whole * F4)
        doubt = fma(x, broadcast(0.0), doubt)
        x = keep_lanes(x, 0, end - whole)
        places = place_of_larger(x, best, whole, places)
        best = maximum(x, best)
    if reduce_add(doubt) != 0.0:
        return DOUBT
    return lowest_place(best, places, reduce_max(best))


@kernel
def larger(row, one, other):
    """Which of two findings in a row holds."""
    low, high = min(one, other), max(one, other)
    if low < 0:
        return DOUBT if low == DOUBT else high
    return high if load_f32(row + high * F4) > load_f32(row + low * F4) else low


@kernel
def project_logits(plan, thread, outputs):
    """Logits of the rows that are asked for, and the likeliest token that this thread saw of each."""
    control, threads = load_i64(plan + p.CONTROL), load_i64(plan + p.THREADS)
    matrix, table = load_i64(plan + p.HEAD), streams(plan, thread, outputs)
    logits, stride = load_i64(plan + p.LOGITS), load_i64(plan + p.LOGITS_STRIDE)
    found, vocabulary = load_i64(plan + p.LARGEST), load_i64(plan + p.VOCABULARY)
    found += thread * outputs * p.WORD if found != 0 else 0
    for n in range(outputs if found != 0 else 0):
        store_i64(found + n * p.WORD, NOTHING)
    blocks, most = load_i64(matrix + p.BLOCKS), max(BLOCKS_AT_ONCE // max(outputs, 1), 1)
    first, end = first_share(control, thread, threads, blocks)
    while first < end:
        for block in range(first, end, most):
            stop = min(block + most, end)
            project_blocks(plan, thread, matrix, table, logits, stride, 0, outputs, block, stop, 0)
            for n in range(outputs if found != 0 else 0):
                row, place = logits + n * stride, found + n * p.WORD
                here = largest_of(row, block * ROWS_PER_BLOCK, min(stop * ROWS_PER_BLOCK, vocabulary))
                store_i64(place, larger(row, load_i64(place), here))
        first, end = next_share(control, thread, threads, blocks)


@kernel
def agree(plan, outputs):
    """Puts together what the threads found, into the findings of the first; once they all are done."""
    logits, stride = load_i64(plan + p.LOGITS), load_i64(plan + p.LOGITS_STRIDE)
    found, threads = load_i64(plan + p.LARGEST), load_i64(plan + p.THREADS)
    for n in range(outputs if found != 0 else 0):
        for thread in range(1, threads):
            other = load_i64(found + (thread * outputs + n) * p.WORD)
            place = found + n * p.WORD
            store_i64(place, larger(logits + n * stride, load_i64(place), other))
