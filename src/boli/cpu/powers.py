"""Powers of two, and pairs of bfloat16 out of them: what attention's softmax is made of.

    softmax(x) = 2^(x log₂e - m) / Σ 2^(x log₂e - m)

A power splits t = n + r with n = ⌊t⌋, takes a polynomial of r on 0 … 1 and puts n into the exponent.
AVX-512 has an instruction for each of the two ends.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from boli.cpu.dots import BFLOAT, emit_dot_bf16
from boli.cpu.simd import (
    F32X16,
    I16,
    I16X32,
    I32,
    I32X16,
    I64,
    LANES,
    Builder,
    Value,
    declare,
    emit_fma,
    emit_load,
    f32x16,
    i64,
    operation,
    pointer,
    void,
)
from boli.cpu.target import PAIR_FORMS, bf16_form, features

# Polynomials of 2^r on 0 … 1 with the least relative error, 1 at 0; the highest power comes first. Errors:
# 2e-9, less than float32 rounds, and 9e-5, a twentieth of what bfloat16 rounds.
_FULL = (2.161291631637141e-4, 1.2467845808714628e-3, 9.675451554358006e-3, 5.5485282093286514e-2,
         2.402293086051941e-1, 6.931470632553101e-1, 1.0)  # fmt: skip
_SHORT = (7.706705480813980e-2, 2.276449799537659e-1, 6.951168179512024e-1, 1.0)


@operation(f32x16, f32x16)
def exp2(b: Builder, x: Value) -> Value:
    """2 to the power of each lane up to 127, to 1 unit in the last place; below -126 subnormal, or 0."""
    return _power(b, x, _FULL)


@operation(f32x16, f32x16)
def exp2_for_bf16(b: Builder, x: Value) -> Value:
    """The same for a number that is then rounded to a bfloat16."""
    return _power(b, x, _SHORT)


def _power(b: Builder, x: Value, polynomial: Sequence[float]) -> Value:
    """NaN stays NaN, and minus infinity becomes 0."""
    wide = bool(features().get("avx512f") and features().get("avx512dq"))
    if wide:
        r = _masked(b, "reduce", [x, ir.Constant(I32, 9)])  # x - ⌊x⌋, and 0 of an infinity
        whole = x  # the instruction takes ⌊x⌋ itself
    else:
        lowest = ir.Constant(F32X16, [-127.0] * LANES)
        bounded = b.select(b.fcmp_ordered("<", x, lowest), lowest, x)  # false for NaN, which stays
        whole = b.call(declare(b, "llvm.floor.v16f32", F32X16, F32X16), [bounded])
        r = b.fsub(bounded, whole)
    p = ir.Constant(F32X16, [polynomial[0]] * LANES)
    for coefficient in polynomial[1:]:
        p = emit_fma(b, p, r, ir.Constant(F32X16, [coefficient] * LANES))
    if wide:
        return _masked(b, "scalef", [p, whole])
    n = b.shl(b.fptosi(whole, I32X16), ir.Constant(I32X16, [23] * LANES))
    power = b.bitcast(b.add(b.bitcast(p, I32X16), n), F32X16)
    tiny = b.fcmp_ordered("<", x, ir.Constant(F32X16, [-126.0] * LANES))
    power = b.select(tiny, ir.Constant(F32X16, [0.0] * LANES), power)
    return b.select(b.fcmp_unordered("uno", x, x), x, power)


def _masked(b: Builder, name: str, values: list[Value]) -> Value:
    """An instruction of AVX-512 on all lanes, rounding as usual."""
    kinds = [value.type for value in values]
    kind = f"llvm.x86.avx512.mask.{name}.ps.512"
    function = declare(b, kind, F32X16, *kinds, F32X16, I16, I32)
    unused = ir.Constant(F32X16, ir.Undefined)
    return b.call(function, [*values, unused, ir.Constant(I16, -1), ir.Constant(I32, 4)])


@operation(void, i64, f32x16, f32x16)
def store_rounded(b: Builder, address: Value, low: Value, high: Value) -> None:
    """16 pairs of the nearest bfloat16 numbers; of halves the even one, or the one away from zero.

    They are 64 bytes, or where no instruction multiplies pairs twice as many: float32, `low` before `high`.
    """
    form = bf16_form()
    if form == "avx512bf16":
        kind = ir.VectorType(BFLOAT, 2 * LANES)
        function = declare(b, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", kind, F32X16, F32X16)
        words = b.bitcast(b.call(function, [high, low]), I16X32)
        order = [lane + half for lane in range(LANES) for half in (0, LANES)]
        mixed = b.shuffle_vector(words, words, ir.Constant(ir.VectorType(I32, 2 * LANES), order))
        b.store(b.bitcast(mixed, I32X16), pointer(b, address, I32X16), align=4)
        return
    half, upper = (ir.Constant(I32X16, [value] * LANES) for value in (0x8000, 0xFFFF0000))
    low, high = (b.and_(b.add(b.bitcast(x, I32X16), half), upper) for x in (low, high))
    if form not in PAIR_FORMS:
        b.store(low, pointer(b, address, I32X16), align=4)
        b.store(high, pointer(b, b.add(address, ir.Constant(I64, 4 * LANES)), I32X16), align=4)
    else:
        below = b.lshr(low, ir.Constant(I32X16, [16] * LANES))
        b.store(b.or_(below, high), pointer(b, address, I32X16), align=4)


@operation(f32x16, f32x16, i64)
def add_rounded(b: Builder, total: Value, address: Value) -> Value:
    """Adds to each lane both numbers of a pair that `store_rounded` has stored: the upper one first."""
    if bf16_form() not in PAIR_FORMS:
        high = emit_load(b, b.add(address, ir.Constant(I64, 4 * LANES)), F32X16, 4)
        return b.fadd(b.fadd(total, high), emit_load(b, address, F32X16, 4))
    pairs = emit_load(b, address, I32X16, 4)
    return emit_dot_bf16(b, total, pairs, ir.Constant(I32X16, [0x3F803F80] * LANES))
