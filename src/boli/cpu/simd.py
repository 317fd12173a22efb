"""SIMD in Python: vector types and the instructions that the kernels are written with.

Numba learns two vector types here, `f32x16` and `i32x16`, and the intrinsics that read and write
memory; `lanes.py` has the arithmetic. Each becomes one LLVM instruction or a handful. Memory is
addressed by integers (`int64` byte addresses), as in C, because the kernels read packed streams
that have no NumPy type.

LLVM splits a 16-lane vector for machines with narrower registers, so everything here is portable;
only dot products and look-ups have a form of their own per instruction set, in `dots.py`, and products
of bfloat16 one for tile registers, in `amx.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

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

# How every function of the compiled step is compiled: no checks, no exceptions, no Python.
kernel: Any = njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


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


class _OrderedLoad(ir.instructions.LoadInstr):
    """A load that LLVM leaves where it is and never leaves out: what C calls volatile."""

    def descr(self, buf: list[str]) -> None:
        super().descr(buf)
        buf[-1] = buf[-1].replace("load", "load volatile", 1)


def emit_load_in_order(builder: Builder, address: Value, kind: ir.Type, align: int) -> Value:
    """As `emit_load`, but never before or after another such load that was written before or after it.

    A processor fetches ahead of who reads a stream line after line. LLVM likes to mix the lines of one
    step, and each mixture looks like several streams, or none.
    """
    load = _OrderedLoad(builder.block, pointer(builder, address, kind))
    load.align = align
    builder._insert(load)
    return load


def emit_load_f16(builder: Builder, address: Value) -> Value:
    """16 half-precision numbers, as float32."""
    return builder.fpext(emit_load(builder, address, F16X16, 2), F32X16)


def emit_load_bf16(builder: Builder, address: Value) -> Value:
    """16 bfloat16 numbers, as float32: the upper halves of their bits."""
    wide = builder.zext(emit_load(builder, address, I16X16, 2), I32X16)
    return builder.bitcast(builder.shl(wide, ir.Constant(I32X16, [16] * LANES)), F32X16)


def emit_prefetch(builder: Builder, address: Value) -> None:
    """Asks for a cache line that will be read soon: into the second-level cache."""
    anything = I8.as_pointer()
    function = declare(builder, "llvm.prefetch.p0", ir.VoidType(), anything, I32, I32, I32)
    read, keep, data = (ir.Constant(I32, value) for value in (0, 2, 1))
    builder.call(function, [pointer(builder, address, I8), read, keep, data])


def emit_fma(builder: Builder, a: Value, b: Value, c: Value) -> Value:
    """`a * b + c`, rounded once."""
    return builder.call(declare(builder, "llvm.fma.v16f32", F32X16, F32X16, F32X16, F32X16), [a, b, c])


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


@operation(void, i64, i64)
def store_i16(b: Builder, address: Value, value: Value) -> Value:
    """One int64, narrowed to 16 bits."""
    return b.store(b.trunc(value, I16), pointer(b, address, I16), align=2)


@operation(void, i64, i64)
def store_u8(b: Builder, address: Value, value: Value) -> Value:
    """One int64, narrowed to a byte."""
    return b.store(b.trunc(value, I8), pointer(b, address, I8), align=1)


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


# --- calls ---------------------------------------------------------------------------------------


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
