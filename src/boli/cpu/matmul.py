"""Matrix products and embedding look-ups, one pair of compiled functions a packed layout.

    project   y[m, n] (+)= Σ_k w[n, k] a[m, k]   for a range of blocks of 16 outputs n
    look_up   one row of the matrix, as float32: the embedding of a token

Threads split the blocks among themselves; each thread reads its own weights once for every four
rows. The tile sizes are a matter of speed only (see `tiles.py`: one arithmetic per row).
"""

from __future__ import annotations

from typing import Any

from numba import njit

from boli.cpu import simd
from boli.cpu.layouts import LANES, ROWS_PER_BLOCK, VECTORS, FloatLayout, IntLayout, Layout
from boli.cpu.simd import load_bf16_scalar, load_f16_scalar, load_f32, load_u8, store_f32
from boli.cpu.tiles import float_tile, int_tile

BLOCK_OUTPUT_BYTES = ROWS_PER_BLOCK * 4
VECTOR_BYTES = 64
LINE = VECTORS * VECTOR_BYTES


def project(layout: Layout) -> Any:
    """The matrix product of one layout, as a Python function for Numba to compile.

    Its arguments, all int64: `weights, block_stride, depth, zero, activations, meta, row_stride,
    y, y_stride, rows, first_block, end_block, accumulate`. Float layouts ignore `zero` and `meta`.
    """
    tile_1, tile_2, tile_4 = _tile(layout, 1), _tile(layout, 2), _tile(layout, 4)

    def run(
        weights, block_stride, depth, zero, activations, meta, row_stride,
        y, y_stride, rows, first_block, end_block, accumulate,
    ):  # fmt: skip
        for block in range(first_block, end_block):
            w = weights + block * block_stride
            out = y + block * BLOCK_OUTPUT_BYTES
            row = 0
            while row < rows:
                a = activations + row * row_stride
                m = meta + row * row_stride
                o = out + row * y_stride
                if rows - row >= 4:
                    tile_4(w, depth, zero, a, row_stride, m, o, y_stride, accumulate)
                    row += 4
                elif rows - row >= 2:
                    tile_2(w, depth, zero, a, row_stride, m, o, y_stride, accumulate)
                    row += 2
                else:
                    tile_1(w, depth, zero, a, row_stride, m, o, y_stride, accumulate)
                    row += 1

    return run


def _tile(layout: Layout, rows: int) -> Any:
    """A tile with the arguments of an integer tile; float tiles ignore two of them."""
    if isinstance(layout, IntLayout):
        return int_tile(layout, rows)
    tile = float_tile(layout, rows)

    @njit(inline="always")
    def adapted(weights, depth, zero, activations, row_stride, meta, y, y_stride, accumulate):
        tile(weights, depth, activations, row_stride, y, y_stride, accumulate)

    return adapted


def look_up(layout: Layout) -> Any:
    """The embedding look-up of one layout, as a Python function for Numba to compile.

    Its arguments, all int64: `weights, block_stride, columns, zero, row, destination`; it writes
    `columns` float32.
    """
    if isinstance(layout, FloatLayout):
        element_bytes = layout.element_bytes
        read = {"f32": load_f32, "f16": load_f16_scalar, "bf16": load_bf16_scalar}[layout.element]

        def run_float(weights, block_stride, columns, zero, row, destination):
            start = weights + (row // ROWS_PER_BLOCK) * block_stride + (row % ROWS_PER_BLOCK) * element_bytes
            for k in range(columns):
                store_f32(destination + 4 * k, read(start + k * ROWS_PER_BLOCK * element_bytes))

        return run_float

    group, bits, has_minimum = layout.group, layout.bits, layout.minimum
    group_bytes, quant_bytes, scale_bytes = layout.group_bytes, layout.quant_bytes, layout.scale_bytes
    number_bytes = 2 if layout.scale == "f16" else 4
    number = load_f16_scalar if layout.scale == "f16" else load_f32

    def run_int(weights, block_stride, columns, zero, row, destination):
        start = weights + (row // ROWS_PER_BLOCK) * block_stride
        within = row % ROWS_PER_BLOCK
        # Vectors of 16 rows take turns, four bytes a row.
        place_in_line = (within // LANES) * VECTOR_BYTES + within % LANES * 4
        for k in range(columns):
            place = start + (k // group) * group_bytes
            inner = k % group
            if bits == 8:
                quant = load_u8(place + (inner // 4) * LINE + place_in_line + inner % 4)
            else:
                quant = load_u8(place + (inner // 8) * LINE + place_in_line + inner % 4)
                quant = (quant >> 4) if inner % 8 >= 4 else (quant & 15)
            scales = place + quant_bytes + within * number_bytes
            value = number(scales) * simd.to_f32(quant - zero)
            if has_minimum:
                value += number(scales + scale_bytes)
            store_f32(destination + 4 * k, value)

    return run_int
