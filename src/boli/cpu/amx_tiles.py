"""Products of bfloat16 numbers in tile registers: attention's two, and of weights in pairs.

They have the arguments of the tiles that they are used in place of (`tiles.py`), and one arithmetic for
any number of rows, that of `amx.py`. A register has a tile's rows of activations, queries or probabilities,
or of their sums; another has 16 rows of pairs as they lie in a block of weights (`layouts.py`) or, of keys
or values, in a page (`kv.py`). A tile always has six rows: with fewer the last are what lies behind it in
memory, and nobody looks at their sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from boli.cpu import simd
from boli.cpu.amx import LEFT, RIGHT, SUMS, emit_load, emit_multiply, emit_store, emit_zero
from boli.cpu.layouts import VECTORS
from boli.cpu.simd import F32, F32X16, I8X64, I64, Builder, Value
from boli.cpu.sizes import F4, LARGEST_TILE, QUERY_STRIDE
from boli.cpu.tiles import LINE, VECTOR_BYTES, fetch, offset

PAIRS = VECTOR_BYTES // F4  # in a row of a register
TILES = len(LEFT)  # that are multiplied together at most


def _sums(tile: int) -> Sequence[int]:
    """The registers of one tile's sums."""
    return SUMS[tile * VECTORS : (tile + 1) * VECTORS]


def _multiply(
    b: Builder, right: Value, right_stride: Value, lefts: Sequence[Value], left_stride: int
) -> None:
    """Adds the products of some tiles and 16 rows of 32 pairs to their sums."""
    for register, left in zip(LEFT, lefts, strict=False):
        emit_load(b, register, left, left_stride)
    for n, register in enumerate(RIGHT):
        emit_load(b, register, offset(b, right, n * VECTOR_BYTES), right_stride)
        for tile in range(len(lefts)):
            emit_multiply(b, _sums(tile)[n], LEFT[tile], register)


def _store(b: Builder, address: Value, stride: Value | int, tile: int = 0) -> None:
    """A tile's sums: six rows of 32 numbers."""
    for n, register in enumerate(_sums(tile)):
        emit_store(b, register, offset(b, address, n * VECTOR_BYTES), stride)


def _room(b: Builder) -> Value:
    """The address of a place for six rows of 32 numbers; anything may be in it."""
    with b.goto_entry_block():  # once, and not filled with zeros, as `alloca_once` does
        room = b.alloca(ir.ArrayType(I8X64, LARGEST_TILE * VECTORS))
    room.align = VECTOR_BYTES
    return b.ptrtoint(room, I64)


def _row(b: Builder, y: Value, stride: Value, row: int) -> Value:
    return offset(b, y, b.mul(stride, ir.Constant(I64, row)))


def _copy(
    b: Builder, sums: Value, rows: int, y: Value, y_stride: Value, combine: Callable[..., Value]
) -> None:
    """Some rows of 32 sums to `y`: each combined with what is there, given its row."""
    for m in range(rows):
        for n in range(VECTORS):
            place = simd.pointer(b, offset(b, _row(b, y, y_stride, m), n * VECTOR_BYTES), F32X16)
            value = simd.emit_load(b, offset(b, sums, m * LINE + n * VECTOR_BYTES), F32X16, 4)
            b.store(combine(m, b.load(place, align=4), value), place, align=4)


def product_tile(rows: int, tiles: int = 1) -> Any:
    """In place of `tiles.product_tile`, for weights in pairs, and some tiles of `rows` rows in a row.

    Reads as many bytes of activations as for six rows.
    """

    def emit(
        b: Builder, weights: Value, weight_stride: Value, depth: Value, activations: Value,
        y: Value, y_stride: Value, accumulate: Value, ahead: Value, share: Value,
    ) -> None:  # fmt: skip
        emit_zero(b, SUMS[: tiles * VECTORS])
        tile_bytes = b.mul(depth, ir.Constant(I64, F4 * rows))
        with cgutils.for_range(b, b.udiv(depth, ir.Constant(I64, PAIRS)), intp=I64) as loop:
            right = offset(b, weights, b.mul(loop.index, ir.Constant(I64, PAIRS * LINE)))
            fetch(b, right, ahead, share, PAIRS * LINE)
            left = offset(b, activations, b.mul(loop.index, ir.Constant(I64, rows * VECTOR_BYTES)))
            lefts = [offset(b, left, b.mul(tile_bytes, ir.Constant(I64, tile))) for tile in range(tiles)]
            _multiply(b, right, weight_stride, lefts, VECTOR_BYTES)
        room, places = _room(b), [_row(b, y, y_stride, tile * rows) for tile in range(tiles)]
        with b.if_else(b.icmp_signed("!=", accumulate, ir.Constant(I64, 0))) as (then, otherwise):
            with then:
                for tile, place in enumerate(places):
                    _store(b, room, LINE, tile)
                    _copy(b, room, rows, place, y_stride, lambda _, before, total: b.fadd(before, total))
            with otherwise:
                for tile, place in enumerate(places):
                    if rows == LARGEST_TILE:
                        _store(b, place, y_stride, tile)
                    else:
                        _store(b, room, LINE, tile)
                        _copy(b, room, rows, place, y_stride, lambda _, before, total: total)

    emit.__name__ = f"amx_product_tile_{rows}_{tiles}"
    return simd.operation(simd.void, *([simd.i64] * 9))(emit)


def score_tile() -> Any:
    """In place of attention's `product_tile`: y = queries · keys, of six queries."""

    def emit(
        b: Builder, keys: Value, keys_stride: Value, depth: Value, queries: Value,
        y: Value, y_stride: Value, _: Value, ahead: Value, share: Value,
    ) -> None:  # fmt: skip
        emit_zero(b, _sums(0))
        with cgutils.for_range(b, b.udiv(depth, ir.Constant(I64, PAIRS)), intp=I64) as loop:
            right = offset(b, keys, b.mul(b.mul(loop.index, ir.Constant(I64, PAIRS)), keys_stride))
            fetch(b, right, ahead, share, PAIRS * LINE)
            left = offset(b, queries, b.mul(loop.index, ir.Constant(I64, VECTOR_BYTES)))
            _multiply(b, right, keys_stride, [left], QUERY_STRIDE)
        _store(b, y, y_stride)

    emit.__name__ = "amx_score_tile"
    return simd.operation(simd.void, *([simd.i64] * 9))(emit)


def mixing_tile(rows: int) -> Any:
    """In place of `tiles.mixing_tile`, for a page: y ← y · shrink + Σ w a, of `rows` queries."""

    def emit(
        b: Builder, values: Value, values_stride: Value, _: Value, probabilities: Value,
        y: Value, y_stride: Value, shrink: Value, ahead: Value, share: Value,
    ) -> None:  # fmt: skip
        emit_zero(b, _sums(0))
        fetch(b, values, ahead, share, PAIRS * LINE)
        _multiply(b, values, values_stride, [probabilities], LINE)
        room = _room(b)
        _store(b, room, LINE)
        factors = [
            simd.splat(b, simd.emit_load(b, offset(b, shrink, F4 * m), F32, 4), F32X16) for m in range(rows)
        ]
        _copy(
            b, room, rows, y, y_stride, lambda m, before, mixed: simd.emit_fma(b, before, factors[m], mixed)
        )

    emit.__name__ = f"amx_mixing_tile_{rows}"
    return simd.operation(simd.void, *([simd.i64] * 9))(emit)
