"""The inner loops of all matrix products: some rows of activations times a block of 32 weights.

A tile keeps its sums in registers and reads every weight once. Its code is written out by Python
loops, so the number of rows is a compile-time constant and LLVM sees straight lines. Two kinds:
float weights times float activations, and integer quants times int8 activations.

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
from boli.cpu.layouts import LANES, VECTORS, FloatLayout, IntLayout
from boli.cpu.simd import F32, F32X16, I8X64, I16X32, I32, I32X16, I64, Builder, Value

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


def _zeros(b: Builder, rows: int) -> Sums:
    """Sums of each row and vector of outputs; LLVM keeps them in registers."""
    sums = {(m, n): cgutils.alloca_once(b, F32X16) for m in range(rows) for n in range(VECTORS)}
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


def float_tile(layout: FloatLayout, rows: int) -> Any:
    """A Numba function of int64 arguments, in the order of `emit`.

    Addresses and strides are bytes; activations are float32, `depth` of them a row.
    """
    read = _READ[layout.element]
    vector = layout.element_bytes * LANES

    def emit(
        b: Builder,
        weights: Value,
        depth: Value,
        activations: Value,
        row_stride: Value,
        y: Value,
        y_stride: Value,
        accumulate: Value,
    ) -> None:
        rows_at = _each(b, activations, row_stride, rows)
        sums = _zeros(b, rows)
        with cgutils.for_range(b, depth, intp=I64) as loop:
            start = _offset(b, weights, b.mul(loop.index, ir.Constant(I64, vector * VECTORS)))
            w = [read(b, _offset(b, start, vector * n)) for n in range(VECTORS)]
            k = b.mul(loop.index, ir.Constant(I64, 4))
            for m in range(rows):
                a = _broadcast_f32(b, _offset(b, rows_at[m], k))
                for n in range(VECTORS):
                    b.store(simd.emit_fma(b, w[n], a, b.load(sums[m, n])), sums[m, n])
        _finish(b, sums, y, y_stride, accumulate)

    emit.__name__ = f"float_tile_{layout.name}_{rows}"
    return simd.operation(simd.void, *([simd.i64] * 7))(emit)


def int_tile(layout: IntLayout, rows: int) -> Any:
    """A Numba function of int64 arguments, in the order of `emit`.

    Addresses and strides are bytes. `quants` are the int8 activations of the first row and `meta`
    its `depth` scales (float32), then `depth` sums Σ a (int32), then `depth` products scale · Σ a
    (float32); `row_stride` leads from one row's to the next one's, for both.
    """
    read = _READ[layout.scale]
    scale_vector = layout.scale_bytes // VECTORS

    def emit(
        b: Builder,
        weights: Value,
        depth: Value,
        zero: Value,
        quants: Value,
        row_stride: Value,
        meta: Value,
        y: Value,
        y_stride: Value,
        accumulate: Value,
    ) -> None:
        quants_at, meta_at = _each(b, quants, row_stride, rows), _each(b, meta, row_stride, rows)
        column = b.mul(depth, ir.Constant(I64, 4))
        minus_zero = b.trunc(b.neg(zero), I32)
        sums = _zeros(b, rows)
        with cgutils.for_range(b, depth, intp=I64) as loop:
            group = _offset(b, weights, b.mul(loop.index, ir.Constant(I64, layout.group_bytes)))
            inputs = b.mul(loop.index, ir.Constant(I64, layout.group))
            entry = b.mul(loop.index, ir.Constant(I64, 4))
            dots = {}
            for m in range(rows):
                # Σ (quant - zero) · a = Σ quant · a - zero · Σ a, all in integers.
                total = simd.emit_load(b, _offset(b, meta_at[m], column, entry), I32, 4)
                start = simd.splat(b, b.mul(total, minus_zero), I32X16)
                dots.update({(m, n): start for n in range(VECTORS)})
            for quad, n, unsigned in _quads(b, group, layout):
                for m in range(rows):
                    a = _broadcast_i32(b, _offset(b, quants_at[m], inputs, 4 * quad))
                    dots[m, n] = simd.emit_dot(b, dots[m, n], unsigned, a)
            scales = _offset(b, group, layout.quant_bytes)
            for m in range(rows):
                scale_a = _broadcast_f32(b, _offset(b, meta_at[m], entry))
                sum_a = _broadcast_f32(b, _offset(b, meta_at[m], column, column, entry))
                for n in range(VECTORS):
                    both = b.fmul(read(b, _offset(b, scales, n * scale_vector)), scale_a)
                    value = simd.emit_fma(b, b.sitofp(dots[m, n], F32X16), both, b.load(sums[m, n]))
                    if layout.minimum:
                        low = read(b, _offset(b, scales, layout.scale_bytes + n * scale_vector))
                        value = simd.emit_fma(b, low, sum_a, value)
                    b.store(value, sums[m, n])
        _finish(b, sums, y, y_stride, accumulate)

    emit.__name__ = f"int_tile_{layout.name}_{rows}"
    return simd.operation(simd.void, *([simd.i64] * 9))(emit)


def _load_f32x16(b: Builder, address: Value) -> Value:
    return simd.emit_load(b, address, F32X16, 4)


_READ = {"f32": _load_f32x16, "f16": simd.emit_load_f16, "bf16": simd.emit_load_bf16}


def _quads(b: Builder, group: Value, layout: IntLayout) -> Iterator[tuple[int, int, Value]]:
    """The quants of a group: index of the four inputs, vector of outputs, 64 unsigned bytes."""
    mask = ir.Constant(I8X64, [15] * (4 * LANES))
    four = ir.Constant(I16X32, [4] * (2 * LANES))
    for line in range(layout.quant_bytes // VECTOR_BYTES):
        quad, n = divmod(line, VECTORS)
        raw = simd.emit_load(b, _offset(b, group, line * VECTOR_BYTES), I8X64, 1)
        if layout.bits == 8:
            yield quad, n, raw
            continue
        high = b.bitcast(b.lshr(b.bitcast(raw, I16X32), four), I8X64)
        yield 2 * quad, n, b.and_(raw, mask)
        yield 2 * quad + 1, n, b.and_(high, mask)
