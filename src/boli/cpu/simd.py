"""SIMD in Python: vector types and the few instructions that the kernels are written with.

Numba learns two vector types here, `f32x16` and `i32x16`, and a set of intrinsics that each become
one LLVM instruction or a handful. Memory is addressed by integers (`int64` byte addresses), as in
C, because the kernels read packed streams that have no NumPy type.

LLVM splits a 16-lane vector for machines with narrower registers, so everything here is portable;
only `dot_u8s8` has a form of its own per instruction set. All results are the same on all of them:
the integer dot product is exact, and floating-point sums are written out in a fixed order.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from boli.cpu.target import dot_form

LANES = 16

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
F32X16 = ir.VectorType(F32, LANES)
I32X16 = ir.VectorType(I32, LANES)
I8X16 = ir.VectorType(I8, LANES)
I16X16 = ir.VectorType(I16, LANES)
F16X16 = ir.VectorType(F16, LANES)
I8X64 = ir.VectorType(I8, 4 * LANES)
I16X32 = ir.VectorType(I16, 2 * LANES)


class Vector(types.Type):
    """A value that lives in one SIMD register (or two or four narrower ones)."""

    def __init__(self, name: str, llvm_type: ir.Type) -> None:
        super().__init__(name=name)
        self.llvm_type = llvm_type


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm_type)


f32x16 = Vector("f32x16", F32X16)
i32x16 = Vector("i32x16", I32X16)
i64, f32, void = types.int64, types.float32, types.void

Builder = Any
Value = Any


def operation(result: types.Type, *arguments: types.Type) -> Callable[[Callable[..., Value]], Any]:
    """Turns `emit(builder, *values)` into a function that Numba code may call."""

    def decorate(emit: Callable[..., Value]) -> Any:
        def typed(typingctx: Any, *_: Any) -> Any:
            def codegen(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
                returned = emit(builder, *values)
                return context.get_dummy_value() if result is void else returned

            return result(*arguments), codegen

        # Numba reads the number of arguments from the signature.
        names = ["typingctx", *(f"argument_{n}" for n in range(len(arguments)))]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        typed.__dict__["__signature__"] = inspect.Signature([inspect.Parameter(n, kind) for n in names])
        typed.__name__ = emit.__name__
        typed.__doc__ = emit.__doc__
        return intrinsic(typed)

    return decorate


def declare(builder: Builder, name: str, result: ir.Type, *arguments: ir.Type) -> Value:
    """An LLVM intrinsic or a C function, declared in the module at hand."""
    module = builder.module
    if name in module.globals:
        return module.globals[name]
    return ir.Function(module, ir.FunctionType(result, arguments), name)


def pointer(builder: Builder, address: Value, pointee: ir.Type) -> Value:
    """An integer address as a typed pointer."""
    return builder.inttoptr(address, pointee.as_pointer())


def splat(builder: Builder, scalar: Value, vector: ir.VectorType) -> Value:
    """A vector with `scalar` in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, zeros)


def emit_load(builder: Builder, address: Value, kind: ir.Type, align: int) -> Value:
    """Reads one `kind` from an address that is a multiple of `align`."""
    return builder.load(pointer(builder, address, kind), align=align)


def emit_load_f16(builder: Builder, address: Value) -> Value:
    """16 half-precision numbers, as float32."""
    return builder.fpext(emit_load(builder, address, F16X16, 2), F32X16)


def emit_load_bf16(builder: Builder, address: Value) -> Value:
    """16 bfloat16 numbers, as float32: the upper halves of their bits."""
    wide = builder.zext(emit_load(builder, address, I16X16, 2), I32X16)
    return builder.bitcast(builder.shl(wide, ir.Constant(I32X16, [16] * LANES)), F32X16)


def emit_fma(builder: Builder, a: Value, b: Value, c: Value) -> Value:
    """`a * b + c`, rounded once."""
    return builder.call(declare(builder, "llvm.fma.v16f32", F32X16, F32X16, F32X16, F32X16), [a, b, c])


def emit_dot(builder: Builder, total: Value, weights: Value, activations: Value) -> Value:
    """Adds to each of 16 sums four products of an unsigned and a signed byte.

    Args:
        builder: Where the instructions go.
        total: `<16 x i32>`.
        weights: `<64 x i8>`, unsigned; lane `i` owns bytes `4 i … 4 i + 3`.
        activations: `<16 x i32>`, each lane four signed bytes.
    """
    if dot_form() == "avx512vnni":
        # LLVM 22 changed the operands of this intrinsic from 16 x i32 to 64 x i8.
        operand = I8X64 if llvm.llvm_version_info[0] >= 22 else I32X16
        name = "llvm.x86.avx512.vpdpbusd.512"
        function = declare(builder, name, I32X16, I32X16, operand, operand)
        return builder.call(
            function, [total, builder.bitcast(weights, operand), builder.bitcast(activations, operand)]
        )
    quads = builder.bitcast(weights, I32X16)
    for byte in range(4):
        up, down = (ir.Constant(I32X16, [shift] * LANES) for shift in (24 - 8 * byte, 24))
        weight = builder.lshr(builder.shl(quads, up), down)
        activation = builder.ashr(builder.shl(activations, up), down)
        total = builder.add(total, builder.mul(weight, activation))
    return total


# --- memory -------------------------------------------------------------------------------------


@operation(i64, i64)
def load_i64(b: Builder, address: Value) -> Value:
    """One int64."""
    return emit_load(b, address, I64, 8)


@operation(void, i64, i64)
def store_i64(b: Builder, address: Value, value: Value) -> Value:
    """One int64."""
    return b.store(value, pointer(b, address, I64), align=8)


@operation(i64, i64)
def load_i32(b: Builder, address: Value) -> Value:
    """One int32, widened."""
    return b.sext(emit_load(b, address, I32, 4), I64)


@operation(void, i64, i64)
def store_i32(b: Builder, address: Value, value: Value) -> Value:
    """One int64, narrowed to int32."""
    return b.store(b.trunc(value, I32), pointer(b, address, I32), align=4)


@operation(i64, i64)
def load_u8(b: Builder, address: Value) -> Value:
    """One unsigned byte, widened."""
    return b.zext(emit_load(b, address, I8, 1), I64)


@operation(f32, i64)
def load_f32(b: Builder, address: Value) -> Value:
    """One float32."""
    return emit_load(b, address, F32, 4)


@operation(void, i64, f32)
def store_f32(b: Builder, address: Value, value: Value) -> Value:
    """One float32."""
    return b.store(value, pointer(b, address, F32), align=4)


@operation(f32, i64)
def load_f16_scalar(b: Builder, address: Value) -> Value:
    """One half-precision number, as float32."""
    return b.fpext(emit_load(b, address, F16, 2), F32)


@operation(f32, i64)
def load_bf16_scalar(b: Builder, address: Value) -> Value:
    """One bfloat16, as float32."""
    wide = b.zext(emit_load(b, address, I16, 2), I32)
    return b.bitcast(b.shl(wide, ir.Constant(I32, 16)), F32)


@operation(f32x16, i64)
def load(b: Builder, address: Value) -> Value:
    """16 float32."""
    return emit_load(b, address, F32X16, 4)


@operation(void, i64, f32x16)
def store(b: Builder, address: Value, value: Value) -> Value:
    """16 float32."""
    return b.store(value, pointer(b, address, F32X16), align=4)


@operation(void, i64, i32x16)
def store_i8(b: Builder, address: Value, value: Value) -> Value:
    """16 integers, narrowed to bytes."""
    return b.store(b.trunc(value, I8X16), pointer(b, address, I8X16), align=1)


@operation(f32, i64)
def to_f32(b: Builder, value: Value) -> Value:
    """An integer as float32, rounded to the nearest."""
    return b.sitofp(value, F32)


@operation(f32, i64)
def bits_to_f32(b: Builder, value: Value) -> Value:
    """The float32 whose bits are the lower half of an int64: how a table of integers holds one."""
    return b.bitcast(b.trunc(value, I32), F32)


# --- arithmetic on 16 lanes ---------------------------------------------------------------------


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
    """The larger one; NaN if either is, so that a broken weight is not hidden."""
    return b.call(declare(b, "llvm.maximum.v16f32", F32X16, F32X16, F32X16), [x, y])


@operation(f32x16, f32x16, f32x16)
def minimum(b: Builder, x: Value, y: Value) -> Value:
    """The smaller one; NaN if either is."""
    return b.call(declare(b, "llvm.minimum.v16f32", F32X16, F32X16, F32X16), [x, y])


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
def first_lane(b: Builder, x: Value) -> Value:
    """Lane 0."""
    return b.extract_element(x, ir.Constant(I32, 0))


@operation(f32, f32x16)
def reduce_add(b: Builder, x: Value) -> Value:
    """The sum of all lanes, always added in the same order."""
    return _tree(b, x, b.fadd)


@operation(f32, f32x16)
def reduce_max(b: Builder, x: Value) -> Value:
    """The largest lane; NaN if there is one."""

    def larger(low: Value, high: Value) -> Value:
        kind = low.type
        return b.call(declare(b, f"llvm.maximum.v{kind.count}f32", kind, kind, kind), [low, high])

    return _tree(b, x, larger)


@operation(i64, i32x16)
def reduce_add_i32(b: Builder, x: Value) -> Value:
    """The sum of all integer lanes."""
    return b.sext(b.call(declare(b, "llvm.vector.reduce.add.v16i32", I32, I32X16), [x]), I64)


@operation(i32x16, f32x16)
def to_int(b: Builder, x: Value) -> Value:
    """Rounds to the nearest integer, ties to even; NaN becomes 0."""
    nearest = b.call(declare(b, "llvm.rint.v16f32", F32X16, F32X16), [x])
    return b.call(declare(b, "llvm.fptosi.sat.v16i32.v16f32", I32X16, F32X16), [nearest])


@operation(f32x16, f32x16)
def exp(b: Builder, x: Value) -> Value:
    """E to the power of each lane, to about 1 unit in the last place; 0 below -87.3.

    Splits x = n ln 2 + r, takes a polynomial of r on ±ln 2 / 2 (coefficients of the Cephes
    library's `expf`, S. Moshier) and puts n into the exponent's bits.
    """

    def vector(value: float) -> ir.Constant:
        return ir.Constant(F32X16, [value] * LANES)

    low, high = vector(-87.33654), vector(88.02969)
    bounded = b.call(declare(b, "llvm.minimum.v16f32", F32X16, F32X16, F32X16), [x, high])
    bounded = b.call(declare(b, "llvm.maximum.v16f32", F32X16, F32X16, F32X16), [bounded, low])
    n = b.call(declare(b, "llvm.rint.v16f32", F32X16, F32X16), [b.fmul(bounded, vector(1.44269504088896341))])
    r = emit_fma(b, n, vector(-0.693359375), bounded)
    r = emit_fma(b, n, vector(2.12194440e-4), r)
    p = vector(1.9875691500e-4)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = emit_fma(b, p, r, vector(coefficient))
    p = b.fadd(emit_fma(b, b.fmul(r, r), p, r), vector(1.0))
    integer = b.call(declare(b, "llvm.fptosi.sat.v16i32.v16f32", I32X16, F32X16), [n])
    exponent = b.shl(b.add(integer, ir.Constant(I32X16, [127] * LANES)), ir.Constant(I32X16, [23] * LANES))
    power = b.fmul(p, b.bitcast(exponent, F32X16))
    return b.select(b.fcmp_ordered("<", x, low), vector(0.0), power)


# --- threads ------------------------------------------------------------------------------------


@operation(i64, i64)
def atomic_load(b: Builder, address: Value) -> Value:
    """Reads an int64 that other threads write; nothing after it moves before it."""
    return b.load_atomic(pointer(b, address, I64), ordering="acquire", align=8)


@operation(void, i64, i64)
def atomic_store(b: Builder, address: Value, value: Value) -> Value:
    """Writes an int64 that other threads read; nothing before it moves after it."""
    return b.store_atomic(value, pointer(b, address, I64), ordering="release", align=8)


@operation(i64, i64, i64)
def atomic_add(b: Builder, address: Value, value: Value) -> Value:
    """Adds to a shared int64 and returns what it was."""
    return b.atomic_rmw("add", pointer(b, address, I64), value, "seq_cst")


@operation(i64, i64, i64)
def atomic_exchange(b: Builder, address: Value, value: Value) -> Value:
    """Replaces a shared int64 and returns what it was."""
    return b.atomic_rmw("xchg", pointer(b, address, I64), value, "seq_cst")


@operation(void)
def pause(b: Builder) -> Value:
    """Tells the core that this is a waiting loop."""
    triple = str(b.module.triple)
    if triple.startswith(("x86_64", "i686")):
        return b.call(declare(b, "llvm.x86.sse2.pause", ir.VoidType()), [])
    if triple.startswith(("aarch64", "arm64")):
        return b.asm(ir.FunctionType(ir.VoidType(), []), "yield", "", [], True)
    return None


@operation(void)
def sched_yield(b: Builder) -> Value:
    """Gives the core to another thread (POSIX)."""
    return b.call(declare(b, "sched_yield", I32), [])


def function_call(arguments: int) -> Any:
    """An intrinsic that calls a compiled function by its address with `arguments` int64s.

    The callee is a Numba function: it gets a place for its result and one for an exception, both
    unused here, before its own arguments.
    """

    def emit(b: Builder, address: Value, *values: Value) -> Value:
        anything = I8.as_pointer()
        kind = ir.FunctionType(I32, [anything, anything, *([I64] * arguments)])
        nothing = ir.Constant(anything, None)
        place = cgutils.alloca_once(b, I64)  # in the entry block: a loop must not grow the stack
        return b.call(b.inttoptr(address, kind.as_pointer()), [b.bitcast(place, anything), nothing, *values])

    emit.__name__ = f"call_{arguments}"
    return operation(void, i64, *([i64] * arguments))(emit)
