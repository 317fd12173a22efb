"""The inner loops of all matrix products: `rows` activations times `blocks` blocks of 16 weights.

A tile keeps its sums in registers and reads every weight once. Its code is written out by Python
loops over rows and blocks, so the two counts are compile-time constants and LLVM sees straight
lines. Two kinds: float weights times float activations, and integer quants times int8 activations.

One arithmetic per row. Whatever the tile's size, each output is computed by the same operations in
the same order:

    float    y = fma(w[k], a[k], y)                                              k = 0, 1, 2, …
    integer  y = fma(float(Σ (quant - zero) · a), scale_w · scale_a, y)          one group after another
             y = fma(minimum, scale_a · Σ a, y)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from boli.cpu import simd
from boli.cpu.layouts import FloatLayout, IntLayout
from boli.cpu.simd import F32, F32X16, I8X64, I16X32, I32, I32X16, I64, LANES, Builder, Value

VECTOR_BYTES = 64


def _offset(b: Builder, base: Value, *terms: Value | int) -> Value:
    """`base` plus bytes."""
    for term in terms:
        base = b.add(base, ir.Constant(I64, term) if isinstance(term, int) else term)
    return base


def _broadcast_i32(b: Builder, address: Value) -> Value:
    return simd.splat(b, simd.emit_load(b, address, I32, 4), I32X16)


def _broadcast_f32(b: Builder, address: Value) -> Value:
    return simd.splat(b, simd.emit_load(b, address, F32, 4), F32X16)


@contextmanager
def _accumulators(
    b: Builder, rows: int, blocks: int, y: Value, y_stride: Value, accumulate: Value
) -> Iterator[dict[tuple[int, int], Value]]:
    """Sums that start at zero and are stored to `y` at the end, or added to what is there."""
    keys = [(row, block) for row in range(rows) for block in range(blocks)]
    sums = {key: cgutils.alloca_once(b, F32X16) for key in keys}
    for place in sums.values():  # the tile may stand in a loop: start afresh each time
        b.store(ir.Constant(F32X16, [0.0] * LANES), place)
    yield sums
    addresses = {
        (row, block): simd.pointer(
            b,
            _offset(b, y, b.mul(y_stride, ir.Constant(I64, row)), block * VECTOR_BYTES),
            F32X16,
        )
        for row, block in keys
    }
    with b.if_else(b.icmp_signed("!=", accumulate, ir.Constant(I64, 0))) as (then, otherwise):
        with then:
            for key in keys:
                old = b.load(addresses[key], align=4)
                b.store(b.fadd(old, b.load(sums[key])), addresses[key], align=4)
        with otherwise:
            for key in keys:
                b.store(b.load(sums[key]), addresses[key], align=4)


def float_tile(layout: FloatLayout, rows: int, blocks: int) -> Any:
    """Numba function `(weights, block_stride, depth, activations, row_stride, y, y_stride, accumulate)`.

    Addresses and strides are int64 bytes; activations are float32, `depth` of them a row.
    """
    read = {
        "f32": lambda b, address: simd.emit_load(b, address, F32X16, 4),
        "f16": simd.emit_load_f16,
        "bf16": simd.emit_load_bf16,
    }[layout.element]
    step = layout.element_bytes * LANES

    def emit(
        b: Builder,
        weights: Value,
        block_stride: Value,
        depth: Value,
        activations: Value,
        row_stride: Value,
        y: Value,
        y_stride: Value,
        accumulate: Value,
    ) -> None:
        starts = [_offset(b, weights, b.mul(block_stride, ir.Constant(I64, n))) for n in range(blocks)]
        rows_at = [_offset(b, activations, b.mul(row_stride, ir.Constant(I64, m))) for m in range(rows)]
        with _accumulators(b, rows, blocks, y, y_stride, accumulate) as sums:
            with cgutils.for_range(b, depth, intp=I64) as loop:
                at = b.mul(loop.index, ir.Constant(I64, step))
                w = [read(b, _offset(b, start, at)) for start in starts]
                k = b.mul(loop.index, ir.Constant(I64, 4))
                for m in range(rows):
                    a = _broadcast_f32(b, _offset(b, rows_at[m], k))
                    for n in range(blocks):
                        place = sums[m, n]
                        b.store(simd.emit_fma(b, w[n], a, b.load(place)), place)

    emit.__name__ = f"float_tile_{layout.name}_{rows}x{blocks}"
    return simd.operation(simd.void, *([simd.i64] * 8))(emit)


def int_tile(layout: IntLayout, rows: int, blocks: int) -> Any:
    """Numba function `(weights, block_stride, depth, zero, quants, row_stride, meta, y, y_stride, accumulate)`.

    Addresses and strides are int64 bytes. `quants` are the int8 activations of the first row and
    `meta` its `depth` scales (float32), then `depth` sums Σ a (int32), then `depth` products
    scale · Σ a (float32); `row_stride` leads from one row's to the next one's, for both.
    """
    scales = simd.emit_load_f16 if layout.scale == "f16" else _load_f32x16
    vectors = layout.quant_bytes // VECTOR_BYTES

    def emit(
        b: Builder,
        weights: Value,
        block_stride: Value,
        depth: Value,
        zero: Value,
        quants: Value,
        row_stride: Value,
        meta: Value,
        y: Value,
        y_stride: Value,
        accumulate: Value,
    ) -> None:
        starts = [_offset(b, weights, b.mul(block_stride, ir.Constant(I64, n))) for n in range(blocks)]
        quants_at = [_offset(b, quants, b.mul(row_stride, ir.Constant(I64, m))) for m in range(rows)]
        meta_at = [_offset(b, meta, b.mul(row_stride, ir.Constant(I64, m))) for m in range(rows)]
        column = b.mul(depth, ir.Constant(I64, 4))
        minus_zero = b.trunc(b.neg(zero), I32)
        with _accumulators(b, rows, blocks, y, y_stride, accumulate) as sums:
            with cgutils.for_range(b, depth, intp=I64) as loop:
                at = b.mul(loop.index, ir.Constant(I64, layout.group_bytes))
                group = [_offset(b, start, at) for start in starts]
                inputs = b.mul(loop.index, ir.Constant(I64, layout.group))
                entry = b.mul(loop.index, ir.Constant(I64, 4))
                dots = {}
                for m in range(rows):
                    total = simd.emit_load(b, _offset(b, meta_at[m], column, entry), I32, 4)
                    # Σ (quant - zero) · a = Σ quant · a - zero · Σ a, all in integers.
                    start = simd.splat(b, b.mul(total, minus_zero), I32X16)
                    dots.update({(m, n): start for n in range(blocks)})
                for vector in range(vectors):
                    for n in range(blocks):
                        raw = simd.emit_load(b, _offset(b, group[n], vector * VECTOR_BYTES), I8X64, 1)
                        for part, unsigned in enumerate(_unsigned(b, raw, layout.bits)):
                            quad = vector * (2 if layout.bits == 4 else 1) + part
                            for m in range(rows):
                                a = _broadcast_i32(b, _offset(b, quants_at[m], inputs, 4 * quad))
                                dots[m, n] = simd.emit_dot(b, dots[m, n], unsigned, a)
                for n in range(blocks):
                    scale = scales(b, _offset(b, group[n], layout.quant_bytes))
                    if layout.minimum:
                        low = scales(b, _offset(b, group[n], layout.quant_bytes + layout.scale_bytes))
                    for m in range(rows):
                        place = sums[m, n]
                        both = b.fmul(scale, _broadcast_f32(b, _offset(b, meta_at[m], entry)))
                        value = simd.emit_fma(b, b.sitofp(dots[m, n], F32X16), both, b.load(place))
                        if layout.minimum:
                            shift = _broadcast_f32(b, _offset(b, meta_at[m], column, column, entry))
                            value = simd.emit_fma(b, low, shift, value)
                        b.store(value, place)

    emit.__name__ = f"int_tile_{layout.name}_{rows}x{blocks}"
    return simd.operation(simd.void, *([simd.i64] * 10))(emit)


def _load_f32x16(b: Builder, address: Value) -> Value:
    return simd.emit_load(b, address, F32X16, 4)


def _unsigned(b: Builder, raw: Value, bits: int) -> list[Value]:
    """64 bytes as they are, or as 64 low and 64 high nibbles."""
    if bits == 8:
        return [raw]
    mask = ir.Constant(I8X64, [15] * (4 * LANES))
    shifted = b.lshr(b.bitcast(raw, I16X32), ir.Constant(I16X32, [4] * (2 * LANES)))
    return [b.and_(raw, mask), b.and_(b.bitcast(shifted, I8X64), mask)]
