"""The inner loops of all matrix products: some rows of activations times a block of 32 weights.

A tile keeps its sums in registers and reads every weight once. Its code is written out by Python
loops, so the number of rows is a compile-time constant and LLVM sees straight lines. Activations
lie like the weights, in one stream in the order in which they are read (see `activations.py`).
Three kinds, by what is multiplied: floats, pairs of bfloat16, and integers.

One arithmetic per row. Whatever the tile's size, each output is computed by the same operations in
the same order:

    float    y = fma(w[k], a[k], y)                                              k = 0, 1, 2, …
    pair     y = y + w[k] a[k] + w[k+1] a[k+1], as `dots.emit_dot_bf16` does it  k = 0, 2, 4, …
    integer  y = fma(float(Σ (quant - zero) · a), scale_w · scale_a, y)          one group after another
             y = fma(minimum, scale_a · Σ a, y)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from boli.cpu import simd
from boli.cpu.dots import emit_dot, emit_dot_bf16, emit_halves
from boli.cpu.layouts import LANES, VECTORS, IntLayout
from boli.cpu.simd import F32, F32X16, I8X16, I32, I32X16, I64, Builder, Value
from boli.cpu.sizes import (
    F4,
    LARGEST_TILE,
    MINUS_HALF_SUMS,
    MINUS_SUM,
    RECORD,
    SCALE,
    SCALED_SUM,
)
from boli.cpu.unpacking import Step

VECTOR_BYTES = 64
LINE = VECTORS * VECTOR_BYTES
MOST_SHARES = 3


def offset(b: Builder, base: Value, *terms: Value | int) -> Value:
    """`base` plus bytes."""
    for term in terms:
        base = b.add(base, ir.Constant(I64, term) if isinstance(term, int) else term)
    return base


def _broadcast_i32(b: Builder, address: Value) -> Value:
    return simd.splat(b, simd.emit_load(b, address, I32, 4), I32X16)


def _broadcast_f32(b: Builder, address: Value) -> Value:
    return simd.splat(b, simd.emit_load(b, address, F32, 4), F32X16)


def _integers(value: int) -> ir.Constant:
    return ir.Constant(I32X16, [value] * LANES)


def _half_sum(b: Builder, address: Value, part: int, shift: int = 0) -> Value:
    """One of a record's two sums of 16 bits, times 2^shift, in all lanes."""
    both = _broadcast_i32(b, address)
    upper = b.and_(both, _integers(-1 << 16)) if part else b.shl(both, _integers(16))
    return b.ashr(upper, _integers(16 - shift))


Sums = dict[tuple[int, int], Value]


def _zeros(b: Builder, rows: int) -> Sums:
    """Sums of each row and vector of outputs; LLVM keeps them in registers."""
    sums = {(m, n): cgutils.alloca_once(b, F32X16) for m in range(rows) for n in range(VECTORS)}
    for place in sums.values():  # the tile may stand in a loop: start afresh each time
        b.store(ir.Constant(F32X16, [0.0] * LANES), place)
    return sums


def _places(b: Builder, sums: Sums, y: Value, y_stride: Value) -> dict[tuple[int, int], Value]:
    """Where the sums belong in `y`."""
    addresses = {
        (m, n): offset(b, y, b.mul(y_stride, ir.Constant(I64, m)), n * VECTOR_BYTES) for m, n in sums
    }
    return {key: simd.pointer(b, address, F32X16) for key, address in addresses.items()}


def _finish(b: Builder, sums: Sums, y: Value, y_stride: Value, accumulate: Value) -> None:
    """Stores the sums to `y`, or adds them to what is there."""
    places = _places(b, sums, y, y_stride)
    with b.if_else(b.icmp_signed("!=", accumulate, ir.Constant(I64, 0))) as (then, otherwise):
        with then:
            for key, total in sums.items():
                b.store(b.fadd(b.load(places[key], align=4), b.load(total)), places[key], align=4)
        with otherwise:
            for key, total in sums.items():
                b.store(b.load(total), places[key], align=4)


class Element:
    """How a kind of weights is read, and multiplied with activations.

    Attributes:
        bytes: Bytes of one vector of 16 weights, or of 16 pairs.
        read: Emits the load of a vector.
        broadcast: Emits the load of one activation, or of a pair, into all lanes.
        multiply: Emits total + weights · activations.
    """

    def __init__(self, size: int, read: Any, broadcast: Any, multiply: Any) -> None:
        self.bytes, self.read, self.broadcast, self.multiply = size, read, broadcast, multiply


def _fma(b: Builder, total: Value, weights: Value, activation: Value) -> Value:
    return simd.emit_fma(b, weights, activation, total)


def _load_f32x16(b: Builder, address: Value) -> Value:
    return simd.emit_load(b, address, F32X16, 4)


def _load_pairs(b: Builder, address: Value) -> Value:
    return simd.emit_load(b, address, I32X16, 4)


def _load_i8x16(b: Builder, address: Value) -> Value:
    return b.sitofp(b.sext(simd.emit_load(b, address, I8X16, 1), I32X16), F32X16)


def _load_halves(b: Builder, address: Value) -> tuple[Value, Value]:
    return emit_halves(b, _load_pairs(b, address))


def _broadcast_halves(distance: int) -> Any:
    """Loads the two activations of a pair, float32, of which the upper lies so far behind the lower."""

    def broadcast(b: Builder, address: Value) -> tuple[Value, Value]:
        return _broadcast_f32(b, offset(b, address, distance)), _broadcast_f32(b, address)

    return broadcast


def _fma_halves(b: Builder, total: Value, weights: Iterable[Value], activations: Iterable[Value]) -> Value:
    """The sum of `emit_dot_bf16` without an instruction for it."""
    for weight, activation in zip(weights, activations, strict=True):
        total = _fma(b, total, weight, activation)
    return total


# The last two are pairs, too, for activations that lie as float32: those of a pair next to each other, or 16
# lower ones before 16 upper ones. Without an instruction for pairs these need not be taken apart.
ELEMENTS = {
    "f32": Element(64, _load_f32x16, _broadcast_f32, _fma),
    "f16": Element(32, simd.emit_load_f16, _broadcast_f32, _fma),
    "i8": Element(16, _load_i8x16, _broadcast_f32, _fma),
    "bf16": Element(64, _load_pairs, _broadcast_i32, emit_dot_bf16),
    "bf16_floats": Element(64, _load_halves, _broadcast_halves(F4), _fma_halves),
    "bf16_halves": Element(64, _load_halves, _broadcast_halves(VECTOR_BYTES), _fma_halves),
}


def _multiply(
    b: Builder, sums: Sums, element: Element, weights: Value, weight_stride: Value, depth: Value,
    activations: Value, rows: int, row_stride: int, step: int, behind: tuple[Value, Value] | None = None,
) -> None:  # fmt: skip
    """Adds `depth` products to the sums; strides and step are bytes."""
    with cgutils.for_range(b, depth, intp=I64) as loop:
        start = offset(b, weights, b.mul(loop.index, weight_stride))
        if behind is not None:
            fetch(b, start, *behind, element.bytes * VECTORS)
        w = [element.read(b, offset(b, start, element.bytes * n)) for n in range(VECTORS)]
        inputs = offset(b, activations, b.mul(loop.index, ir.Constant(I64, step)))
        for m in range(rows):
            a = element.broadcast(b, offset(b, inputs, row_stride * m))
            for n in range(VECTORS):
                b.store(element.multiply(b, b.load(sums[m, n]), w[n], a), sums[m, n])


def fetch(b: Builder, start: Value, ahead: Value, share: Value, count: int) -> None:
    """Asks for lines of `count` bytes that lie `ahead` of what is read.

    A core has room for some sixteen lines on their way, and who asks for more waits. So the tiles of a block
    share out what comes next: of each step of `count` bytes one asks for all lines, for a half, or a third.
    `share` says which, as `share_of` counts; with 0 it is none.
    """
    lines = -(-count // VECTOR_BYTES)
    behind = b.append_basic_block("fetched")
    switch = b.switch(share, behind)
    for turns in range(1, MOST_SHARES + 1):
        for turn in range(turns):
            case = b.append_basic_block(f"fetch_{turn}_of_{turns}")
            switch.add_case(ir.Constant(I64, share_of(turn, turns)), case)
            b.position_at_end(case)
            for line in range(turn * lines // turns, (turn + 1) * lines // turns):
                simd.emit_prefetch(b, offset(b, start, ahead, line * VECTOR_BYTES))
            b.branch(behind)
    b.position_at_end(behind)


def share_of(turn: int, turns: int) -> int:
    """The number of share `turn` of `turns`, for `fetch`: 1 of 1, 2 and 3 of 2, 4 to 6 of 3; else 0."""
    return turns * (turns - 1) // 2 + turn + 1 if 0 <= turn < turns else 0


def product_tile(kind: str, rows: int, *, row_stride: int = 4, step: int = 0) -> Any:
    """A Numba function of int64 arguments, in the order of `emit`; `depth` counts inputs, or pairs.

    Weights lie `weight_stride` bytes apart. Activations of different rows lie `row_stride` bytes apart,
    of different inputs `step`; by default those of one input lie together, a row each. `ahead` and `share`
    are those of `fetch`.
    """
    element, step = ELEMENTS[kind], step or 4 * rows

    def emit(
        b: Builder, weights: Value, weight_stride: Value, depth: Value, activations: Value,
        y: Value, y_stride: Value, accumulate: Value, ahead: Value, share: Value,
    ) -> None:  # fmt: skip
        sums = _zeros(b, rows)
        _multiply(
            b, sums, element, weights, weight_stride, depth, activations, rows, row_stride, step,
            (ahead, share),
        )  # fmt: skip
        _finish(b, sums, y, y_stride, accumulate)

    emit.__name__ = f"product_tile_{kind}_{rows}"
    return simd.operation(simd.void, *([simd.i64] * 9))(emit)


def mixing_tile(kind: str, rows: int) -> Any:
    """Like `product_tile`, for attention's weighted sums: y ← y · shrink + Σ w a.

    The activations of a row lie together, 128 bytes a row; `shrink` has a number for each row. `ahead` and
    `share` are those of `fetch`.
    """
    element = ELEMENTS[kind]

    def emit(
        b: Builder, weights: Value, weight_stride: Value, depth: Value, activations: Value,
        y: Value, y_stride: Value, shrink: Value, ahead: Value, share: Value,
    ) -> None:  # fmt: skip
        sums = _zeros(b, rows)
        places = _places(b, sums, y, y_stride)
        for (m, n), place in places.items():
            factor = _broadcast_f32(b, offset(b, shrink, F4 * m))
            b.store(b.fmul(b.load(place, align=4), factor), sums[m, n])
        _multiply(b, sums, element, weights, weight_stride, depth, activations, rows, LINE, 4, (ahead, share))
        for key, place in places.items():
            b.store(b.load(sums[key]), place, align=4)

    emit.__name__ = f"mixing_tile_{kind}_{rows}"
    return simd.operation(simd.void, *([simd.i64] * 9))(emit)


def int_tile(layout: IntLayout, rows: int) -> Any:
    """A Numba function of int64 arguments, in the order of `emit`; `depth` counts groups of 32 inputs.

    `ahead` and `share` are those of `fetch`.
    """

    def emit(
        b: Builder, weights: Value, depth: Value, activations: Value,
        y: Value, y_stride: Value, accumulate: Value, ahead: Value, share: Value,
    ) -> None:  # fmt: skip
        sums = _zeros(b, rows)
        with cgutils.for_range(b, depth, intp=I64) as loop:
            # A tile of few rows waits for memory, one of many computes.
            step = Step(b, layout, weights, loop.index, in_order=rows < LARGEST_TILE)
            fetch(b, step.start, ahead, share, layout.step_bytes)
            stream = offset(b, activations, b.mul(loop.index, ir.Constant(I64, RECORD * rows)))

            def entry(index: int, m: int, stream: Value = stream) -> Value:
                return offset(b, stream, m * RECORD + index * F4)

            for part in range(layout.parts):
                halves = layout.parts == 2
                dots = {}
                for m in range(rows):
                    start = _integers(0)
                    if layout.zero:
                        # Σ (quant - zero) · a = Σ quant · a - zero · Σ a, all in integers.
                        shift = layout.zero.bit_length() - 1
                        if halves:
                            start = _half_sum(b, entry(MINUS_HALF_SUMS, m), part, shift)
                        else:
                            start = b.shl(_broadcast_i32(b, entry(MINUS_SUM, m)), _integers(shift))
                    dots.update({(m, n): start for n in range(VECTORS)})
                for quad, n, unsigned in step.quads(part):
                    for m in range(rows):
                        a = _broadcast_i32(b, entry(quad, m))
                        dots[m, n] = emit_dot(b, dots[m, n], unsigned, a, bits=layout.quant_bits)
                scales, minimums = step.numbers(part)
                for m in range(rows):
                    scale_a = _broadcast_f32(b, entry(SCALE, m))
                    if layout.minimum and halves:
                        total = b.sub(_integers(0), _half_sum(b, entry(MINUS_HALF_SUMS, m), part))
                        scaled = b.fmul(scale_a, b.sitofp(total, F32X16))
                    elif layout.minimum:
                        scaled = _broadcast_f32(b, entry(SCALED_SUM, m))
                    for n in range(VECTORS):
                        both = b.fmul(scales[n], scale_a)
                        value = simd.emit_fma(b, b.sitofp(dots[m, n], F32X16), both, b.load(sums[m, n]))
                        if layout.minimum:
                            value = simd.emit_fma(b, minimums[n], scaled, value)
                        b.store(value, sums[m, n])
        _finish(b, sums, y, y_stride, accumulate)

    emit.__name__ = f"int_tile_{layout.name}_{rows}"
    return simd.operation(simd.void, *([simd.i64] * 8))(emit)


def unpack_tile(layout: IntLayout) -> Any:
    """A Numba function `(weights, depth, panel)`: a block of any integer layout as its `panel` layout."""
    target = layout.panel

    def emit(b: Builder, weights: Value, depth: Value, panel: Value) -> None:
        with cgutils.for_range(b, depth, intp=I64) as loop:
            step = Step(b, layout, weights, loop.index)
            place = offset(b, panel, b.mul(loop.index, ir.Constant(I64, target.step_bytes)))
            end = target.quant_bytes
            for part in range(layout.parts):
                for quad, n, unsigned in step.quads(part):
                    at = offset(b, place, (quad * VECTORS + n) * VECTOR_BYTES)
                    b.store(unsigned, simd.pointer(b, at, unsigned.type), align=1)
                for column, vectors in enumerate(step.numbers(part)):
                    for n, vector in enumerate(vectors):
                        at = offset(b, place, end + (column * layout.parts + part) * LINE + n * VECTOR_BYTES)
                        b.store(vector, simd.pointer(b, at, F32X16), align=4)

    emit.__name__ = f"unpack_tile_{layout.name}"
    return simd.operation(simd.void, *([simd.i64] * 3))(emit)
