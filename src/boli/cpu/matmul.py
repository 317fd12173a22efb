"""Matrix products and embedding look-ups, compiled functions for each packed layout.

    project   y[m, n] (+)= Σ_k w[n, k] a[m, k]   for a range of blocks of 32 outputs n
    look_up   one row of the matrix, as float32: the embedding of a token

A block of weights is multiplied with all rows, tile after tile, before the next one: it is read from
memory once. Each tile unpacks it in registers; for many rows that is done once, into a panel in the
cache. Both, and the sizes of tiles, are a matter of speed only (see `tiles.py`: one arithmetic per row).
"""

from __future__ import annotations

from typing import Any

from numba import njit

from boli.cpu import amx_tiles, simd
from boli.cpu.amx import in_registers
from boli.cpu.amx_tiles import TILES
from boli.cpu.dots import PAIR, PAIRS_AS_FLOATS
from boli.cpu.layouts import (
    GROUP,
    LANES,
    LINE,
    ROWS_PER_BLOCK,
    SUPER,
    VECTORS,
    IntLayout,
    Layout,
    PairLayout,
)
from boli.cpu.simd import kernel, load_bf16_scalar, load_f16_scalar, load_f32, load_u8, store_f32
from boli.cpu.sizes import F4, LARGEST_TILE, MANY_ROWS, RECORD, SOME_ROWS
from boli.cpu.target import fetches_by_itself
from boli.cpu.tiles import MOST_SHARES, int_tile, product_tile, share_of, unpack_tile

BLOCK_OUTPUT_BYTES = ROWS_PER_BLOCK * 4

share = kernel(share_of)


def _tile(layout: Layout, rows: int, tiles: int = 1) -> Any:
    """A tile, or some at once, with the arguments of an integer tile, whatever the layout."""
    if isinstance(layout, IntLayout):
        return int_tile(layout, rows)
    if in_registers(layout.encoding):
        tile = amx_tiles.product_tile(rows, tiles)
    elif isinstance(layout, PairLayout) and PAIRS_AS_FLOATS:
        tile = product_tile("bf16_floats", rows, row_stride=PAIR, step=PAIR * rows)
    else:
        tile = product_tile(layout.name, rows)
    stride = layout.block_bytes(GROUP) // layout.depth(GROUP)
    fetches = not fetches_by_itself()

    @njit(inline="always")
    def adapted(weights, depth, activations, y, y_stride, accumulate, ahead, part):
        tile(weights, stride, depth, activations, y, y_stride, accumulate, ahead, part if fetches else 0)

    return adapted


def _row_bytes(layout: Layout) -> int:
    """Bytes of activations of one row for one step of depth."""
    return RECORD if isinstance(layout, IntLayout) else PAIR if isinstance(layout, PairLayout) else F4


def _step_bytes(layout: Layout) -> int:
    """Bytes of weights of one block for one step of depth, with what is shared by some steps."""
    return layout.block_bytes(GROUP * SUPER) // layout.depth(GROUP * SUPER)


def project(layout: Layout) -> Any:
    """The matrix product of one layout, as a Python function for Numba to compile.

    Its arguments, all int64: `weights, block_stride, depth, activations, y, y_stride, first_row, end_row,
    first_block, end_block, accumulate, panel`. `activations` and `y` are those of row 0; a tile begins at
    `first_row`. Of many rows a block whose quants lie in pieces is first unpacked, to bytes, into the panel.
    """
    one, two, three, four, six = (_tile(layout, rows) for rows in (1, 2, 3, 4, LARGEST_TILE))
    row_bytes, step_bytes = _row_bytes(layout), _step_bytes(layout)
    unpack: Any = None
    six_bytes: Any = None
    if isinstance(layout, IntLayout) and layout.base < 8:
        unpack, six_bytes = unpack_tile(layout), int_tile(layout.panel, LARGEST_TILE)
    unpacks = unpack is not None
    together = in_registers(layout.encoding)
    sixes: Any = _tile(layout, LARGEST_TILE, TILES) if together else None
    at_once = TILES * LARGEST_TILE if together else LARGEST_TILE
    least = 3 if fetches_by_itself() else 1

    def run(
        weights, block_stride, depth, activations, y, y_stride, first_row, end_row, first_block, end_block,
        accumulate, panel,
    ):  # fmt: skip
        step = depth * row_bytes  # from one row's activations to the next one's
        activations += first_row * step
        y += first_row * y_stride
        rows = end_row - first_row
        in_bytes = unpacks and rows >= MANY_ROWS
        # A processor may read one row's weights as fast as it can by itself. None fetches far enough where
        # each line is computed with for longer: here tiles fetch what lies behind this block, each its share.
        # Of more than a few rows the first waits for memory itself; unpacked, one tile fetches all.
        before = 1 if rows > SOME_ROWS else 0
        turns = min((rows + at_once - 1) // at_once - before, 1 if in_bytes else MOST_SHARES)
        turns = turns if rows >= least else 0
        ahead = block_stride if rows > SOME_ROWS else depth * step_bytes
        for block in range(first_block, end_block):
            w = weights + block * block_stride
            out = y + block * BLOCK_OUTPUT_BYTES
            row, turn = 0, -before
            if in_bytes:
                unpack(w, depth, panel)
            while rows - row >= LARGEST_TILE:
                a, place, part = activations + row * step, out + row * y_stride, share(turn, turns)
                if together and rows - row >= TILES * LARGEST_TILE:
                    sixes(w, depth, a, place, y_stride, accumulate, ahead, part)
                    row += (TILES - 1) * LARGEST_TILE
                elif in_bytes and part == 0:
                    six_bytes(panel, depth, a, place, y_stride, accumulate, 0, 0)
                else:
                    six(w, depth, a, place, y_stride, accumulate, ahead, part)
                row += LARGEST_TILE
                turn += 1
            left = rows - row
            a, place, part = activations + row * step, out + row * y_stride, share(turn, turns)
            if left == 3 and rows == 3:
                three(w, depth, a, place, y_stride, accumulate, ahead, part)
                continue
            if left >= 4:
                four(w, depth, a, place, y_stride, accumulate, ahead, part)
                row += 4
            elif left >= 2:
                two(w, depth, a, place, y_stride, accumulate, ahead, part)
                row += 2
            if row < rows:
                a, place = activations + row * step, out + row * y_stride
                one(w, depth, a, place, y_stride, accumulate, ahead, part if left == 1 else 0)

    return run


def look_up(layout: Layout) -> Any:
    """The embedding look-up of one layout, as a Python function for Numba to compile.

    Its arguments, all int64: `weights, block_stride, depth, row, columns, destination, panel`; it
    writes `columns` float32.
    """
    if isinstance(layout, IntLayout):
        return _look_up_integers(layout)
    is_pair = isinstance(layout, PairLayout)
    size = 2 if is_pair else layout.element_bytes  # type: ignore[union-attr]
    read = {2: load_bf16_scalar if is_pair else load_f16_scalar, 4: load_f32}[size]
    per_step = 2 if is_pair else 1

    def run(weights, block_stride, depth, row, columns, destination, panel):
        start = weights + (row // ROWS_PER_BLOCK) * block_stride + (row % ROWS_PER_BLOCK) * size * per_step
        for k in range(columns):
            place = start + (k // per_step) * ROWS_PER_BLOCK * size * per_step + (k % per_step) * size
            store_f32(destination + 4 * k, read(place))

    return run


def _look_up_integers(layout: IntLayout) -> Any:
    """Unpacks the row's block, and takes the row out: its neighbours cost next to nothing."""
    unpack, panel_layout = unpack_tile(layout), layout.panel
    step_bytes, quant_bytes = panel_layout.step_bytes, panel_layout.quant_bytes
    parts, group, zero, minimum = layout.parts, layout.group, layout.zero, layout.minimum

    def run(weights, block_stride, depth, row, columns, destination, panel):
        unpack(weights + (row // ROWS_PER_BLOCK) * block_stride, depth, panel)
        within = row % ROWS_PER_BLOCK
        place_in_line = (within // LANES) * LINE + within % LANES * 4
        for k in range(columns):
            step = panel + (k // GROUP) * step_bytes
            quant = load_u8(step + (k % GROUP) // 4 * VECTORS * LINE + place_in_line + k % 4)
            scale = step + quant_bytes + ((k % GROUP) // group * ROWS_PER_BLOCK + within) * 4
            value = load_f32(scale) * simd.to_f32(quant - zero)
            if minimum:
                value += load_f32(scale + parts * ROWS_PER_BLOCK * 4)
            store_f32(destination + 4 * k, value)

    return run
