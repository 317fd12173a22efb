"""Attention's two products by tile registers, where a processor has them (Intel's AMX).

A register holds up to 16 rows of 64 bytes: here six rows of queries, probabilities or sums, and of keys
or values 16 rows of pairs as they lie in a page (`kv.py`). One instruction multiplies all of them:

    S[m, n] = S[m, n] + (Σ a[m, 2k] b[2k, n] + Σ a[m, 2k+1] b[2k+1, n])     k = 0 … 15

Even and odd products are added apart, in the order of k and each rounded once; subnormals become zero
(Intel's manual, TDPBF16PS). So this is an arithmetic of its own, whatever the number of queries: there
are always six, of which the last may be left over from before and are not looked at.

Registers must be configured before use; a thread that is done with them releases them, so that the system
need not keep them when it switches to another.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from boli.cpu import simd
from boli.cpu.simd import F32X16, I8, I8X64, I64, Builder, Value, declare
from boli.cpu.sizes import F4, LARGEST_TILE, QUERY_STRIDE
from boli.cpu.tiles import LINE, VECTOR_BYTES, offset

PAIRS = VECTOR_BYTES // F4  # in a row of a register, and rows of a register of keys or values
SUMS, LEFT, RIGHT = (0, 1), 2, (3, 4)  # registers
ANYTHING = I8.as_pointer()

# What LDTILECFG reads: the palette, from byte 16 on bytes of a row, from byte 48 on rows of each register.
SIZES = [1] + [0] * (VECTOR_BYTES - 1)
for _register in (*SUMS, LEFT, *RIGHT):
    SIZES[16 + 2 * _register] = VECTOR_BYTES
    SIZES[48 + _register] = PAIRS if _register in RIGHT else LARGEST_TILE


@simd.operation(simd.void)
def configure(b: Builder) -> None:
    """Sizes of this thread's registers."""
    place = cgutils.alloca_once(b, I8X64)
    b.store(ir.Constant(I8X64, SIZES), place)
    b.call(declare(b, "llvm.x86.ldtilecfg", ir.VoidType(), ANYTHING), [b.bitcast(place, ANYTHING)])


@simd.operation(simd.void)
def release(b: Builder) -> None:
    """Empties this thread's registers."""
    b.call(declare(b, "llvm.x86.tilerelease", ir.VoidType()), [])


def _zero(b: Builder) -> None:
    """Both registers of sums."""
    for register in SUMS:
        b.call(declare(b, "llvm.x86.tilezero", ir.VoidType(), I8), [ir.Constant(I8, register)])


def _move(b: Builder, name: str, register: int, address: Value, stride: Value | int) -> None:
    """Rows of a register from or to memory, `stride` bytes apart."""
    stride = ir.Constant(I64, stride) if isinstance(stride, int) else stride
    function = declare(b, f"llvm.x86.{name}", ir.VoidType(), I8, ANYTHING, I64)
    b.call(function, [ir.Constant(I8, register), simd.pointer(b, address, I8), stride])


def _multiply(b: Builder, right: Value, right_stride: Value, left: Value, left_stride: int) -> None:
    """Adds the products of six rows and 16 rows of 32 pairs to both registers of sums."""
    product = declare(b, "llvm.x86.tdpbf16ps", ir.VoidType(), I8, I8, I8)
    _move(b, "tileloadd64", LEFT, left, left_stride)
    for n, register in enumerate(RIGHT):
        _move(b, "tileloadd64", register, offset(b, right, n * VECTOR_BYTES), right_stride)
        b.call(product, [ir.Constant(I8, each) for each in (SUMS[n], LEFT, register)])


def _store(b: Builder, address: Value, stride: Value | int) -> None:
    """Both registers of sums: six rows of 32 numbers."""
    for n, register in enumerate(SUMS):
        _move(b, "tilestored64", register, offset(b, address, n * VECTOR_BYTES), stride)


def score_tile() -> Any:
    """In place of attention's `product_tile`: y = queries · keys, of six queries."""

    def emit(
        b: Builder, keys: Value, keys_stride: Value, depth: Value, queries: Value,
        y: Value, y_stride: Value, *_: Value,
    ) -> None:  # fmt: skip
        _zero(b)
        with cgutils.for_range(b, b.udiv(depth, ir.Constant(I64, PAIRS)), intp=I64) as loop:
            right = offset(b, keys, b.mul(b.mul(loop.index, ir.Constant(I64, PAIRS)), keys_stride))
            left = offset(b, queries, b.mul(loop.index, ir.Constant(I64, VECTOR_BYTES)))
            _multiply(b, right, keys_stride, left, QUERY_STRIDE)
        _store(b, y, y_stride)

    emit.__name__ = "amx_score_tile"
    return simd.operation(simd.void, *([simd.i64] * 8))(emit)


def mixing_tile(rows: int) -> Any:
    """In place of `tiles.mixing_tile`, for a page: y ← y · shrink + Σ w a, of `rows` queries."""

    def emit(
        b: Builder, values: Value, values_stride: Value, _: Value, probabilities: Value,
        y: Value, y_stride: Value, shrink: Value,
    ) -> None:  # fmt: skip
        _zero(b)
        _multiply(b, values, values_stride, probabilities, LINE)
        with b.goto_entry_block():  # once, and not filled with zeros, as `alloca_once` does
            room = b.alloca(ir.ArrayType(I8X64, LARGEST_TILE * len(SUMS)))
        room.align = VECTOR_BYTES
        mixed = b.ptrtoint(room, I64)
        _store(b, mixed, LINE)
        for m in range(rows):
            factor = simd.splat(b, simd.emit_load(b, offset(b, shrink, F4 * m), simd.F32, 4), F32X16)
            row = offset(b, y, b.mul(y_stride, ir.Constant(I64, m)))
            for n in range(len(SUMS)):
                place = simd.pointer(b, offset(b, row, n * VECTOR_BYTES), F32X16)
                added = simd.emit_load(b, offset(b, mixed, m * LINE + n * VECTOR_BYTES), F32X16, 4)
                b.store(simd.emit_fma(b, b.load(place, align=4), factor, added), place, align=4)

    emit.__name__ = f"amx_mixing_tile_{rows}"
    return simd.operation(simd.void, *([simd.i64] * 7))(emit)
