"""Dot products of short vectors, and look-ups: with `amx.py` where instruction sets differ.

    emit_dot        16 sums of four products of an unsigned and a signed byte   matrix products
    emit_dot_bf16   16 sums of two products of bfloat16 numbers                 attention, BF16 weights
    emit_look_up    64 bytes out of a table of 16                               weights with a codebook

`target.py` chooses the forms. Sums of bytes are exact integers, the same in all forms. Sums of
bfloat16 numbers are not: each form is a fixed arithmetic of its own, which `emit_dot_bf16` states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import llvmlite.binding as llvm
from llvmlite import ir

from boli.cpu.simd import F32, F32X16, I8, I16, I32, I32X16, LANES, Builder, Value, declare, emit_fma
from boli.cpu.target import PAIR_FORMS, bf16_form, dot_form

# Without an instruction for pairs it is faster if activations, queries and probabilities lie as float32, of
# bfloat16's precision: then only one side is taken apart.
PAIRS_AS_FLOATS = bf16_form() not in PAIR_FORMS
PAIR = 8 if PAIRS_AS_FLOATS else 4  # bytes of a pair of them


class _BFloat(ir.Type):
    """LLVM's bfloat16, which llvmlite does not know. Only its name is needed."""

    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


BFLOAT = _BFloat()


def emit_dot(builder: Builder, total: Value, weights: Value, activations: Value, *, bits: int = 8) -> Value:
    """Adds to each of 16 sums four products of an unsigned and a signed byte.

    Args:
        builder: Where the instructions go.
        total: `<16 x i32>`.
        weights: `<64 x i8>`, unsigned; lane `i` owns bytes `4 i … 4 i + 3`.
        activations: `<16 x i32>`, each lane four signed bytes.
        bits: The weights are below 2 to the power of `bits`. Some forms are shorter below 8.
    """
    form = dot_form()
    quads = builder.bitcast(weights, I32X16)
    if form == "portable":
        return _dot_portable(builder, total, quads, activations)
    emit, lanes = {
        "avx512vnni": (_dot_vnni, 16),
        "avxvnni": (_dot_vnni, 8),
        "avx2": (_dot_avx2, 8),
        "neon_i8mm": (_dot_i8mm, 4),
        "neon_dotprod": (_dot_sdot, 4),
    }[form]

    def emit_part(total: Value, quads: Value, activations: Value) -> Value:
        return emit(builder, total, quads, activations, bits)

    return _by_parts(builder, lanes, emit_part, total, quads, activations)


def emit_dot_bf16(builder: Builder, total: Value, left: Value, right: Value) -> Value:
    """Adds to each of 16 sums two products of bfloat16 numbers.

    A product of two bfloat16 numbers is exact in float32, so only additions round, and the forms
    differ in these alone:

        fma          total + upper product, rounded, + lower product, rounded; as IEEE 754 says
        avx512bf16   the same two additions, but subnormal inputs, products and sums become zero
        neon_bf16    Arm's BFDOT: products and sums round to odd, subnormals become zero

    Args:
        builder: Where the instructions go.
        total: `<16 x float>`.
        left: `<16 x i32>`, each lane two bfloat16 numbers.
        right: The same.
    """
    form = bf16_form()
    if form not in PAIR_FORMS:
        for part in (1, 0):  # upper halves first
            total = emit_fma(builder, _half(builder, left, part), _half(builder, right, part), total)
        return total
    name, lanes = {
        "avx512bf16": ("llvm.x86.avx512bf16.dpbf16ps.512", 16),
        "neon_bf16": ("llvm.aarch64.neon.bfdot.v4f32.v8bf16", 4),
    }[form]
    sums, pairs = ir.VectorType(F32, lanes), ir.VectorType(BFLOAT, 2 * lanes)

    def emit_part(total: Value, left: Value, right: Value) -> Value:
        function = declare(builder, name, sums, sums, pairs, pairs)
        return builder.call(function, [total, builder.bitcast(left, pairs), builder.bitcast(right, pairs)])

    return _by_parts(builder, lanes, emit_part, total, left, right)


def emit_look_up(builder: Builder, values: Sequence[int], codes: Value) -> Value:
    """For each of 64 codes the value that it chooses.

    Args:
        builder: Where the instructions go.
        values: 16 unsigned bytes.
        codes: `<64 x i8>`, each 0 … 15.
    """
    form = dot_form()
    if form == "portable":
        return _look_up_portable(builder, values, codes)
    name, lanes = {
        "avx512vnni": ("llvm.x86.avx512.pshuf.b.512", 16),
        "avxvnni": ("llvm.x86.avx2.pshuf.b", 8),
        "avx2": ("llvm.x86.avx2.pshuf.b", 8),
        "neon_i8mm": ("llvm.aarch64.neon.tbl1.v16i8", 4),
        "neon_dotprod": ("llvm.aarch64.neon.tbl1.v16i8", 4),
    }[form]
    kind = ir.VectorType(I8, 4 * lanes)
    table = ir.Constant(kind, [*values] * (lanes // 4))  # x86 looks up within each 16 bytes

    def emit_part(codes: Value) -> Value:
        found = builder.call(declare(builder, name, kind, kind, kind), [table, builder.bitcast(codes, kind)])
        return builder.bitcast(found, codes.type)

    found = _by_parts(builder, lanes, emit_part, builder.bitcast(codes, I32X16))
    return builder.bitcast(found, codes.type)


def emit_halves(builder: Builder, pairs: Value) -> tuple[Value, Value]:
    """The upper and the lower of each lane's two bfloat16 numbers, as float32: in the order of sums."""
    return _half(builder, pairs, 1), _half(builder, pairs, 0)


# --- bytes, one function a form -------------------------------------------------------------------


def _dot_portable(b: Builder, total: Value, weights: Value, activations: Value) -> Value:
    """Each byte shifted to the top of its lane and back: four multiplications of 32-bit integers."""
    for byte in range(4):
        up, down = (_constant(weights, shift) for shift in (24 - 8 * byte, 24))
        weight = b.lshr(b.shl(weights, up), down)
        activation = b.ashr(b.shl(activations, up), down)
        total = b.add(total, b.mul(weight, activation))
    return total


def _dot_vnni(b: Builder, total: Value, weights: Value, activations: Value, bits: int) -> Value:
    """VPDPBUSD, which is this very sum. One intrinsic names the instructions of both encodings."""
    count = weights.type.count
    # LLVM 22 changed the operands of this intrinsic from 32-bit lanes to bytes.
    operand = ir.VectorType(I8, 4 * count) if llvm.llvm_version_info[0] >= 22 else weights.type
    name = f"llvm.x86.avx512.vpdpbusd.{32 * count}"
    function = declare(b, name, total.type, total.type, operand, operand)
    return b.call(function, [total, b.bitcast(weights, operand), b.bitcast(activations, operand)])


def _dot_avx2(b: Builder, total: Value, weights: Value, activations: Value, bits: int) -> Value:
    """VPMADDWD, which sums two products of 16-bit integers.

    VPMADDUBSW would sum two products of bytes, but into 16 bits, where 2 · 255 · 127 does not fit:
    it serves for weights of 7 bits and less. For others, even and odd bytes are widened apart.
    """
    words, bytes_ = ir.VectorType(I16, 16), ir.VectorType(I8, 32)
    sum_pairs = declare(b, "llvm.x86.avx2.pmadd.wd", total.type, words, words)
    if bits < 8:
        multiply = declare(b, "llvm.x86.avx2.pmadd.ub.sw", words, bytes_, bytes_)
        pairs = b.call(multiply, [b.bitcast(weights, bytes_), b.bitcast(activations, bytes_)])
        return b.add(total, b.call(sum_pairs, [pairs, _constant(pairs, 1)]))
    weights, activations = b.bitcast(weights, words), b.bitcast(activations, words)
    eight = _constant(weights, 8)
    even = b.and_(weights, _constant(weights, 0xFF)), b.ashr(b.shl(activations, eight), eight)
    odd = b.lshr(weights, eight), b.ashr(activations, eight)
    return b.add(b.add(total, b.call(sum_pairs, even)), b.call(sum_pairs, odd))


def _dot_i8mm(b: Builder, total: Value, weights: Value, activations: Value, bits: int) -> Value:
    """USDOT, which is this very sum."""
    return _neon_dot(b, "usdot", total, weights, activations)


def _dot_sdot(b: Builder, total: Value, weights: Value, activations: Value, bits: int) -> Value:
    """SDOT, whose factors are both signed: Σ w a = Σ (w - 128) a - Σ (-128) a.

    The last sum is the same for all weights; LLVM computes it once for each activation.
    """
    if bits < 8:
        return _neon_dot(b, "sdot", total, weights, activations)
    top = _constant(weights, 0x80808080)  # each byte -128, and the bit that makes w to w - 128
    shift = _neon_dot(b, "sdot", _constant(total, 0), top, activations)
    return _neon_dot(b, "sdot", b.sub(total, shift), b.xor(weights, top), activations)


def _neon_dot(b: Builder, name: str, total: Value, weights: Value, activations: Value) -> Value:
    operand = ir.VectorType(I8, 16)
    function = declare(b, f"llvm.aarch64.neon.{name}.v4i32.v16i8", total.type, total.type, operand, operand)
    return b.call(function, [total, b.bitcast(weights, operand), b.bitcast(activations, operand)])


def _look_up_portable(b: Builder, values: Sequence[int], codes: Value) -> Value:
    """A tournament: each bit of the codes halves the candidates."""
    candidates: list[Value] = [_constant(codes, value) for value in values]
    for bit in (1, 2, 4, 8):
        odd = b.icmp_unsigned("!=", b.and_(codes, _constant(codes, bit)), _constant(codes, 0))
        pairs = zip(candidates[::2], candidates[1::2], strict=True)
        candidates = [b.select(odd, high, low) for low, high in pairs]
    return candidates[0]


# --- vectors --------------------------------------------------------------------------------------


def _by_parts(builder: Builder, lanes: int, emit: Callable[..., Value], *values: Value) -> Value:
    """Applies `emit` to `lanes` lanes of 16 at a time, for instructions on narrower registers.

    LLVM keeps a long vector in several registers, so cutting and joining costs nothing.
    """
    if lanes == LANES:
        return emit(*values)
    parts = [
        emit(*(builder.shuffle_vector(v, v, _numbers(start, lanes)) for v in values))
        for start in range(0, LANES, lanes)
    ]
    while len(parts) > 1:
        lanes *= 2
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [builder.shuffle_vector(low, high, _numbers(0, lanes)) for low, high in pairs]
    return parts[0]


def _numbers(start: int, count: int) -> ir.Constant:
    """`start, start + 1, …`: which lanes a shuffle takes."""
    return ir.Constant(ir.VectorType(I32, count), list(range(start, start + count)))


def _constant(like: Value, value: int) -> ir.Constant:
    """`value` in every lane of a vector of the same type as another."""
    return ir.Constant(like.type, [value] * like.type.count)


def _half(builder: Builder, pairs: Value, part: int) -> Value:
    """One of each lane's two bfloat16 numbers, as float32: its bits are the upper half."""
    if part:
        bits = builder.and_(pairs, _constant(pairs, 0xFFFF0000))
    else:
        bits = builder.shl(pairs, _constant(pairs, 16))
    return builder.bitcast(bits, F32X16)
