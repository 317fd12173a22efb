"""How activations lie in memory for the matrix products: one stream for each tile of rows.

The rows of a step are cut into tiles of at most six. In a tile, the numbers of all rows that are
needed together lie together, so that the inner loops of `tiles.py` read one stream from front to
end. Three encodings of the same rows, one for each kind of product:

    int8       for each 32 inputs: [rows] records of 32 int8, the scale, -Σ a, scale · Σ a, and -Σ a of halves
    float32    for each input: [rows]
    bfloat16   for each two inputs: pairs [rows], rounded and kept as float32 where nothing multiplies pairs;
               for tile registers, for each 32 inputs: [rows] of 16 pairs
"""

from __future__ import annotations

import numpy as np

from boli.cpu import plan as p
from boli.cpu.amx import in_registers
from boli.cpu.dots import PAIR, PAIRS_AS_FLOATS
from boli.cpu.lanes import (
    broadcast,
    largest_magnitude,
    mul,
    small_int,
    store_bf16,
    store_bf16_pairs,
    store_rounded_pairs,
    sum_of,
)
from boli.cpu.layouts import GROUP
from boli.cpu.simd import (
    kernel,
    load,
    load_f32,
    load_i64,
    store_f32,
    store_i8,
    store_i32,
    to_f32,
)
from boli.cpu.sizes import (
    F4,
    LARGEST_TILE,
    MINUS_HALF_SUMS,
    MINUS_SUM,
    RECORD,
    SCALE,
    SCALED_SUM,
    VECTOR,
)

IN_REGISTERS = in_registers("bfloat16")
store_pairs = store_rounded_pairs if PAIRS_AS_FLOATS else store_bf16_pairs
ONE_127TH = np.float32(1 / 127)


@kernel
def tile_of(row, rows):
    """First row and size of the tile that a row of a step belongs to."""
    if rows <= p.FEW_ROWS:
        return 0, rows
    start = row // LARGEST_TILE * LARGEST_TILE
    left = rows - start
    if left >= LARGEST_TILE:
        return start, LARGEST_TILE
    size = 4 if left >= 4 else 2 if left >= 2 else 1
    if row < start + size:
        return start, size
    return start + size, left - size


@kernel
def quantize(source, first, end, stream, rows, lane):
    """Groups `first … end - 1` of one row to int8: a ≈ scale · q with scale = max |a| / 127.

    Args:
        source: The row, float32.
        first: The first of its groups of 32.
        end: The group behind the last.
        stream: The tile.
        rows: Its size.
        lane: Which of its rows this is.
    """
    for group in range(first, end):
        low = load(source + group * GROUP * F4)
        high = load(source + group * GROUP * F4 + VECTOR)
        largest = largest_magnitude(low, high)
        scale = largest * ONE_127TH
        inverse = broadcast(to_f32(127) / largest if largest > 0.0 else to_f32(0))
        q_low, q_high = small_int(mul(low, inverse)), small_int(mul(high, inverse))
        record = stream + (group * rows + lane) * RECORD
        store_i8(record, q_low)
        store_i8(record + 16, q_high)
        store_f32(record + SCALE * F4, scale)
        sum_low, sum_high = sum_of(q_low), sum_of(q_high)
        total = sum_low + sum_high
        store_i32(record + MINUS_SUM * F4, -total)
        store_f32(record + SCALED_SUM * F4, scale * to_f32(total))
        store_i32(record + MINUS_HALF_SUMS * F4, -sum_low & 0xFFFF | -sum_high << 16)


@kernel
def spread(source, first, end, stream, rows, lane):
    """Groups of one row as float32."""
    word = F4 * rows
    for k in range(first * GROUP, end * GROUP):
        store_f32(stream + k * word + lane * F4, load_f32(source + k * F4))


@kernel
def pair(source, first, end, stream, rows, lane):
    """Groups of one row as pairs of bfloat16."""
    word = PAIR * rows
    for half in range(2 * first, 2 * end):  # of a group: a vector, eight pairs
        values = load(source + half * VECTOR)
        if IN_REGISTERS:
            record = stream + (half // 2 * rows + lane) * VECTOR
            store_bf16(record + half % 2 * (VECTOR // 2), values)
        else:
            store_pairs(stream + half * 8 * word + lane * PAIR, word, values)


@kernel
def encode(table, wanted, row, rows, source, columns, first, end):
    """Groups `first … end - 1` of one row of a step, in each encoding that is wanted.

    Args:
        table: Addresses of the int8, float32 and bfloat16 streams of the step.
        wanted: A bit for each.
        row: Which row.
        rows: How many the step has.
        source: The row's numbers, float32.
        columns: How many there are, a multiple of 32.
        first: The first group.
        end: The group behind the last.
    """
    start, size = tile_of(row, rows)
    if wanted & 1:
        stream = load_i64(table) + start * (columns // GROUP) * RECORD
        quantize(source, first, end, stream, size, row - start)
    if wanted & 2:
        spread(source, first, end, load_i64(table + 8) + start * columns * F4, size, row - start)
    if wanted & 4:
        pair(source, first, end, load_i64(table + 16) + start * columns // 2 * PAIR, size, row - start)
