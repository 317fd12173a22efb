"""Arithmetic on vectors of 16 lanes, as functions for compiled code."""

from __future__ import annotations

import struct
from collections.abc import Callable

from llvmlite import ir

from boli.cpu.simd import (
    F32,
    F32X16,
    I16X16,
    I16X32,
    I32,
    I32X16,
    I64,
    LANES,
    Builder,
    Value,
    declare,
    emit_fma,
    f32,
    f32x16,
    i32x16,
    i64,
    operation,
    pointer,
    splat,
    void,
)


@operation(f32x16, f32)
def broadcast(b: Builder, value: Value) -> Value:
    """The same number in all lanes."""
    return splat(b, value, F32X16)


@operation(f32x16, f32x16, f32x16)
def add(b: Builder, x: Value, y: Value) -> Value:
    """`x + y`."""
    return b.fadd(x, y)


@operation(f32x16, f32x16, f32x16)
def sub(b: Builder, x: Value, y: Value) -> Value:
    """`x - y`."""
    return b.fsub(x, y)


@operation(f32x16, f32x16, f32x16)
def mul(b: Builder, x: Value, y: Value) -> Value:
    """`x * y`."""
    return b.fmul(x, y)


@operation(f32x16, f32x16, f32x16)
def div(b: Builder, x: Value, y: Value) -> Value:
    """`x / y`."""
    return b.fdiv(x, y)


@operation(f32x16, f32x16, f32x16, f32x16)
def fma(b: Builder, x: Value, y: Value, z: Value) -> Value:
    """`x * y + z`, rounded once."""
    return emit_fma(b, x, y, z)


@operation(f32x16, f32x16)
def absolute(b: Builder, x: Value) -> Value:
    """`|x|`."""
    return b.call(declare(b, "llvm.fabs.v16f32", F32X16, F32X16), [x])


@operation(f32x16, f32x16, f32x16)
def maximum(b: Builder, x: Value, y: Value) -> Value:
    """The larger one. One instruction; of a NaN it keeps only the one in `y`."""
    return b.select(b.fcmp_ordered(">", x, y), x, y)


@operation(f32x16, f32x16, f32x16)
def minimum(b: Builder, x: Value, y: Value) -> Value:
    """The smaller one, likewise."""
    return b.select(b.fcmp_ordered("<", x, y), x, y)


@operation(f32x16, f32x16, i64, i64)
def keep_lanes(b: Builder, x: Value, first: Value, end: Value) -> Value:
    """Lanes `first … end - 1` of `x`, and minus infinity in the others."""
    index = ir.Constant(I32X16, list(range(LANES)))
    low, high = (splat(b, b.trunc(bound, I32), I32X16) for bound in (first, end))
    kept = b.and_(b.icmp_signed(">=", index, low), b.icmp_signed("<", index, high))
    return b.select(kept, x, ir.Constant(F32X16, [float("-inf")] * LANES))


def _tree(b: Builder, x: Value, combine: Callable[[Value, Value], Value]) -> Value:
    """Folds 16 lanes into one in a fixed order: halves upon halves."""
    width = LANES
    while width > 1:
        width //= 2
        mask = ir.VectorType(I32, width)
        low = b.shuffle_vector(x, x, ir.Constant(mask, list(range(width))))
        high = b.shuffle_vector(x, x, ir.Constant(mask, list(range(width, 2 * width))))
        x = combine(low, high)
    return b.extract_element(x, ir.Constant(I32, 0))


@operation(f32, f32x16)
def reduce_add(b: Builder, x: Value) -> Value:
    """The sum of all lanes, always added in the same order."""
    return _tree(b, x, b.fadd)


@operation(f32, f32x16)
def reduce_max(b: Builder, x: Value) -> Value:
    """The largest lane. Which of several NaN and numbers wins is not said."""
    return _tree(b, x, lambda low, high: b.select(b.fcmp_ordered(">", low, high), low, high))


@operation(f32, f32x16, f32x16)
def largest_magnitude(b: Builder, x: Value, y: Value) -> Value:
    """The largest |lane| of two vectors; NaN if there is one.

    Without their signs, floats are ordered as their bits are as integers, and NaN comes last: so a
    broken weight is not hidden, at the price of an integer maximum.
    """
    mask = ir.Constant(I32X16, [0x7FFFFFFF] * LANES)
    left, right = (b.and_(b.bitcast(value, I32X16), mask) for value in (x, y))
    both = b.select(b.icmp_signed(">", left, right), left, right)
    most = b.call(declare(b, "llvm.vector.reduce.smax.v16i32", I32, I32X16), [both])
    return b.bitcast(most, F32)


@operation(i64, i32x16)
def sum_of(b: Builder, x: Value) -> Value:
    """The sum of all lanes."""
    return b.sext(b.call(declare(b, "llvm.vector.reduce.add.v16i32", I32, I32X16), [x]), I64)


@operation(i32x16, f32x16)
def small_int(b: Builder, x: Value) -> Value:
    """The nearest integer of numbers below 2²² in magnitude, ties to even; of others anything.

    Adding 1.5 · 2²³ leaves no bits behind the point, so the sum's low bits are the integer.
    """
    shifted = b.fadd(x, ir.Constant(F32X16, [12582912.0] * LANES))
    return b.sub(b.bitcast(shifted, I32X16), ir.Constant(I32X16, [0x4B400000] * LANES))


@operation(f32x16, f32x16)
def exp(b: Builder, x: Value) -> Value:
    """E to the power of each lane, to about 1 unit in the last place; 0 below -87.3.

    Splits x = n ln 2 + r, takes a polynomial of r on ±ln 2 / 2 (coefficients of the Cephes
    library's `expf`, S. Moshier) and puts n into the exponent's bits.
    """

    def vector(value: float) -> ir.Constant:
        return ir.Constant(F32X16, [value] * LANES)

    low, high = vector(-87.33654), vector(88.02969)
    # Written so that NaN stays: each comparison with it is false.
    bounded = b.select(b.fcmp_ordered(">", x, high), high, x)
    bounded = b.select(b.fcmp_ordered("<", bounded, low), low, bounded)
    # Adding 1.5 · 2²³ leaves no bits behind the point: the sum's low bits are n, rounded.
    shift = vector(12582912.0)
    shifted = emit_fma(b, bounded, vector(1.44269504088896341), shift)
    n = b.fsub(shifted, shift)
    r = emit_fma(b, n, vector(-0.693359375), bounded)
    r = emit_fma(b, n, vector(2.12194440e-4), r)
    p = vector(1.9875691500e-4)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = emit_fma(b, p, r, vector(coefficient))
    p = b.fadd(emit_fma(b, b.fmul(r, r), p, r), vector(1.0))
    exponent = b.shl(b.bitcast(shifted, I32X16), ir.Constant(I32X16, [23] * LANES))
    power = b.bitcast(b.add(exponent, ir.Constant(I32X16, [127 << 23] * LANES)), F32X16)
    return b.select(b.fcmp_ordered("<", x, low), vector(0.0), b.fmul(p, power))


# --- bfloat16: the upper half of a float32, rounded ----------------------------------------------


@operation(i64, f32)
def round_to_bf16(b: Builder, x: Value) -> Value:
    """The 16 bits of the nearest bfloat16, ties to even; infinity and the machine's NaN stay."""
    bits = b.bitcast(x, I32)
    even = b.and_(b.lshr(bits, ir.Constant(I32, 16)), ir.Constant(I32, 1))
    rounded = b.add(bits, b.add(even, ir.Constant(I32, 0x7FFF)))
    return b.zext(b.lshr(rounded, ir.Constant(I32, 16)), I64)


@operation(i64, f32)
def round_to_i8(b: Builder, x: Value) -> Value:
    """The nearest integer, ties to even, within -127 … 127; NaN becomes 0."""
    nearest = b.call(declare(b, "llvm.rint.f32", F32, F32), [x])
    for sign, beyond in ((1.0, ">"), (-1.0, "<")):
        bound = ir.Constant(F32, sign * 127)
        nearest = b.select(b.fcmp_ordered(beyond, nearest, bound), bound, nearest)
    known = b.select(b.fcmp_ordered("ord", x, x), nearest, ir.Constant(F32, 0.0))
    return b.fptosi(known, I64)


def _single(value: float) -> float:
    """A number as float32 holds it."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


@operation(f32x16, f32x16)
def finite(b: Builder, x: Value) -> Value:
    """The nearest numbers that bfloat16 holds finite neighbours of; NaN becomes 0."""
    for sign, beyond in ((1, ">"), (-1, "<")):
        bound = ir.Constant(F32X16, [_single(sign * 3.38e38)] * LANES)
        x = b.select(b.fcmp_ordered(beyond, x, bound), bound, x)
    return b.select(b.fcmp_ordered("ord", x, x), x, ir.Constant(F32X16, [0.0] * LANES))


def _bf16(b: Builder, x: Value) -> Value:
    """The 16 bits of the nearest bfloat16 of each lane, ties to even, in the lower half of an int32."""
    bits, half = b.bitcast(x, I32X16), ir.Constant(I32X16, [16] * LANES)
    even = b.and_(b.lshr(bits, half), ir.Constant(I32X16, [1] * LANES))
    rounded = b.add(bits, b.add(even, ir.Constant(I32X16, [0x7FFF] * LANES)))
    return b.lshr(rounded, half)


@operation(f32x16, f32x16)
def nearest_bf16(b: Builder, x: Value) -> Value:
    """The same numbers as float32."""
    return b.bitcast(b.shl(_bf16(b, x), ir.Constant(I32X16, [16] * LANES)), F32X16)


@operation(void, i64, f32x16)
def store_bf16(b: Builder, address: Value, x: Value) -> Value:
    """16 bfloat16 numbers, one after the other."""
    return b.store(b.trunc(_bf16(b, x), I16X16), pointer(b, address, I16X16), align=2)


@operation(void, i64, i64, f32x16)
def store_bf16_pairs(b: Builder, address: Value, stride: Value, x: Value) -> None:
    """Eight pairs of bfloat16 numbers, `stride` bytes apart."""
    _store_pairs(b, address, stride, b.trunc(_bf16(b, x), I16X16), I32)


@operation(void, i64, i64, f32x16)
def store_rounded_pairs(b: Builder, address: Value, stride: Value, x: Value) -> None:
    """Eight pairs of the same numbers as float32, `stride` bytes apart."""
    _store_pairs(b, address, stride, b.shl(_bf16(b, x), ir.Constant(I32X16, [16] * LANES)), I64)


def _store_pairs(b: Builder, address: Value, stride: Value, numbers: Value, kind: ir.Type) -> None:
    pairs = b.bitcast(numbers, ir.VectorType(kind, LANES // 2))
    for index in range(LANES // 2):
        place = b.add(address, b.mul(stride, ir.Constant(I64, index)))
        b.store(b.extract_element(pairs, ir.Constant(I32, index)), pointer(b, place, kind), align=4)


@operation(void, i64, i64, f32x16)
def store_bf16_halves(b: Builder, address: Value, odd: Value, x: Value) -> Value:
    """16 bfloat16 numbers into the lower or upper halves of 16 int32; the others are not touched.

    Another thread may write those at the same time.
    """
    is_odd = b.icmp_signed("!=", odd, ir.Constant(I64, 0))
    bits = _bf16(b, x)
    both = b.bitcast(b.or_(bits, b.shl(bits, ir.Constant(I32X16, [16] * LANES))), I16X32)
    flags = ir.VectorType(ir.IntType(1), 2 * LANES)
    masks = [ir.Constant(flags, [n % 2 == parity for n in range(2 * LANES)]) for parity in (1, 0)]
    kind = I16X32.as_pointer()
    function = declare(b, "llvm.masked.store.v32i16.p0", ir.VoidType(), I16X32, kind, I32, flags)
    mask = b.select(is_odd, *masks)
    return b.call(function, [both, pointer(b, address, I16X32), ir.Constant(I32, 2), mask])


@operation(f32, f32x16)
def first_lane(b: Builder, x: Value) -> Value:
    """Lane 0."""
    return b.extract_element(x, ir.Constant(I32, 0))


@operation(f32x16, f32x16, i64, f32)
def with_lane(b: Builder, x: Value, index: Value, value: Value) -> Value:
    """`x` with another number in one lane."""
    return b.insert_element(x, value, b.trunc(index, I32))
