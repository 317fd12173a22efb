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


def _each(b: Builder, base: Value, stride: Value, count: int) -> list[Value]:
    """Addresses of `count` things that are `stride` bytes apart."""
    return [_offset(b, base, b.mul(stride, ir.Constant(I64, n))) for n in range(count)]


Sums = dict[tuple[int, int], Value]


def _zeros(b: Builder, rows: int, blocks: int) -> Sums:
    """One vector of sums for each row and block; LLVM keeps them in registers."""
    sums = {(m, n): cgutils.alloca_once(b, F32X16) for m in range(rows) for n in range(blocks)}
    for place in sums.values():  # the tile may stand in a loop: start afresh each time
        b.store(ir.Constant(F32X16, [0.0] * LANES), place)
    return sums


def _finish(b: Builder, sums: Sums, y: Value, y_stride: Value, accumulate: Value) -> None:
    """Stores the sums to `y`, or adds them to what is there."""
    places = {(m, n): _offset(b, y, b.mul(y_stride, ir.Constant(I64, m)), n * VECTOR_BYTES) for m, n in sums}
    addresses = {key: simd.pointer(b, place, F32X16) for key, place in places.items()}
    with b.if_else(b.icmp_signed("!=", accumulate, ir.Constant(I64, 0))) as (then, otherwise):
        with then:
            for key, total in sums.items():
                b.store(b.fadd(b.load(addresses[key], align=4), b.load(total)), addresses[key], align=4)
        with otherwise:
            for key, total in sums.items():
                b.store(b.load(total), addresses[key], align=4)


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
        weights_at = _each(b, weights, block_stride, blocks)
        rows_at = _each(b, activations, row_stride, rows)
        sums = _zeros(b, rows, blocks)
        with cgutils.for_range(b, depth, intp=I64) as loop:
            at = b.mul(loop.index, ir.Constant(I64, step))
            w = [read(b, _offset(b, start, at)) for start in weights_at]
            k = b.mul(loop.index, ir.Constant(I64, 4))
            for m in range(rows):
                a = _broadcast_f32(b, _offset(b, rows_at[m], k))
                for n in range(blocks):
                    b.store(simd.emit_fma(b, w[n], a, b.load(sums[m, n])), sums[m, n])
        _finish(b, sums, y, y_stride, accumulate)

    emit.__name__ = f"float_tile_{layout.name}_{rows}x{blocks}"
    return simd.operation(simd.void, *([simd.i64] * 8))(emit)


def int_tile(layout: IntLayout, rows: int, blocks: int) -> Any:
    """A Numba function of int64 arguments, in the order of `emit`.

    Addresses and strides are int64 bytes. `quants` are the int8 activations of the first row and
    `meta` its `depth` scales (float32), then `depth` sums Σ a (int32), then `depth` products
    scale · Σ a (float32); `row_stride` leads from one row's to the next one's, for both.
    """
    read = simd.emit_load_f16 if layout.scale == "f16" else _load_f32x16

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
        weights_at = _each(b, weights, block_stride, blocks)
        quants_at, meta_at = _each(b, quants, row_stride, rows), _each(b, meta, row_stride, rows)
        column = b.mul(depth, ir.Constant(I64, 4))
        minus_zero = b.trunc(b.neg(zero), I32)
        sums = _zeros(b, rows, blocks)
        with cgutils.for_range(b, depth, intp=I64) as loop:
            at = b.mul(loop.index, ir.Constant(I64, layout.group_bytes))
            group = [_offset(b, start, at) for start in weights_at]
            inputs = b.mul(loop.index, ir.Constant(I64, layout.group))
            entry = b.mul(loop.index, ir.Constant(I64, 4))
            dots = {}
            for m in range(rows):
                # Σ (quant - zero) · a = Σ quant · a - zero · Σ a, all in integers.
                total = simd.emit_load(b, _offset(b, meta_at[m], column, entry), I32, 4)
                start = simd.splat(b, b.mul(total, minus_zero), I32X16)
                dots.update({(m, n): start for n in range(blocks)})
            for quad, n, unsigned in _quads(b, group, layout):
                for m in range(rows):
                    a = _broadcast_i32(b, _offset(b, quants_at[m], inputs, 4 * quad))
                    dots[m, n] = simd.emit_dot(b, dots[m, n], unsigned, a)
            for n in range(blocks):
                scale = read(b, _offset(b, group[n], layout.quant_bytes))
                low = (
                    read(b, _offset(b, group[n], layout.quant_bytes + layout.scale_bytes))
                    if layout.minimum
                    else None
                )
                for m in range(rows):
                    both = b.fmul(scale, _broadcast_f32(b, _offset(b, meta_at[m], entry)))
                    value = simd.emit_fma(b, b.sitofp(dots[m, n], F32X16), both, b.load(sums[m, n]))
                    if low is not None:
                        shift = _broadcast_f32(b, _offset(b, meta_at[m], column, column, entry))
                        value = simd.emit_fma(b, low, shift, value)
                    b.store(value, sums[m, n])
        _finish(b, sums, y, y_stride, accumulate)

    emit.__name__ = f"int_tile_{layout.name}_{rows}x{blocks}"
    return simd.operation(simd.void, *([simd.i64] * 10))(emit)


def _load_f32x16(b: Builder, address: Value) -> Value:
    return simd.emit_load(b, address, F32X16, 4)


def _quads(b: Builder, group: list[Value], layout: IntLayout) -> Iterator[tuple[int, int, Value]]:
    """The quants of a group: index of the four inputs, block, 64 unsigned bytes."""
    mask = ir.Constant(I8X64, [15] * (4 * LANES))
    four = ir.Constant(I16X32, [4] * (2 * LANES))
    for vector in range(layout.quant_bytes // VECTOR_BYTES):
        for n, start in enumerate(group):
            raw = simd.emit_load(b, _offset(b, start, vector * VECTOR_BYTES), I8X64, 1)
            if layout.bits == 8:
                yield vector, n, raw
                continue
            high = b.bitcast(b.lshr(b.bitcast(raw, I16X32), four), I8X64)
            yield 2 * vector, n, b.and_(raw, mask)
            yield 2 * vector + 1, n, b.and_(high, mask)
