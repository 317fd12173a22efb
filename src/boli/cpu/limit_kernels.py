"""Micro-kernels that do nothing but reach a limit of the machine; `limits.py` times them.

Both use memory and what they compute, so that LLVM can neither delete a loop nor move work out of
it: the reading loop adds up what it reads, the loops of products take their operands from a few
kilobytes in the innermost cache, each one several times, as a matrix product does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from boli.cpu import amx
from boli.cpu.dots import emit_dot, emit_dot_bf16
from boli.cpu.limits import OPERAND_STEPS, READ_STEP, REGISTER, VECTOR_BYTES, Kind, by_registers
from boli.cpu.simd import (
    F32X16,
    I8X64,
    I32,
    I32X16,
    I64,
    Builder,
    Value,
    declare,
    emit_fma,
    emit_load,
    i64,
    operation,
)


def read() -> Callable[[int, int], int]:
    """`read(address, size)`: adds up memory; `size` is a multiple of `READ_STEP`."""

    @operation(i64, i64, i64)
    def add_up(b: Builder, address: Value, size: Value) -> Value:
        sums = _zeros(b, READ_STEP // VECTOR_BYTES, I32X16)
        with cgutils.for_range(b, b.udiv(size, _word(READ_STEP)), intp=I64) as loop:
            start = b.add(address, b.mul(loop.index, _word(READ_STEP)))
            for n, total in enumerate(sums):
                value = emit_load(b, b.add(start, _word(n * VECTOR_BYTES)), I32X16, VECTOR_BYTES)
                b.store(b.add(b.load(total), value), total)
        return _digest(b, sums)

    def run(address: int, size: int) -> int:
        result: int = add_up(address, size)
        return result

    return run


def products(kind: Kind, tile: tuple[int, int]) -> Callable[[int, int, int], int]:
    """`products(left, right, count)`: multiplies and adds `count` tiles of vectors.

    Each step loads `tile[0]` operands from `left` and `tile[1]` from `right`, and multiplies each
    with each into a sum of its own.
    """
    if by_registers(kind):
        return _products_of_registers(tile)
    rows, columns = tile
    total_type = I32X16 if kind == "int8" else F32X16
    left_type = {"int8": I8X64, "bf16": I32X16, "f32": F32X16}[kind]
    right_type = F32X16 if kind == "f32" else I32X16

    def product(b: Builder, total: Value, x: Value, y: Value) -> Value:
        if kind == "int8":
            return emit_dot(b, total, x, y)
        return emit_dot_bf16(b, total, x, y) if kind == "bf16" else emit_fma(b, x, y, total)

    @operation(i64, i64, i64, i64)
    def multiply(b: Builder, left: Value, right: Value, count: Value) -> Value:
        sums = _zeros(b, rows * columns, total_type)
        with cgutils.for_range(b, count, intp=I64) as loop:
            step = b.and_(loop.index, _word(OPERAND_STEPS - 1))
            xs = _operands(b, left, step, rows, left_type)
            ys = _operands(b, right, step, columns, right_type)
            for n, total in enumerate(sums):
                b.store(product(b, b.load(total), xs[n // columns], ys[n % columns]), total)
        return _digest(b, sums)

    def run(left: int, right: int, count: int) -> int:
        result: int = multiply(left, right, count)
        return result

    return run


def _products_of_registers(tile: tuple[int, int]) -> Callable[[int, int, int], int]:
    """The same, of whole tile registers."""
    rows, columns = tile
    sums, xs = range(rows * columns), range(rows * columns, rows * columns + rows)
    ys = range(xs.stop, xs.stop + columns)

    def fill(b: Builder, registers: range, base: Value, step: Value) -> None:
        start = b.add(base, b.mul(step, _word(len(registers) * REGISTER)))
        for n, register in enumerate(registers):
            amx.emit_load(b, register, b.add(start, _word(n * REGISTER)), VECTOR_BYTES)

    @operation(i64, i64, i64, i64)
    def multiply(b: Builder, left: Value, right: Value, count: Value) -> Value:
        amx.emit_configure(b, [amx.MOST_ROWS] * amx.REGISTERS)
        amx.emit_zero(b, sums)
        with cgutils.for_range(b, count, intp=I64) as loop:
            step = b.and_(loop.index, _word(OPERAND_STEPS - 1))
            fill(b, xs, left, step)
            fill(b, ys, right, step)
            for n in sums:
                amx.emit_multiply(b, n, xs[n // columns], ys[n % columns])
        results = cgutils.alloca_once(b, ir.ArrayType(F32X16, len(sums) * amx.MOST_ROWS))
        for n in sums:
            place = b.ptrtoint(results, I64)
            amx.emit_store(b, n, b.add(place, _word(n * REGISTER)), VECTOR_BYTES)
        amx.emit_release(b)
        lines = range(len(sums) * amx.MOST_ROWS)
        return _digest(b, [b.gep(results, [_word(0), _word(line)]) for line in lines])

    def run(left: int, right: int, count: int) -> int:
        result: int = multiply(left, right, count)
        return result

    return run


def _word(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


def _zeros(b: Builder, count: int, kind: ir.VectorType) -> list[Value]:
    """Sums; LLVM keeps them in registers."""
    sums = [cgutils.alloca_once(b, kind) for _ in range(count)]
    for total in sums:
        b.store(ir.Constant(kind, [0] * kind.count), total)
    return sums


def _operands(b: Builder, base: Value, step: Value, count: int, kind: ir.Type) -> list[Value]:
    start = b.add(base, b.mul(step, _word(count * VECTOR_BYTES)))
    return [emit_load(b, b.add(start, _word(n * VECTOR_BYTES)), kind, VECTOR_BYTES) for n in range(count)]


def _digest(b: Builder, sums: list[Value]) -> Value:
    """A number that all sums are needed for."""
    mixed: Any = reduce(b.xor, [b.bitcast(b.load(total), I32X16) for total in sums])
    return b.zext(b.call(declare(b, "llvm.vector.reduce.xor.v16i32", I32, I32X16), [mixed]), I64)
